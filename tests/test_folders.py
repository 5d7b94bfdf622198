"Folders of models as they come: damaged, crafted, of other libraries; one sentence with file, key and remedy."

import copy
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import learngene as lg

import pytest
import timm
import torch
from conftest import ZOO, make, pictures
from safetensors.torch import load_file, save_file

from learngene.checkpoints import save_checkpoint
from learngene.ffn_sharing import is_shared
from learngene.vit import build_described, vit_config, vit_extra



@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    "An ancestry, and a learngene of it."
    folder, model = tmp_path_factory.mktemp("saved"), make("plain")
    lg.save_descendant(model, folder / "vit")
    lg.condense(model, pictures(model, 6), eps=0.2, ffn_eps=1.0).save(folder / "learngene")
    return folder


@pytest.fixture
def folders(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "models"))


LOADERS = dict(vit=lambda folder: lg.load_ancestry(folder), learngene=lambda folder: lg.Learngene.load(folder))


def edit(folder, change):
    "Change the JSON of a folder."
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


def put(path, value):
    "A change that lays a value at a dotted path; `...` removes what is there."

    def change(values):
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in parents:
            values = values[part]
        if value is ...:
            del values[last]
        else:
            values[last] = value

    return change


WRONG = [
    ("vit", "config", [], "config is [], wanted"),
    ("vit", "config", ..., "'config' is missing"),
    ("vit", "extra", ..., "'extra' is missing"),
    ("vit", "extra", 3, "extra is 3, wanted dict"),
    ("vit", "config.heads", ..., "'config.heads' is missing"),
    ("vit", "config.heads", [], "config.heads is [], wanted at least 1"),
    ("vit", "config.heads", [4, 4], "config.heads is of 2 layers, config.ffn_width of 3"),
    ("vit", "config.heads", [4, 4, 0], "config.heads[2] is 0, wanted at least 1"),
    ("vit", "config.heads", [4, 4, "4"], "config.heads[2] is '4', wanted int"),
    ("vit", "config.heads", [4, 4, True], "config.heads[2] is True, wanted int"),
    ("vit", "config.heads", [4, 4, 4.0], "config.heads[2] is 4.0, wanted int"),
    ("vit", "config.heads", [1] * 2000, "config.heads is [1, 1, 1"),
    ("vit", "config.heads", [4, 4, 5], "model.safetensors do not fit the model"),
    ("vit", "config.embed_dim", 10**9, "config.embed_dim is 1000000000, wanted at most 1048576"),
    ("vit", "config.embed_dim", -1, "config.embed_dim is -1"),
    ("vit", "config.embed_dim", 31, "do not fit the model"),
    ("vit", "config.head_dim", 7, "do not fit the model"),
    ("vit", "config.img_size", [32], "config.img_size is [32], wanted at least 2 of them"),
    ("vit", "config.img_size", [8, 8], "do not fit the model"),
    ("vit", "config.patch_size", [8, 0], "config.patch_size[1] is 0"),
    ("vit", "config.norm", ["LayerNorm", "x"], "config.norm[1]"),
    ("vit", "config.norm", ["LayerNorm", -1.0], "config.norm[1]"),
    ("vit", "config.norm", ["os", 1e-6], "this version of timm has no layer 'os'"),
    ("vit", "config.act", "create_act_layer", "this version of timm has no layer 'create_act_layer'"),
    ("vit", "config.mlp", "Linear", "config describes no model that can be built"),
    ("vit", "config.block", "Attention", "config describes no model that can be built"),
    ("vit", "config.model", "torch", "timm has no vision transformer 'torch'"),
    ("vit", "config.model", "deit_tiny_patch16_224", "timm has no vision transformer 'deit_tiny_patch16_224'"),
    ("vit", "config.global_pool", "sideways", "config describes no model that can be built"),
    ("vit", "config.pos_embed", "sine", "config describes no model that can be built"),
    ("vit", "config.fc_norm", None, "config.fc_norm is None, wanted bool"),
    ("vit", "config.num_classes", 6, "do not fit the model"),
    ("vit", "config.class_token", False, "config"),
    ("vit", "config.pool_heads", 2, "config.pool_heads is 2, but the model of the other entries has None"),
    ("vit", "config.hedas", [1], "config: unknown key 'hedas' (did you mean 'heads'?)"),
    ("vit", "config.pretrained_cfg", dict(mean=["a"]), "config.pretrained_cfg"),
    ("vit", "config.pretrained_cfg", dict(std=[0.0]), "config.pretrained_cfg"),
    ("vit", "config.pretrained_cfg", dict(label_names=3), "config.pretrained_cfg"),
    ("vit", "extra", dict(report=3), "extra.report is no report"),
    ("vit", "extra", dict(report={}), "extra.report is no report"),
    ("learngene", "clusters", ..., "'clusters' is missing"),
    ("learngene", "clusters", [], "clusters is of 0 layers, config.heads of 3"),
    ("learngene", "clusters.1", [], "clusters[1] is [], wanted at least 1"),
    ("learngene", "clusters.1.0", 3, "clusters[1][0] is 3"),
    ("learngene", "clusters.1.0.mean", ..., "'clusters[1][0].mean' is missing"),
    ("learngene", "clusters.1.0.size", 3, "clusters[1][0]: unknown key 'size'; known are heads, centroid, mean"),
    ("learngene", "clusters.1.0.mean", -1.0, "clusters[1][0]['mean'] is -1.0"),
    ("learngene", "clusters.1.0.mean", "1", "clusters[1][0]['mean'] is '1'"),
    ("learngene", "clusters.1.0.mean", float("nan"), "clusters[1][0]['mean'] is nan"),
    ("learngene", "clusters.1.0.centroid", 9, "clusters[1][0].centroid is 9, not one of its heads"),
    ("learngene", "clusters.1.0.heads", [], "clusters[1][0]['heads'] is []"),
    ("learngene", "clusters.1.0.heads", [0, 1, 2, 3, 4], "clusters[1][0].heads holds head 4 of 4"),
    ("learngene", "clusters.1.0.heads", [0, 1, 1], "clusters[1][0].heads holds head 1, which an earlier place holds"),
    ("learngene", "ffn_groups", ..., "'ffn_groups' is missing"),
    ("learngene", "ffn_groups", [[0, 1]], "ffn_groups misses layer 2"),
    ("learngene", "ffn_groups", [[0, 1], [1, 2]], "ffn_groups names layer 1 twice"),
    ("learngene", "ffn_groups", [[0, 1, 2, 3]], "ffn_groups names layer 3, and must hold each layer from 0 to 2 once"),
    ("learngene", "ffn_groups", [[0, 1], [-1]], "ffn_groups[1][0] is -1"),
    ("learngene", "ffn_groups", [[0, 1, 2], []], "ffn_groups[1] is []"),
    ("learngene", "distances", [[1.0]], "distances is of 1 layers, config.heads of 3"),
    ("learngene", "distances", [[1.0]] * 3, "distances[0] has 1 numbers for 4 heads"),
    ("learngene", "distances", [[1.0, 2.0, 3.0, -1.0]] * 3, "distances[0][3] is -1.0"),
    ("learngene", "how", [], "how is [], wanted dict"),
    ("learngene", "config.heads", [4, 4], "config.heads is of 2 layers"),
    ("learngene", "config.embed_dim", 48, "model.safetensors: "),
    ("learngene", "schema", 2, "has schema 2, this version reads 1"),
    ("vit", "schema", True, "has schema True"),
    ("vit", "format", "learngene", "holds a learngene, no ancestry; load it with `learngene.Learngene.load`"),
    ("learngene", "format", "learngene-vit", "Load it with load_ancestry"),
    ("learngene", "format", [1] * 1000, "is of format [1, 1"),
]


