"What a learngene keeps, bit for bit, and what saving it survives."
import json
import math
import os
import pathlib

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import ZOO, make, pictures
from timm.data import resolve_model_data_config

import learngene as lg
from learngene.condense_options import in_pixels
from learngene.condensing import gather
from learngene.paper import published_distances


def equal(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def copy_of(state):
    return {name: t.clone() for name, t in state.items()}


@pytest.fixture(scope="module")
def plain():
    "A small ancestry and its calibration images; not to be changed."
    model = make("plain")
    return model, pictures(model)


# ---- options

@pytest.mark.parametrize("size, wanted", [(32, 10 * 32 / 224), (224, 10.0), ((24, 40), 10 * 40 / 224)])
def test_default_eps_is_scaled_to_the_image_size(size, wanted):
    model = make("plain", img_size=size, depth=1)
    provenance = lg.condense(model, pictures(model, 1)).provenance
    assert provenance["eps"] == pytest.approx(wanted) and provenance["ffn_eps"] == pytest.approx(wanted)
    assert provenance["min_heads"] == 1


@pytest.mark.parametrize("given, eps, ffn_eps", [
    (dict(eps=0.2), 0.2, 0.2), (dict(eps=0.2, ffn_eps=3), 0.2, 3), (dict(ffn_eps=3), 10 * 32 / 224, 3),
])
def test_ffn_eps_follows_eps(plain, given, eps, ffn_eps):
    provenance = lg.condense(*plain, **given).provenance
    assert (provenance["eps"], provenance["ffn_eps"]) == (pytest.approx(eps), ffn_eps)


@pytest.mark.parametrize("eps, share", [("8%", 0.08), (" 12.5 %", 0.125), ("100%", 1.0)])
def test_eps_as_a_share_of_what_the_heads_span(plain, eps, share):
    "The largest minus the smallest distance of all heads, times the share; FFNs follow."
    distances = lg.mean_attention_distance(*plain)
    pixels = share * float(distances.max() - distances.min())
    learngene = lg.condense(*plain, eps=eps)
    assert learngene.provenance["eps"] == learngene.provenance["ffn_eps"] == pytest.approx(pixels)
    assert learngene.clusters == lg.condense(*plain, eps=pixels).clusters
    assert lg.condense(*plain, eps=1.0, ffn_eps=eps).provenance["ffn_eps"] == pytest.approx(pixels)


def test_eight_percent_is_the_papers_ten_pixels_in_deit_base():
    "144 published distances: the rule keeps as many centroids as 10 px do, but for one head."
    published = published_distances()
    eps = in_pixels("8%", published)
    assert 0.078 < 10 / np.ptp(published.numpy()) < 0.08 and eps == pytest.approx(10.14, abs=0.01)
    counts = [sum(len(lg.cluster_heads(row, limit)) for row in published) for limit in (10.0, eps)]
    assert counts == [43, 42]


def test_heads_that_are_all_alike_make_one_cluster():
    assert in_pixels("8%", torch.full((2, 3), 5.0)) == 1e-6
    assert in_pixels("50%", torch.tensor([[1.0, 3.0], [2.0, torch.nan]])) == 1.0  # layers of different head counts


def test_warns_when_the_default_eps_keeps_one_head_in_every_layer(plain, recwarn):
    message = (r"Eps = 1.43 px, the paper's 10 px at this image size, leaves one head in every layer: "
               r".* at most \d\.\d+ px.*smaller eps")
    with pytest.warns(UserWarning, match=message) as warned:
        assert lg.condense(*plain).n_centroids == [1, 1, 1]
    assert warned[0].filename == __file__  # it points at the caller
    recwarn.clear()
    for options in (dict(eps=1.43), dict(cluster_by="kmeans", k=1)):
        assert lg.condense(*plain, **options).n_centroids == [1, 1, 1]
    assert not recwarn


@pytest.mark.parametrize("eps, ffn_eps, min_heads, rule", [
    (0.1, None, 1, "printed"), (0.3, 2.0, 1, "stated"), (0.5, 0.01, 2, "printed"),
])
def test_clusters_and_groups_follow_from_the_distances(eps, ffn_eps, min_heads, rule):
    model = make("plain", seed=3)
    x = pictures(model)
    distances = lg.mean_attention_distance(model, x)
    learngene = lg.condense(model, x, eps, ffn_eps, min_heads, rule)
    assert torch.equal(learngene.distances, distances)
    assert learngene.clusters == [lg.cluster_heads(row, eps, min_heads) for row in distances]
    assert learngene.ffn_groups == lg.cluster_ffns(distances, learngene.clusters, ffn_eps or eps, rule)
    assert learngene.provenance["rule"] == rule
    assert learngene.n_centroids == [len(layer) for layer in learngene.clusters]


def test_max_images():
    model = make("plain")
    x = pictures(model, 4)
    learngene = lg.condense(model, x, max_images=2, eps=0.2)
    assert torch.equal(learngene.distances, lg.mean_attention_distance(model, x[:2]))


def test_noise_alone_raises(plain):
    with pytest.raises(ValueError, match=r"layers \[1, 2, 3\] \(from 1\).*no cluster.*eps"):
        lg.condense(*plain, eps=1e-6, min_heads=3)


@pytest.mark.parametrize("bad, words", [
    (dict(eps=0), "eps"), (dict(eps=-1.0), "eps"), (dict(ffn_eps=0), "eps"), (dict(min_heads=0), "min_heads"),
    (dict(rule="state"), "did you mean 'stated'"),
])
def test_bad_options_raise(plain, bad, words):
    with pytest.raises(ValueError, match=words):
        lg.condense(*plain, **bad)


@pytest.mark.parametrize("bad, words", [
    (dict(eps="0.1"), "eps is '0.1'"), (dict(eps="0%"), "eps is '0%'"),
    (dict(ffn_eps="101%"), "ffn_eps is '101%'.*at most 100%"), (dict(eps="-8%"), "a share such as '8%'"),
    (dict(ffn_eps=float("nan")), "ffn_eps is nan"),
    (dict(cluster_by="kmeans"), "k is None"), (dict(rule="x"), "rule"), (dict(centroid="x"), "centroid"),
])
def test_bad_options_raise_before_an_image_is_read(plain, bad, words):
    with pytest.raises(ValueError, match=words):
        lg.condense(plain[0], None, **bad)


def test_unmerged_descendants_raise_before_an_image_is_read(plain):
    model = plain[0]
    child = lg.inherit(lg.condense(*plain, eps=100.0))  # all layers share an FFN
    for call in (lambda: lg.condense(child, None), lambda: lg.vit.count_flops(child)):
        with pytest.raises(TypeError, match="FFNs still share weights; call `merge` first"):
            call()
    assert lg.vit.count_flops(lg.merge(child)) == lg.vit.count_flops(model)


def test_other_modules_raise():
    with pytest.raises(TypeError, match="cannot be cut into heads"):
        lg.condense(torch.nn.Linear(2, 2), torch.zeros(1, 3, 8, 8))


# ---- tensors

def tensors_by_hand(state, learngene, n_heads, head_dim):
    "What a learngene keeps of a state dict, one head at a time."
    wanted = {}
    for name, t in state.items():
        layer = int(name.split(".")[1]) if name.startswith("blocks.") else None
        if layer is not None and name.split(".")[3:4] == ["qkv"]:
            rows = []
            for which in range(3):
                for cluster in learngene.clusters[layer]:
                    first = which * n_heads * head_dim + cluster.centroid * head_dim
                    rows.append(t[first:first + head_dim])
            wanted[name] = torch.stack(rows).view(3, len(learngene.clusters[layer]), head_dim, *t.shape[1:])
        elif layer is None or name.split(".")[2] != "mlp" or layer in [g[0] for g in learngene.ffn_groups]:
            wanted[name] = t
    return wanted


@pytest.fixture(scope="module")
def condensed_zoo():
    "name -> (ancestry, its state before, learngene)"
    zoo = {}
    for name in ZOO:
        model = make(name, seed=2)
        state = copy_of(model.state_dict())
        zoo[name] = model, state, lg.condense(model, pictures(model), eps=0.25, ffn_eps=2.0)
    return zoo


@pytest.mark.parametrize("name", ZOO)
def test_tensors_are_kept_bit_for_bit(condensed_zoo, name):
    "Every tensor is kept, cut to centroids, or belongs to an FFN that another layer lends; no other is stored."
    model, state, learngene = condensed_zoo[name]
    attn = model.blocks[0].attn
    wanted = tensors_by_hand(state, learngene, attn.num_heads, attn.head_dim)
    assert learngene.tensors.keys() == wanted.keys()
    assert all(equal(learngene.tensors[k], wanted[k]) for k in wanted)
    assert learngene.n_params == sum(t.numel() for t in wanted.values())
    assert all(equal(v, model.state_dict()[k]) for k, v in state.items())  # the ancestry is unchanged


def test_the_zoo_has_real_clusters(condensed_zoo):
    "Some layer has several clusters, some cluster several heads, and some FFN is shared."
    learngenes = [learngene for name, (_, _, learngene) in condensed_zoo.items() if name != "siglip"]
    assert any(max(g.n_centroids) > 1 for g in learngenes)
    assert any(c.size > 1 for g in learngenes for layer in g.clusters for c in layer)
    assert any(len(group) > 1 for g in learngenes for group in g.ffn_groups)


def test_a_learngene_does_not_share_memory_with_the_ancestry():
    model = make("plain")
    learngene = lg.condense(model, pictures(model), eps=0.2)
    before = copy_of(learngene.tensors)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    assert all(equal(before[k], t) for k, t in learngene.tensors.items())
    assert not any(t.requires_grad for t in learngene.tensors.values())


def test_descendants_of_a_half_precision_ancestry_run():
    model = make("plain").bfloat16()
    x = pictures(model).bfloat16()
    learngene = lg.condense(model, x, eps=100, ffn_eps=100)
    for ffn in ("copy", "transform"):
        child = lg.inherit(learngene, num_classes=3, ffn=ffn)
        assert len({p.dtype for p in child.parameters()}) == 1
        assert child(x.to(next(child.parameters()).dtype)).shape == (3, 3)


def test_the_fingerprint_of_the_ancestry_is_kept():
    model = make("plain")
    x = pictures(model)
    before = lg.condense(model, x, eps=0.2).provenance["ancestry"]
    with torch.no_grad():
        model.norm.bias[0] += 1
    assert before != lg.condense(model, x, eps=0.2).provenance["ancestry"]


def test_repr_counts():
    learngene = a_learngene()
    text = repr(learngene)
    assert f"{sum(learngene.n_centroids)} of 12 heads" in text and f"{len(learngene.ffn_groups)} of 3 FFNs" in text
    assert math.isfinite(learngene.n_params)


def test_repr_counts_layers_from_1():
    model = make("plain")
    clusters = [[lg.HeadCluster((0, 1, 2, 3), 1, 0.0)]] * 3
    assert "from 1: [[2, 3]]" in repr(gather(model, clusters, [[0], [1, 2]]))


# ---- files

def a_learngene(seed=3):
    model = make("dinov2", seed=seed)
    return lg.condense(model, pictures(model), eps=0.3, ffn_eps=2.0)


def same(a, b):
    fields = ("config", "clusters", "ffn_groups", "provenance")
    return (all(getattr(a, field) == getattr(b, field) for field in fields) and equal(a.distances, b.distances)
            and a.tensors.keys() == b.tensors.keys() and all(equal(t, b.tensors[k]) for k, t in a.tensors.items()))


def test_save_and_load(tmp_path):
    learngene, folder = a_learngene(), tmp_path / "deep" / "g"
    learngene.save(folder)
    again = lg.Learngene.load(folder)
    assert same(learngene, again) and repr(again) == repr(learngene)
    assert isinstance(again.clusters[0][0], lg.HeadCluster) and isinstance(again.clusters[0][0].heads, tuple)
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors"}
    a, b = lg.inherit(learngene, heads=6), lg.inherit(again, heads=6)
    assert all(equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    learngene.save(str(folder))  # once more, in place
    assert same(learngene, lg.Learngene.load(folder))


def test_the_file_format_is_the_released_one(tmp_path):
    "Provenance is written as `how`, which earlier versions read; the attribute keeps that name too."
    learngene = a_learngene()
    config = json.loads((learngene.save(tmp_path / "g") / "config.json").read_text())
    assert set(config) == {"format", "schema", "config", "clusters", "ffn_groups", "how", "distances"}
    assert config["how"] == learngene.provenance == learngene.how and config["schema"] == 1


def test_unequal_head_counts_are_saved_as_plain_json(tmp_path, plain):
    model, x = plain
    uneven = lg.inherit(lg.condense(model, x, eps=1e-9, ffn_eps=1e-9), heads=[2, 4, 3], ffn="copy")
    learngene = lg.condense(uneven, x, eps=1e-9, ffn_eps=1e-9)
    text = (learngene.save(tmp_path / "g") / "config.json").read_text()
    assert "NaN" not in text and "null" in text
    again = lg.Learngene.load(tmp_path / "g").distances
    assert again.isnan().sum() == 3 and torch.equal(again.nan_to_num(-1), learngene.distances.nan_to_num(-1))


def test_preprocessing_travels_to_descendants(tmp_path):
    model = make("timm dinov2")
    folder = lg.condense(model, pictures(model), eps=100.0).save(tmp_path / "g")
    child = lg.inherit(lg.Learngene.load(folder), depth=1, heads=2)
    lg.save_descendant(child, tmp_path / "c")
    for m in (child, lg.load_descendant(tmp_path / "c")):
        assert resolve_model_data_config(m) == resolve_model_data_config(model) | dict(input_size=(3, 56, 56))


def test_without_distances(tmp_path, plain):
    clusters = [[lg.HeadCluster((0, 1, 2, 3), 1, 0.0)]] * 3
    gather(plain[0], clusters, [[0], [1, 2]]).save(tmp_path / "g")
    assert lg.Learngene.load(tmp_path / "g").distances is None


def cut_tensors(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def cut_config(folder):
    file = folder / "config.json"
    file.write_text(file.read_text()[:200])


def foreign_tensors(folder):
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04 a zip file, such as torch.save writes")


def later_schema(folder):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(schema=99)))


def descendant(folder):
    lg.save_descendant(make("plain"), folder)


def foreign_config(folder):
    (folder / "config.json").write_text('{"architecture": "vit_tiny"}')


@pytest.mark.parametrize("damage", [cut_tensors, cut_config, foreign_tensors, later_schema, descendant, foreign_config])
def test_damaged_folders_raise(tmp_path, damage):
    a_learngene().save(tmp_path / "g")
    damage(tmp_path / "g")
    with pytest.raises(ValueError, match="truncated|schema|format|safetensors"):
        lg.Learngene.load(tmp_path / "g")


def test_a_missing_tensor_is_named(tmp_path):
    a_learngene().save(tmp_path / "g")
    file = tmp_path / "g" / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    del tensors["blocks.1.norm2.bias"]
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(ValueError, match=r"blocks\.1\.norm2\.bias"):
        lg.inherit(lg.Learngene.load(tmp_path / "g"))


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_missing_folders_raise(tmp_path, name):
    with pytest.raises(FileNotFoundError):
        lg.Learngene.load(tmp_path / name)


@pytest.mark.parametrize("step", ["tensors", "config", "first move", "second move"])
def test_an_interrupted_save_keeps_the_former_folder(tmp_path, monkeypatch, step):
    former, latter = a_learngene(3), a_learngene(4)
    former.save(tmp_path / "g")
    calls = []

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    def write_half(tensors, file, **kwargs):
        pathlib.Path(file).write_bytes(b"half")
        stop()

    def move(*args, real=os.replace):
        calls.append(args)
        return stop() if len(calls) == (1 if step == "first move" else 2) else real(*args)

    if step == "tensors":
        monkeypatch.setattr(safetensors.torch, "save_file", write_half)
    elif step == "config":
        monkeypatch.setattr(pathlib.Path, "write_text", stop)
    else:
        monkeypatch.setattr(os, "replace", move)
    with pytest.raises(KeyboardInterrupt):
        latter.save(tmp_path / "g")
    monkeypatch.undo()
    assert same(former, lg.Learngene.load(tmp_path / "g"))
    assert [p.name for p in tmp_path.iterdir()] == ["g"]
