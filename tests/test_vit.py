"Describing, building, saving and measuring models, against timm's own."
import itertools
import json
import shutil

import pytest
import timm
import torch
from conftest import SMALL, ZOO, make, pictures, shake
from timm.models.vision_transformer import VisionTransformer

from learngene import vit
from learngene.files import check_folder


@pytest.mark.parametrize("name", ZOO)
def test_described_and_rebuilt(name):
    model = make(name)
    config = json.loads(json.dumps(vit.vit_config(model)))
    assert config == vit.vit_config(model)
    twin = vit.build_vit(config)
    assert all(p.is_meta for p in twin.parameters()) and not twin.training and type(twin) is type(model)
    vit.fill_vit(twin, {k: v.clone() for k, v in model.state_dict().items()})
    x = pictures(model)
    with torch.no_grad():
        assert torch.equal(twin(x), model(x)) and torch.equal(twin.forward_features(x), model.forward_features(x))


@pytest.mark.parametrize("name", ZOO)
def test_saved_and_loaded(name, tmp_path):
    model = make(name).train()
    vit.save_vit(model, tmp_path / "m", note=[1, 2])
    assert model.training
    loaded = vit.load_vit(tmp_path / "m")
    assert not loaded.training and vit.vit_extra(tmp_path / "m") == {"note": [1, 2]}
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and not p.is_meta for p in loaded.parameters())
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]
    assert not list(tmp_path.glob(".*"))


def test_flags_that_are_not_weights_survive():
    model = make("plain", dynamic_img_size=True, dynamic_img_pad=True)
    twin = vit.build_vit(vit.vit_config(model))
    vit.fill_vit(twin, model.state_dict())
    x = torch.randn(2, 3, 30, 41)
    with torch.no_grad():
        assert torch.equal(twin(x), model(x))


def test_an_activation_that_cannot_be_named_is_refused_or_kept():
    from functools import partial

    model = make("plain", act_layer=partial(torch.nn.GELU, approximate="tanh"))
    x = pictures(model)
    try:
        twin = vit.fill_vit(vit.build_vit(vit.vit_config(model)), model.state_dict())
    except TypeError:
        return
    with torch.no_grad():
        assert torch.equal(twin(x), model(x))


def test_pool_width_survives_rounding():
    "int(dim * (width / dim)) is not always width; map pooling has an FFN of that width."
    dim, width = next((d, w) for d in range(8, 200, 8) for w in range(d, 4 * d) if int(d * (w / d)) != w)
    options = dict(embed_dim=dim, num_heads=1, depth=1, class_token=False, global_pool="map")
    model = VisionTransformer(**SMALL | options, mlp_ratio=(width + 0.5) / dim)
    assert model.attn_pool.mlp.fc1.out_features == width
    vit.vit_config(model)


def test_half_precision_file(tmp_path):
    model = make("plain")
    vit.save_vit(model, tmp_path / "m", dtype=torch.float16)
    loaded = vit.load_vit(tmp_path / "m").state_dict()
    for k, v in model.state_dict().items():
        assert loaded[k].dtype == torch.float32 and torch.equal(loaded[k], v.half().float()), k


def test_any_heads_and_widths():
    config = vit.vit_config(make("plain")) | dict(heads=[1, 7, 3], ffn_width=[128, 100, 5])
    model = shake(vit.build_vit(config, device="cpu"))
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert [shapes[f"blocks.{i}.attn.qkv.weight"] for i in range(3)] == [(3 * n * 8, 32) for n in (1, 7, 3)]
    assert [shapes[f"blocks.{i}.mlp.fc1.weight"] for i in range(3)] == [(128, 32), (100, 32), (5, 32)]
    assert vit.vit_config(model) == config and model(pictures(model)).shape == (3, 5)


def test_random_weights_have_timms_distribution():
    "Same seed, same shape: the built model has timm's initial distribution, and depends on the seed alone."
    config = vit.vit_config(make("dinov2"))
    torch.manual_seed(0)
    a = vit.build_vit(config, device="cpu").state_dict()
    torch.manual_seed(0)
    b = vit.build_vit(config, device="cpu").state_dict()
    fresh = VisionTransformer(reg_tokens=4, no_embed_class=True, init_values=1e-5, **SMALL).state_dict()
    for k in fresh:
        assert torch.equal(a[k], b[k]) and a[k].isfinite().all(), k
        deviation, expected = (t.std(unbiased=False).item() for t in (a[k], fresh[k]))
        assert deviation == pytest.approx(expected, rel=0.35, abs=1e-6), k


def models_without_heads():
    return [
        torch.nn.Linear(3, 3), timm.create_model("resnet18"), timm.create_model("mixer_s32_224"),
        timm.create_model("hiera_tiny_224"), timm.create_model("cait_xxs24_224", depth=1),
        VisionTransformer(block_fn=timm.models.vision_transformer.ParallelThingsBlock, **SMALL),
        VisionTransformer(block_fn=timm.models.vision_transformer.ParallelScalingBlock, **SMALL),
        VisionTransformer(scale_attn_norm=True, **SMALL),
    ]