@pytest.mark.parametrize("kind, path, value, says", WRONG, ids=[f"{w[0]} {w[1]} {str(w[2])[:20]}" for w in WRONG])
def test_a_wrong_entry_is_named_with_file_and_remedy(folders, kind, path, value, says):
    edit(folders / kind, put(path, value))
    with pytest.raises(ValueError) as e:
        LOADERS[kind](folders / kind)
    message = str(e.value)
    assert says in message and str(folders / kind) in message and "\n" not in message, message
    assert len(message) < 900 and any(word in message for word in ("again", "give", "update", "Load", "load")), message


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(
    "change, says",
    [
        (lambda t: t.pop("cls_token"), "cls_token"),
        (lambda t: t.update(more=torch.zeros(1)), "more"),
        (lambda t: t.update(cls_token=torch.zeros(1, 1, 7)), "cls_token is (1, 1, 7), wanted (1, 1, 32)"),
        (lambda t: t.update(cls_token=t["cls_token"].long()), "cls_token is of type torch.int64"),
        (lambda t: t.update(cls_token=t["cls_token"] * float("nan")), "cls_token holds values that are NaN"),
        (lambda t: t.update(cls_token=t["cls_token"] + float("inf")), "cls_token holds values that are NaN"),
        (lambda t: t.update({"blocks.x.y": torch.zeros(1)}), "blocks.x.y"),
        (lambda t: t.clear(), "blocks.0.attn.proj.bias"),
    ],
    ids=["missing", "more", "shape", "integers", "nan", "inf", "odd name", "nothing"],
)
def test_wrong_tensors_are_named(folders, kind, change, says):
    file = folders / kind / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(ValueError) as e:
        LOADERS[kind](folders / kind)
    assert says in str(e.value) and str(file) in str(e.value) and "\n" not in str(e.value)


