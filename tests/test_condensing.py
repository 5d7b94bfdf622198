"What a learngene keeps, bit for bit, and what saving it survives."
import json
import math
import os

import pytest
import torch
from conftest import ZOO, make, pictures

import learngene as lg
from learngene.condensing import gather


def equal(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def copy_of(state):
    return {k: v.clone() for k, v in state.items()}


@pytest.mark.parametrize("size, wanted", [(32, 10 * 32 / 224), (224, 10.0), ((24, 40), 10 * 40 / 224)])
def test_eps_is_scaled_with_the_image(size, wanted):
    model = make("plain", img_size=size, depth=1)
    found = lg.condense(model, pictures(model, 1)).how
    assert found["eps"] == pytest.approx(wanted) and found["ffn_eps"] == pytest.approx(wanted) and found["min_heads"] == 1


def test_eps_given():
    model = make("plain")
    x = pictures(model)
    assert {k: lg.condense(model, x, eps=0.2).how[k] for k in ("eps", "ffn_eps")} == dict(eps=0.2, ffn_eps=0.2)
    assert {k: lg.condense(model, x, eps=0.2, ffn_eps=3).how[k] for k in ("eps", "ffn_eps")} == dict(eps=0.2, ffn_eps=3)
    assert {k: lg.condense(model, x, ffn_eps=3).how[k] for k in ("eps", "ffn_eps")} == dict(eps=pytest.approx(10 * 32 / 224), ffn_eps=3)


def test_an_eps_that_clusters_everything_is_told_who_did_not_choose_it(recwarn):
    model = make("plain")
    x = pictures(model)
    with pytest.warns(UserWarning, match=r"Eps = 1.43 px, the paper's 10 px at this image size, leaves one head a layer: .* at most \d\.\d+ px .*smaller eps"):
        assert all(len(layer) == 1 for layer in lg.condense(model, x).clusters)
    recwarn.clear()
    for options in (dict(eps=1.43), dict(cluster_by="kmeans", k=1)):
        assert all(len(layer) == 1 for layer in lg.condense(model, x, **options).clusters)
    assert not recwarn


@pytest.mark.parametrize("eps, ffn_eps, min_heads, rule", [(0.1, None, 1, "printed"), (0.3, 2.0, 1, "stated"), (0.5, 0.01, 2, "printed")])
def test_clusters_and_groups_follow_from_the_distances(eps, ffn_eps, min_heads, rule):
    model = make("plain", seed=3)
    x = pictures(model)
    d = lg.mean_attention_distance(model, x)
    found = lg.condense(model, x, eps, ffn_eps, min_heads, rule)
    assert torch.equal(found.distances, d)
    assert found.clusters == [lg.cluster_heads(row, eps, min_heads) for row in d]
    assert found.ffn_groups == lg.cluster_ffns(d, found.clusters, ffn_eps or eps, rule)
    assert found.how["rule"] == rule and found.n_centroids == [len(layer) for layer in found.clusters]


def test_max_images():
    model = make("plain")
    x = pictures(model, 4)
    assert torch.equal(lg.condense(model, x, max_images=2).distances, lg.mean_attention_distance(model, x[:2]))


@pytest.mark.parametrize("name", ZOO)
def test_kept_bit_for_bit(name):
    "Every tensor of the ancestry is kept, cut to centroids, or belongs to an FFN that another layer lends; nothing else is there."
    model = make(name, seed=2)
    state = copy_of(model.state_dict())
    found = lg.condense(model, pictures(model), eps=0.25, ffn_eps=2.0)
    heads, hd = model.blocks[0].attn.num_heads, model.blocks[0].attn.head_dim
    wanted = {}
    for key, t in state.items():
        layer = int(key.split(".")[1]) if key.startswith("blocks.") else None
        if layer is not None and key.split(".")[3:4] == ["qkv"]:
            parts = []
            for which in range(3):
                for cluster in found.clusters[layer]:
                    first = which * heads * hd + cluster.centroid * hd
                    parts.append(t[first:first + hd])
            wanted[key] = torch.stack(parts).view(3, len(found.clusters[layer]), hd, *t.shape[1:])
        elif layer is None or key.split(".")[2] != "mlp" or layer in [g[0] for g in found.ffn_groups]:
            wanted[key] = t
    assert found.tensors.keys() == wanted.keys()
    assert all(equal(found.tensors[k], wanted[k]) for k in wanted)
    assert found.n_params == sum(t.numel() for t in wanted.values())
    assert all(equal(v, model.state_dict()[k]) for k, v in state.items())  # the ancestry is as it was


def test_the_tests_above_see_real_clusters():
    "At least one model of the zoo has a layer of several clusters, a cluster of several heads, and a shared FFN at these limits."
    seen = set()
    for name in ZOO:
        model = make(name, seed=2)
        found = lg.condense(model, pictures(model), eps=0.25, ffn_eps=2.0) if name != "siglip" else None
        if found:
            seen |= {"several"} if max(found.n_centroids) > 1 else set()
            seen |= {"joined"} if any(c.size > 1 for layer in found.clusters for c in layer) else set()
            seen |= {"shared"} if any(len(g) > 1 for g in found.ffn_groups) else set()
    assert seen == {"several", "joined", "shared"}


def test_a_learngene_does_not_share_memory_with_the_ancestry():
    model = make("plain")
    found = lg.condense(model, pictures(model), eps=0.2)
    before = copy_of(found.tensors)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    assert all(equal(before[k], t) for k, t in found.tensors.items())
    assert not any(t.requires_grad for t in found.tensors.values())


def test_half_precision_ancestry():
    "The learngene of a bf16 model makes descendants that run."
    model = make("plain").bfloat16()
    x = pictures(model).bfloat16()
    found = lg.condense(model, x, eps=100, ffn_eps=100)
    for ffn in ("copy", "transform"):
        child = lg.inherit(found, num_classes=3, ffn=ffn)
        assert len({p.dtype for p in child.parameters()}) == 1
        assert child(x.to(next(child.parameters()).dtype)).shape == (3, 3)


def test_noise_only():
    model = make("plain")
    with pytest.raises(ValueError, match=r"layers \[0, 1, 2\].*no cluster.*eps"):
        lg.condense(model, pictures(model), eps=1e-6, min_heads=3)


@pytest.mark.parametrize("bad, words", [(dict(eps=0), "eps"), (dict(eps=-1.0), "eps"), (dict(ffn_eps=0), "eps"), (dict(min_heads=0), "min_heads"), (dict(rule="state"), "stated")])
def test_bad_options(bad, words):
    model = make("plain")
    with pytest.raises(ValueError, match=words):
        lg.condense(model, pictures(model), **bad)


@pytest.mark.parametrize("bad, words", [(dict(eps="0.1"), "eps is '0.1'"), (dict(ffn_eps=float("nan")), "ffn_eps is nan"), (dict(cluster_by="kmeans"), "k is None"), (dict(rule="x"), "rule"), (dict(centroid="x"), "centroid")])
def test_bad_options_are_refused_before_an_image_is_looked_at(bad, words):
    with pytest.raises(ValueError, match=words):
        lg.condense(make("plain"), None, **bad)


def test_a_descendant_that_is_not_merged_is_refused_before_an_image_is_looked_at():
    model = make("plain")
    child = lg.inherit(lg.condense(model, pictures(model), eps=100.0))  # all layers share an FFN
    for call in (lambda: lg.condense(child, None), lambda: lg.vit.count_flops(child)):
        with pytest.raises(TypeError, match="FFNs still share weights; call `merge` first"):
            call()
    assert lg.vit.count_flops(lg.merge(child)) == lg.vit.count_flops(model)


def test_unequal_head_counts_are_saved_as_plain_json(tmp_path):
    model = make("plain")
    uneven = lg.inherit(lg.condense(model, pictures(model), eps=1e-9, ffn_eps=1e-9), heads=[2, 4, 3], ffn="copy")
    found = lg.condense(uneven, pictures(model), eps=1e-9, ffn_eps=1e-9)
    text = (found.save(tmp_path / "g") / "config.json").read_text()
    assert "NaN" not in text and "null" in text
    again = lg.Learngene.load(tmp_path / "g").distances
    assert again.isnan().sum() == 3 and torch.equal(again.nan_to_num(-1), found.distances.nan_to_num(-1))


def test_how_images_are_made_ready_travels_to_descendants(tmp_path):
    from timm.data import resolve_model_data_config

    model = make("timm dinov2")
    child = lg.inherit(lg.Learngene.load(lg.condense(model, pictures(model), eps=100.0).save(tmp_path / "g")), depth=1, heads=2)
    lg.save_descendant(child, tmp_path / "c")
    for m in (child, lg.load_descendant(tmp_path / "c")):
        assert resolve_model_data_config(m) == resolve_model_data_config(model) | dict(input_size=(3, 56, 56))


def test_not_a_vit():
    with pytest.raises(TypeError, match="cannot be cut into heads"):
        lg.condense(torch.nn.Linear(2, 2), torch.zeros(1, 3, 8, 8))


def a_learngene(seed=3):
    model = make("dinov2", seed=seed)
    return lg.condense(model, pictures(model), eps=0.3, ffn_eps=2.0)


def same(a, b):
    return (a.config == b.config and a.clusters == b.clusters and a.ffn_groups == b.ffn_groups and a.how == b.how
            and equal(a.distances, b.distances) and a.tensors.keys() == b.tensors.keys() and all(equal(t, b.tensors[k]) for k, t in a.tensors.items()))


def test_save_and_load(tmp_path):
    found = a_learngene()
    found.save(tmp_path / "deep" / "g")
    again = lg.Learngene.load(tmp_path / "deep" / "g")
    assert same(found, again) and isinstance(again.clusters[0][0], lg.HeadCluster) and isinstance(again.clusters[0][0].heads, tuple)
    assert repr(again) == repr(found)
    assert {p.name for p in (tmp_path / "deep" / "g").iterdir()} == {"config.json", "model.safetensors"}
    a, b = lg.inherit(found, heads=6), lg.inherit(again, heads=6)
    assert all(equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    found.save(str(tmp_path / "deep" / "g"))  # once more, in place
    assert same(found, lg.Learngene.load(tmp_path / "deep" / "g"))


def test_without_distances(tmp_path):
    model = make("plain")
    clusters = [[lg.HeadCluster((0, 1, 2, 3), 1, 0.0)]] * 3
    gather(model, clusters, [[0], [1, 2]]).save(tmp_path / "g")
    assert lg.Learngene.load(tmp_path / "g").distances is None


def test_fingerprint_of_the_ancestry_is_kept():
    model = make("plain")
    a = lg.condense(model, pictures(model)).how["ancestry"]
    with torch.no_grad():
        model.norm.bias[0] += 1
    assert a != lg.condense(model, pictures(model)).how["ancestry"]


def damage(kind):
    def do(path):
        config, tensors = path / "config.json", path / "model.safetensors"
        if kind == "cut tensors":
            tensors.write_bytes(tensors.read_bytes()[:-10])
        elif kind == "cut config":
            config.write_text(config.read_text()[:200])
        elif kind == "foreign tensors":
            tensors.write_bytes(b"PK\x03\x04 a zip file, such as torch.save writes")
        elif kind == "schema":
            config.write_text(json.dumps(json.loads(config.read_text()) | dict(schema=99)))
        elif kind == "descendant":
            lg.save_descendant(make("plain"), path)
        elif kind == "foreign config":
            config.write_text('{"architecture": "vit_tiny"}')
    return do


@pytest.mark.parametrize("kind", ["cut tensors", "cut config", "foreign tensors", "schema", "descendant", "foreign config"])
def test_damaged(tmp_path, kind):
    a_learngene().save(tmp_path / "g")
    damage(kind)(tmp_path / "g")
    with pytest.raises(ValueError, match="truncated|schema|format|safetensors"):
        lg.Learngene.load(tmp_path / "g")


def test_a_lost_tensor_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    a_learngene().save(tmp_path / "g")
    file = tmp_path / "g" / "model.safetensors"
    tensors = load_file(file)
    del tensors["blocks.1.norm2.bias"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"blocks\.1\.norm2\.bias"):
        lg.inherit(lg.Learngene.load(tmp_path / "g"))


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_absent(tmp_path, name):
    with pytest.raises(FileNotFoundError):
        lg.Learngene.load(tmp_path / name)


@pytest.mark.parametrize("step", ["tensors", "config", "first move", "second move"])
def test_interrupted_save_keeps_the_old_one(tmp_path, monkeypatch, step):
    import pathlib

    import safetensors.torch

    old, new = a_learngene(3), a_learngene(4)
    old.save(tmp_path / "g")
    calls = []

    def stop(*a, **k):
        raise KeyboardInterrupt

    if step == "tensors":
        def half(tensors, file, **k):
            pathlib.Path(file).write_bytes(b"half")
            stop()
        monkeypatch.setattr(safetensors.torch, "save_file", half)
    elif step == "config":
        monkeypatch.setattr(pathlib.Path, "write_text", stop)
    else:
        move = os.replace

        def moves(*a):
            calls.append(a)
            return stop() if len(calls) == (1 if step == "first move" else 2) else move(*a)
        monkeypatch.setattr(os, "replace", moves)
    with pytest.raises(KeyboardInterrupt):
        new.save(tmp_path / "g")
    monkeypatch.undo()
    assert same(old, lg.Learngene.load(tmp_path / "g"))
    assert [p.name for p in tmp_path.iterdir()] == ["g"]


def test_repr_counts():
    found = a_learngene()
    text = repr(found)
    assert f"{sum(found.n_centroids)} of 12 heads" in text and f"{len(found.ffn_groups)} of 3 FFNs" in text and math.isfinite(found.n_params)