def test_not_a_vit():
    for model in models_without_heads():
        with pytest.raises(TypeError, match="cannot be cut into heads"):
            vit.check_vit(model)
        with pytest.raises(TypeError):
            vit.vit_config(model)


def test_parts_that_cannot_be_described():
    model = make("plain")
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="extra"):
        vit.vit_config(model)
    model = make("plain")
    model.blocks[1].norm1.eps = 0.1
    with pytest.raises(TypeError, match=r"blocks\.1\.norm1"):
        vit.vit_config(model)
    model = make("plain")
    model.blocks[2].mlp.act = torch.nn.ReLU()
    with pytest.raises(TypeError, match=r"blocks\.2\.mlp\.act"):
        vit.vit_config(model)


def test_hybrid_is_refused_before_its_pixels_are_wrong():
    "A convolutional stem has patches of 32 pixels and calls them 1."
    import learngene as lg

    model = timm.create_model("vit_small_r26_s32_224", depth=1)
    try:
        d = lg.mean_attention_distance(model, torch.randn(1, 3, 224, 224))
    except TypeError:
        return
    assert d.mean() > 50  # uniform attention over 224 pixels


def broken(tmp_path, change):
    path = tmp_path / "m"
    vit.save_vit(make("plain"), path)
    change(path)
    return path


def _edit(**items):
    def change(path):
        config = json.loads((path / "config.json").read_text()) | items
        (path / "config.json").write_text(json.dumps(config))
    return change


def _cut(name, keep):
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:keep])


def _tensors(change):
    def edit(path):
        from safetensors.torch import load_file, save_file

        tensors = load_file(path / "model.safetensors")
        change(tensors)
        save_file(tensors, path / "model.safetensors")
    return edit


@pytest.mark.parametrize("change, words", [
    (_edit(schema=2), "schema 2"), (_edit(schema=None), "schema"), (_edit(format="learngene"), "format"),
    (_cut("config.json", 40), "truncated"), (_cut("config.json", 0), "truncated"),
    (lambda p: (p / "config.json").write_text("[1]"), "format"),
    (lambda p: (p / "config.json").write_bytes(b"\xff\xfe\x00"), "truncated"),
    (_cut("model.safetensors", 0), "truncated"), (_cut("model.safetensors", 7), "truncated"),
    (_cut("model.safetensors", 1000), "truncated"), (_cut("model.safetensors", -1), "truncated"),
    (lambda p: (p / "model.safetensors").write_bytes(b"\x80\x04pickle"), "not a safetensors"),
    (_tensors(lambda t: t.pop("norm.weight")), "missing.*norm.weight"),
    (_tensors(lambda t: t.update(more=torch.zeros(1))), "unexpected.*more"),
    (_tensors(lambda t: t.update({"norm.weight": torch.zeros(3)})), "misshapen.*norm.weight"),
])
def test_damaged_files(tmp_path, change, words):
    path = broken(tmp_path, change)
    with pytest.raises(ValueError, match=words):
        vit.load_vit(path)


@pytest.mark.parametrize("change", [
    lambda p: (p / "config.json").unlink(), lambda p: (p / "model.safetensors").unlink(), shutil.rmtree,
])
def test_absent_files(tmp_path, change):
    path = broken(tmp_path, change)
    with pytest.raises(FileNotFoundError, match="m"):
        vit.load_vit(path)


def test_fill_takes_all_or_nothing():
    model = make("plain")
    state = model.state_dict()
    with pytest.raises(ValueError, match=r"cls_token.*more"):
        state["more"] = state.pop("cls_token")
        vit.fill_vit(vit.build_vit(vit.vit_config(model)), state)


def test_fingerprint():
    model = make("plain")
    state = model.state_dict()
    base = vit.fingerprint(model)
    assert base == vit.fingerprint(dict(reversed(state.items()))) and len(base) == 16 and int(base, 16) >= 0
    one = {k: v.clone() for k, v in state.items()}
    one["blocks.1.attn.proj.bias"][3] += 1e-6
    renamed = {k.replace("norm.", "nrm."): v for k, v in state.items()}
    reshaped = state | {"cls_token": state["cls_token"].flatten()}
    halved = {k: v.half() for k, v in state.items()}
    swapped = state | {"norm.weight": state["norm.bias"], "norm.bias": state["norm.weight"]}
    prints = [base, *map(vit.fingerprint, (one, renamed, reshaped, halved, swapped))]
    assert len(set(prints)) == 6
    strided = {k: v.t().contiguous().t() if v.ndim == 2 else v for k, v in state.items()}
    assert vit.fingerprint(strided) == base
    assert vit.fingerprint({"a": torch.zeros(())}) != vit.fingerprint({"a": torch.zeros(1)})


def test_counts():
    model = make("dinov2")
    assert vit.count_params(model) == sum(v.numel() for v in model.state_dict().values())
    config = vit.vit_config(make("plain")) | dict(heads=[1, 7, 3], ffn_width=[128, 100, 5])
    model = vit.build_vit(config, device="cpu")
    D, N, hd = 32, 17, 8
    wanted = 16 * 3 * 64 * D + D * 5  # patches, classifier
    for heads, width in zip(config["heads"], config["ffn_width"]):
        wanted += N * D * 3 * heads * hd + 2 * heads * N * N * hd + N * heads * hd * D + 2 * N * D * width
    assert vit.count_flops(model) == 2 * wanted
    assert model.blocks[0].attn.fused_attn == make("plain").blocks[0].attn.fused_attn