def test_weights_that_are_not_finite_are_loaded_when_asked_for(folders):
    for kind, load in (("vit", lg.load_ancestry), ("vit", lg.load_descendant), ("learngene", lg.Learngene.load)):
        file = folders / kind / "model.safetensors"
        save_file(load_file(file) | dict(cls_token=torch.full((1, 1, 32), float("nan"))), file)
        with pytest.raises(ValueError, match="allow_nonfinite=True"):
            load(folders / kind)
        loaded = load(folders / kind, allow_nonfinite=True)
        tensors = loaded.tensors if kind == "learngene" else loaded.state_dict()
        assert tensors["cls_token"].isnan().all()


def test_weights_that_are_too_large_for_their_type(folders):
    file = folders / "vit/model.safetensors"
    save_file(load_file(file) | dict(cls_token=torch.full((1, 1, 32), 1e300, dtype=torch.float64)), file)
    with pytest.raises(ValueError, match="cls_token holds values"):
        lg.load_ancestry(folders / "vit")


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    "raw", [b"", b"x", b"\x00" * 100, b"\xff" * 100, b"[]", b"3", b"{" * 10**5, b"version https://git-lfs\n"]
)
def test_damaged_files(folders, kind, name, raw):
    (folders / kind / name).write_bytes(raw)
    with pytest.raises(ValueError) as e:
        LOADERS[kind](folders / kind)
    assert str(folders / kind) in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < 900
    if raw.startswith(b"version"):
        assert "git lfs pull" in str(e.value)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("cut", [1, 7, 100, 2000])
def test_truncated_weights(folders, kind, cut):
    file = folders / kind / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=f"{file} is truncated"):
        LOADERS[kind](folders / kind)


@pytest.mark.parametrize("name", ZOO)
def test_every_architecture_is_described_without_contradiction(name):
    config = json.loads(json.dumps(vit_config(make(name))))
    assert vit_config(build_described(config, "x.json")) == config


def test_random_weights_of_a_folder_are_checked_too(folders):
    edit(folders / "vit", put("config.ffn_width", [2**20] * 3))
    edit(folders / "vit", put("config.embed_dim", 2**20))
    with pytest.raises(ValueError, match="config.json describes a model of [0-9,]+ parameters"):
        lg.load_ancestry(folders / "vit", pretrained=False)
    with pytest.raises(ValueError, match="'extra' is missing"):
        edit(folders / "vit", put("extra", ...))
        vit_extra(folders / "vit")


# --- folders in timm's layout


@pytest.fixture
def hub(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2, img_size=32, num_classes=3)
    args = dict(depth=1, embed_dim=24, num_heads=2, img_size=32)
    config = dict(architecture="vit_tiny_patch16_224", num_classes=3, model_args=args, pretrained_cfg={})
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "hub/model.safetensors")
    return tmp_path / "hub"


