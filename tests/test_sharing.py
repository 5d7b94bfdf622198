"Saved models open elsewhere: by timm, by one plain file, in other runtimes; the hub's errors come in seconds."

import json
import subprocess
import sys
import time
import warnings

import pytest
import timm
import torch
from conftest import ZOO, make, pictures

import learngene as lg
from learngene.anatomy import image_shape
from learngene.condensing import keep_all
from learngene.hub import is_reachable
from learngene.model_notes import class_names, note_classes
from learngene.portable import modeling_source, timm_arguments

UNKNOWN_TO_TIMM = {"siglip", "packed swiglu", "swiglu", "rms norm, no positions"}  # made of classes, in no architecture
MEND = """
import torch
for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
# of four families, small: (architecture, arguments, heads that stay, layers that stay)
FAMILIES = {
    "eva02_tiny_patch14_224": (dict(depth=3, img_size=56), 2, [0, 2]),
    "vit_small_patch16_dinov3": (dict(depth=3, img_size=64), 5, [0, 2]),
    "beit_base_patch16_224": (dict(depth=3, embed_dim=96, num_heads=4, img_size=64), 3, [1, 2]),
    "swinv2_tiny_window8_256": (dict(embed_dim=24, num_heads=(2, 2, 4, 4), img_size=64, window_size=4), 1,
                                [0, 2, 4, 6, 9, 10]),
}


def rebuilt(model):
    "What the generated file makes of a model's weights, here."
    scope = {"__file__": "modeling.py"}
    exec(compile(modeling_source(model, 'a "quoted" title'), "modeling.py", "exec"), scope)
    return scope["build_model"](model.state_dict())


def without_learngene(code, folder):
    "Run code in a process that cannot import learngene; what it printed, as JSON."
    mend = MEND if lg._torchvision._library is not None else ""
    code = f"{mend}import sys\nsys.modules['learngene'] = None\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [name for name in ZOO if name not in UNKNOWN_TO_TIMM])
def test_every_vit_is_timms_arguments_or_a_file(name):
    model = make(name)
    x, cut = pictures(model), lg.inherit(keep_all(model), depth=2, heads=[3, 1], ffn="copy")
    architecture, arguments = timm_arguments(model)
    again = timm.create_model(architecture, num_classes=model.num_classes, **arguments).eval()
    again.load_state_dict(model.state_dict())
    assert timm_arguments(cut) is None
    with torch.no_grad():
        assert torch.equal(again(x), model(x)) and torch.equal(rebuilt(cut)(x), cut(x))


@pytest.mark.parametrize("name", FAMILIES)
def test_cut_models_of_other_families(name):
    arguments, heads, layers = FAMILIES[name]
    model = timm.create_model(name, num_classes=5, **arguments).eval()
    x = torch.randn(2, *image_shape(model), generator=torch.Generator().manual_seed(0))
    cut = lg.inherit(keep_all(model), heads=heads, layers=layers, ffn="copy")
    with torch.no_grad():
        assert torch.allclose(rebuilt(cut)(x), cut(x), atol=1e-6)


@pytest.mark.parametrize("name", sorted(UNKNOWN_TO_TIMM))
def test_what_timm_does_not_have_is_said(name, tmp_path):
    model = make(name)
    with pytest.warns(UserWarning, match="will open with learngene alone: timm has no architecture"):
        lg.save_pretrained(model, tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(lg.from_pretrained(tmp_path / "m")(pictures(model)), model(pictures(model)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    "(a shrunk model, its folder, a model of timm's arguments, its folder)"
    folder, model = tmp_path_factory.mktemp("saved"), make("plain")
    note_classes(model, ["ant", "bee", "cat", "dog", "eel"])
    model.origin = dict(name="a-model", licence="MIT", url="https://huggingface.co/org/a-model")
    small, short = lg.shrink(model, pictures(model, 16), params=0.5), lg.inherit(keep_all(model), depth=2)
    return small, lg.save_pretrained(small, folder / "small"), short, lg.save_pretrained(short, folder / "short", x=1)


def test_both_folders_open_without_learngene(saved):
    small, folder, short, short_folder = saved
    x = "torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)"
    wanted = [model(eval(x)).detach()[0].tolist() for model in (small, short)]
    code = f"from modeling import load_model\nm = load_model(); print(m({x}).tolist()[0])"
    assert without_learngene(code, folder) == pytest.approx(wanted[0], abs=1e-5)
    code = (f"import timm\nm = timm.create_model('local-dir:{short_folder}', pretrained=True).eval()\nimport json\n"
            f"c = timm.data.resolve_model_data_config(m)\nprint(json.dumps([m({x}).tolist()[0], list(c['input_size']), "
            "list(m.pretrained_cfg['label_names'])]))")
    outputs, size, names = without_learngene(code, folder)
    assert outputs == pytest.approx(wanted[1], abs=1e-5) and size == [3, 32, 32] and names[1] == "bee"
    assert not (short_folder / "modeling.py").exists()


def test_everything_travels(saved):
    small, folder, _, _ = saved
    again = lg.from_pretrained(folder)
    assert str(again.report) == str(small.report) and class_names(again)[2] == "cat"
    assert again.origin == small.origin and lg.load_ancestry(folder).origin == small.origin
    card = (folder / "README.md").read_text()
    for text in ("license: mit", "base_model: org/a-model", "a-model", "agreement", "FFN neurons", "modeling.py"):
        assert text in card, text


def test_saving_again_replaces(saved, tmp_path):
    small, _, short, _ = saved
    folder = lg.save_pretrained(small, tmp_path / "m")
    lg.save_pretrained(short, folder)
    assert not (folder / "modeling.py").exists() and len(lg.from_pretrained(folder).blocks) == 2
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files, which saving would remove \(notes\.txt\)"):
        lg.save_pretrained(small, folder)
    (tmp_path / "file").write_text("")
    with pytest.raises((ValueError, OSError), match="file"):
        lg.save_pretrained(small, tmp_path / "file" / "m")


@pytest.mark.skipif(is_reachable(), reason="the hub can be reached")
def test_without_a_network_errors_come_in_seconds(saved, tmp_path):
    start = time.perf_counter()
    with pytest.raises(OSError, match=r"'org/nothing' is no folder here.* give the path of a folder"):
        lg.from_pretrained("org/nothing")
    with pytest.raises(OSError, match=r"Without a network, give a local folder"):
        lg.load_ancestry("deit_tiny_patch16_224")
    with pytest.raises(OSError, match=r"was not uploaded as 'org/small'.*The folder is whole"):
        lg.save_pretrained(saved[0], tmp_path / "small", push_to_hub=True, repo_id="org/small")
    assert (tmp_path / "small" / "model.safetensors").exists()
    assert time.perf_counter() - start < 60  # one file's retries alone take 23 s, and there are four


# ---- other runtimes

def test_torch_export_takes_any_number_of_images(saved, tmp_path):
    small = saved[0]
    program = torch.export.load(lg.export(small, tmp_path / "m.pt2")).module()
    for n in (1, 5):
        assert torch.allclose(program(pictures(small, n)), small(pictures(small, n)), atol=1e-5)


def test_onnx_takes_any_number_of_images(saved, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from learngene.exporting import run_onnx

    small = saved[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = lg.export(small, tmp_path / "m.onnx")
    for n in (1, 5):
        outputs = torch.from_numpy(run_onnx(file, pictures(small, n)))
        assert torch.allclose(outputs, small(pictures(small, n)), atol=1e-4)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_exporter_names_the_extra(saved, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"an export to ONNX needs {package}: pip install 'learngene\[onnx\]'"):
        lg.export(saved[0], tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_missing_runtime_names_the_extra(tmp_path, monkeypatch):
    from learngene.exporting import run_onnx

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"running an ONNX file needs onnxruntime: pip install 'learngene\[onnx\]'"):
        run_onnx(tmp_path / "m.onnx", torch.zeros(1, 3, 32, 32))


def test_torch_compile(saved):
    small = saved[0]
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(small, backend="aot_eager")(pictures(small))
        assert torch.allclose(compiled, small(pictures(small)), atol=1e-5)


def test_an_unknown_ending(saved):
    with pytest.raises(ValueError, match=r"ends in \.tflite; give a name in \.onnx or \.pt2"):
        lg.export(saved[0], "m.tflite")