@pytest.mark.parametrize("when", ["tensors", "config", "swap", "last"])
def test_interrupted_save_leaves_the_old_model(tmp_path, monkeypatch, when):
    import os

    import safetensors.torch

    from learngene import files

    path = tmp_path / "m"
    vit.save_vit(make("plain"), path)
    before = {p.name: p.read_bytes() for p in path.iterdir()}

    def stop(*a, **k):
        raise KeyboardInterrupt

    def second_time(original, n):
        count = itertools.count(1)
        return lambda *a, **k: stop() if next(count) == n else original(*a, **k)

    if when == "tensors":
        monkeypatch.setattr(safetensors.torch, "save_file", stop)
    elif when == "config":
        monkeypatch.setattr(files.json, "dumps", stop)
    else:
        monkeypatch.setattr(os, "replace", second_time(os.replace, 1 if when == "swap" else 2))
    with pytest.raises(KeyboardInterrupt):
        vit.save_vit(make("plain", seed=5), path)
    monkeypatch.undo()
    assert path.is_dir() and {p.name: p.read_bytes() for p in path.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]  # nothing half-written beside it


@pytest.mark.parametrize("beside", [None, "config.json", "a model"])
def test_save_does_not_wipe_a_folder_of_other_things(tmp_path, beside):
    folder = tmp_path / "results"
    folder.mkdir()
    if beside == "a model":
        vit.save_vit(make("plain"), folder)
    elif beside:
        (folder / beside).write_text("{}")  # of another program
    (folder / "thesis.txt").write_text("years of work")
    try:
        vit.save_vit(make("plain"), folder)
    except ValueError:
        pass
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_a_linked_folder_stays_a_link(tmp_path):
    (tmp_path / "disc" / "m").mkdir(parents=True)
    (tmp_path / "m").symlink_to(tmp_path / "disc" / "m")
    for seed in 1, 2:
        vit.save_vit(make("plain", seed=seed), tmp_path / "m")
    assert (tmp_path / "m").is_symlink()
    assert vit.fingerprint(vit.load_vit(tmp_path / "disc" / "m")) == vit.fingerprint(make("plain", seed=2))
    assert sorted(p.name for p in tmp_path.rglob("*") if p.name.startswith(".")) == []


def test_a_folder_is_checked_before_a_training(tmp_path):
    check_folder(tmp_path / "new")
    vit.save_vit(make("plain"), tmp_path / "m")
    check_folder(tmp_path / "m")
    with pytest.raises(ValueError, match="other files, which saving would remove .m.; give the name of a new folder"):
        check_folder(tmp_path)
    with pytest.raises(ValueError, match="is a file; give the name of a folder"):
        check_folder(tmp_path / "m" / "config.json")


def test_save_onto_a_file(tmp_path):
    (tmp_path / "m").write_text("another file")
    with pytest.raises(ValueError, match="is a file"):
        vit.save_vit(make("plain"), tmp_path / "m")
    assert (tmp_path / "m").read_text() == "another file"


def test_values_that_json_cannot_hold_write_nothing(tmp_path):
    with pytest.raises(TypeError):
        vit.save_vit(make("plain"), tmp_path / "m", model=torch.nn.Linear(1, 1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["siglip", "timm siglip"])
def test_operations_of_a_model_that_pools_by_attention(name):
    model = make(name)
    assert vit.count_flops(model) > vit.count_flops(make("avg"))
    assert all(p.requires_grad for p in model.parameters())


def test_wrapped_models_say_what_to_unwrap():
    model = make("plain")
    for wrapped, inner in [(torch.nn.DataParallel(model), "`.module`"), (torch.compile(model), "`._orig_mod`")]:
        with pytest.raises(TypeError, match=f"cannot be cut into heads: .* give its {inner}"):
            vit.check_vit(wrapped)
        vit.check_vit(getattr(wrapped, inner[2:-1]))


def test_preprocessing_travels_with_the_description(tmp_path):
    model = make("timm clip")
    config = vit.vit_config(model)
    assert json.loads(json.dumps(config)) == config
    assert config["pretrained_cfg"]["mean"] == list(model.pretrained_cfg["mean"])
    vit.save_vit(model, tmp_path / "m")
    loaded = vit.load_vit(tmp_path / "m")
    original, kept = (timm.data.resolve_model_data_config(m) for m in (model, loaded))
    assert kept == original | dict(input_size=(3, 128, 128)) and vit.vit_config(loaded) == config
    assert vit.fingerprint(loaded) == vit.fingerprint(model)
    config = vit.vit_config(make("plain"))
    assert "pretrained_cfg" not in config
    assert vit.build_vit(config).pretrained_cfg == dict(input_size=(3, 32, 32), num_classes=5)