HUB = [
    (put("architecture", "vit_tiny_patch16_22"), "did you mean 'vit_tiny_patch16_224'"),
    (put("architecture", 3), "architecture is 3, wanted str"),
    (put("architecture", "resnet18"), "cannot be cut into heads"),
    (put("num_classes", -1), "num_classes is -1"),
    (put("model_args.depth", 10**9), "model_args.depth is 1000000000"),
    (put("model_args.embed_dim", 10**9), "model_args.embed_dim is 1000000000"),
    (put("model_args.embed_dim", 2**20), "parameters, at most|cannot load this folder"),
    (put("model_args.embed_dim", 25), "timm cannot load this folder"),
    (put("model_args.nonsense", 1), "timm cannot load this folder"),
    (put("model_args", [1]), "model_args is [1], wanted dict"),
    (put("pretrained_cfg", dict(mean="x")), "pretrained_cfg"),
    (put("num_classes", 4), "timm cannot load this folder"),
]


@pytest.mark.parametrize("change, says", HUB, ids=[says for _, says in HUB])
def test_a_folder_of_timm_with_wrong_entries(hub, change, says):
    edit(hub, change)
    with pytest.raises((ValueError, TypeError)) as e:
        lg.load_ancestry(hub)
    message = str(e.value)
    assert any(option in message for option in says.split("|")) and "\n" not in message and len(message) < 900, message
    assert str(hub) in message or "cannot be cut" in message


def test_a_folder_of_timm_loads_or_is_refused_for_its_weights(hub):
    assert lg.load_ancestry(hub).num_classes == 3
    tensors = load_file(hub / "model.safetensors")
    save_file(tensors | dict(cls_token=tensors["cls_token"] * float("nan")), hub / "model.safetensors")
    with pytest.raises(ValueError, match="cls_token holds values that are NaN"):
        lg.load_ancestry(hub)
    assert lg.load_ancestry(hub, allow_nonfinite=True).cls_token.isnan().all()
    (hub / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="timm cannot load this folder .SafetensorError"):
        lg.load_ancestry(hub)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "open_clip_pytorch_model.bin"])
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_folder_of_timm_runs_no_code(hub, tmp_path, name, form):
    "Versions of timm that unpickle checkpoints are not allowed."

    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (hub / "model.safetensors").unlink()
    if form == "torch":
        torch.save({"x": Payload()}, hub / name)
    else:
        (hub / name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match="timm cannot load this folder .*weights_only"):
        lg.load_ancestry(hub)
    assert not (tmp_path / "ran").exists()
    version = tuple(int(part) for part in timm.__version__.split(".")[:3])
    assert version >= (1, 0, 26), "the lower bound in settings.ini"


LIMITS = pytest.mark.parametrize("eps, shares", [(1e-6, False), (1e6, True)], ids=["own FFNs", "shared FFNs"])


@pytest.fixture
def child(saved, eps, shares):
    "A descendant whose layers have FFNs of their own, or share one."
    ancestry = lg.load_ancestry(saved / "vit")
    model = lg.inherit(lg.condense(ancestry, pictures(ancestry), eps=eps), depth=2, heads=2)
    assert any(map(is_shared, model.modules())) == shares
    return model


@LIMITS
def test_timms_own_way_to_save_says_what_to_do(saved, child, tmp_path):
    for model in (child, lg.load_ancestry(saved / "vit")):
        with pytest.raises(TypeError, match=r"save it with learngene.save_descendant\(model, FOLDER\)"):
            timm.models.save_for_hf(model, tmp_path / "hf")
        copy.deepcopy(model)
        model.set_input_size(img_size=64)
    with pytest.raises(FileNotFoundError, match=r"has weights \(pytorch_model.bin\) but no config.json"):
        lg.load_ancestry(tmp_path / "hf")


@LIMITS
def test_a_whole_model_is_pickled_once_its_ffns_are_merged(child, shares, tmp_path):
    if shares:
        with pytest.raises(ValueError, match=r"shares its weight with other layers; call `learngene.merge\(model\)`"):
            torch.save(child, tmp_path / "whole.pt")
    images, merged = pictures(child), lg.merge(copy.deepcopy(child))
    torch.save(merged, tmp_path / "whole.pt")
    again = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert torch.equal(again(images), merged(images)) and torch.allclose(merged(images), child(images), atol=1e-5)


# --- what is no model at all

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def make_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    return path


FILES = {
    "weights.pth": (b"x", "holds weights alone, which do not say their architecture: build the model with"),
    "weights.pt": (b"x", "holds weights alone"),
    "pytorch_model.bin": (b"x", "holds weights alone"),
    "last.ckpt": (b"x", "holds weights alone"),
    "weights.safetensors": (b"x", "holds weights alone"),
    "vit.npz": (b"x", "holds weights alone"),
    "vit.onnx": (b"x", "is an exported graph"),
    "vit.tar.gz": (b"x", "is an archive; unpack it"),
    "vit.zip": (b"x", "is an archive; unpack it"),
    "epoch-00003.pt": (b"x", "is a checkpoint of a training that is not finished"),
    "epoch-00003-step-000001.pt": (b"x", "is a checkpoint of a training that is not finished"),
    "table2-s0-0123456789ab.json": (dict(schema=1, run_info={}), "is the record of a run, not its model"),
    "recipe.yaml": (b"name: x", "perhaps a recipe; `learngene train"),
    "pointer.safetensors": (POINTER, "is a pointer of Git LFS"),
    "pointer.pth": (POINTER, "git lfs pull"),
    "model": (b"x", "is a file, and no model; give a folder that holds config.json and model.safetensors"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_is_no_folder_but_something(tmp_path, name, kind):
    content, says = FILES[name]
    file = write(tmp_path / name, content)
    with pytest.raises(ValueError) as e:
        lg.load_ancestry(kind(file))
    assert says in str(e.value) and str(file) in str(e.value) and "\n" not in str(e.value)
    assert "there is no" not in str(e.value)


def test_one_file_of_a_folder(saved):
    for name in ("config.json", "model.safetensors"):
        with pytest.raises(ValueError, match=f"is one file of a model; give its folder, {saved / 'vit'}"):
            lg.load_ancestry(saved / "vit" / name)
    with pytest.raises(ValueError, match="is a file; give the folder that holds"):
        lg.Learngene.load(saved / "learngene" / "config.json")


FOLDERS = {
    "empty": ({}, "is empty and has no config.json"),
    "weights": ({"model.safetensors": b"x"}, r"has weights (model.safetensors) but no config.json to say"),
    "checkpoints": ({"epoch-00001.pt": b"x"}, "has weights (epoch-00001.pt) but no config.json"),
    "transformers": (
        {"config.json": dict(architectures=["ViTForImageClassification"], model_type="vit"), "model.safetensors": b"x"},
        "is a model of transformers (['ViTForImageClassification']), whose layers have other names; give timm's model",
    ),
    "model type": ({"config.json": dict(model_type="vit")}, "is a model of transformers ('vit')"),
    "adapter": ({"adapter_config.json": {}, "adapter_model.safetensors": b"x"}, "it is an adapter (LoRA)"),
    "open clip": ({"open_clip_config.json": {}}, "a model of OpenCLIP"),
    "diffusers": ({"model_index.json": {}}, "a pipeline of diffusers"),
    "hub cache": ({"snapshots/abc/config.json": {}}, "is a cache of the hub; give the folder below it"),
    "results": ({"records/x.json": {}}, "it holds results of runs, and no model"),
    "parent": ({"vit/config.json": {}}, "vit does; give that folder"),
    "something": ({"notes.txt": b"x"}, "it holds notes.txt, and no model"),
    "foreign": ({"config.json": dict(a=1)}, "names neither a format of this library nor an architecture of timm"),
    "list": ({"config.json": [1]}, "names neither a format"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_something_else(tmp_path, name):
    contents, says = FOLDERS[name]
    (tmp_path / name).mkdir()
    for file, content in contents.items():
        write(tmp_path / name / file, content)
    with pytest.raises((ValueError, FileNotFoundError)) as e:
        lg.load_ancestry(tmp_path / name)
    assert says in str(e.value) and str(tmp_path / name) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "name, error, says",
    [
        ("timm/vit_tiny_patch16_224.augreg_in21k", FileNotFoundError, "write 'hf-hub:timm/vit_tiny_patch16_224.augreg"),
        ("https://huggingface.co/timm/vit_tiny", FileNotFoundError, "write 'hf-hub:timm/vit_tiny'"),
        ("huggingface.co/timm/vit_tiny/tree/main", FileNotFoundError, "write 'hf-hub:timm/vit_tiny'"),
        ("local-dir:/tmp", FileNotFoundError, "give the path of the folder alone"),
        ("{tmp}/modle", FileNotFoundError, "did you mean 'model'"),
        ("vit_nano_p2_8.digit", ValueError, "did you mean 'vit_nano_p2_8.digits'"),
        ("vit_tiny_patch16_225", ValueError, "did you mean 'vit_tiny_patch16_224'"),
        ("x" * 5000, ValueError, "there is no model"),
        ("a\0b", (ValueError, FileNotFoundError), "there is no model"),
    ],
)
def test_a_name_that_leads_nowhere(tmp_path, name, error, says):
    (tmp_path / "model").mkdir()
    with pytest.raises(error) as e:
        lg.load_ancestry(name.format(tmp=tmp_path))
    assert says in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < 600


def test_a_checkpoint_of_ours_by_its_folder(tmp_path):
    save_checkpoint(tmp_path / "run", dict(epoch=1, key="k"))
    with pytest.raises(FileNotFoundError, match="has weights .epoch-00001.pt. but no config.json"):
        lg.load_ancestry(tmp_path / "run")


# --- models of other families: an architecture's name, its arguments, and cuts


@pytest.fixture(scope="module")
def swin(tmp_path_factory):
    "A small model of windows, and a learngene of it."
    folder = tmp_path_factory.mktemp("swin")
    args = dict(img_size=32, window_size=4, patch_size=2, embed_dim=16, depths=(1, 2), num_heads=(2, 4), num_classes=3)
    model = timm.create_model("swin_tiny_patch4_window7_224", **args)
    lg.save_descendant(model, folder / "vit")
    lg.condense(model, torch.randn(4, 3, 32, 32), eps=0.2).save(folder / "learngene")
    return folder


FAMILY = [
    ("config.architecture", "swin_tiny_patch4_window7_22", "config describes no model that can be built"),
    ("config.architecture", 3, "config.architecture is 3, wanted str"),
    ("config.args.embed_dim", 10**9, "config.args.embed_dim is 1000000000, larger|config.args.embed_dim is 1000000000"),
    ("config.args.depths", [1, 10**9], "config.args.depths is [1, 1000000000]"),
    ("config.args.nonsense", 1, "config describes no model that can be built"),
    ("config.args", ..., "'config.args' is missing"),
    ("config.heads", [2, 4], "config.heads is of 2 layers, config.ffn_width of 3"),
    ("config.heads", [2, 4, 5], "do not fit the model|config.|is "),
    ("config.layers", [0, 1, 7], "config"),
    ("config.stages", [0, 0, 0], "config.stages is [0, 0, 0], but the model of the other entries has [0, 1, 1]"),
    ("config.head_dim", [8, 8, 7], "config.head_dim is [8, 8, 7], but the model of the other entries has"),
    ("config.num_classes", 4, "do not fit the model|wanted"),
    ("config.family", "Eva", "config.family is 'Eva', but the model of the other entries has 'SwinTransformer'"),
]


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("path, value, says", FAMILY, ids=[f"{f[0]} {str(f[1])[:20]}" for f in FAMILY])
def test_a_wrong_entry_of_another_family(swin, tmp_path, kind, path, value, says):
    shutil.copytree(swin, tmp_path / "swin")
    LOADERS[kind](tmp_path / "swin" / kind)
    edit(tmp_path / "swin" / kind, put(path, value))
    with pytest.raises(ValueError) as e:
        LOADERS[kind](tmp_path / "swin" / kind)
    message = str(e.value)
    assert any(option in message for option in says.split("|")) and "\n" not in message, message
    assert str(tmp_path / "swin" / kind) in message and len(message) < 900


def test_timms_own_way_to_save_another_family_says_what_to_do(swin, tmp_path):
    model = lg.load_ancestry(swin / "vit")
    with pytest.raises(TypeError, match="learngene.save_descendant"):
        timm.models.save_for_hf(model, tmp_path / "hf")
    lg.save_descendant(copy.deepcopy(model), tmp_path / "again")
    assert lg.load_ancestry(tmp_path / "again").num_classes == 3
