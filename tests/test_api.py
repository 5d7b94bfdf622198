"Public names and their defaults, quiet and quick imports, and torchvision beside a torch it was not built for."
import ast
import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from conftest import make
from safetensors.torch import save_file

import learngene as lg
from learngene.ancestry import expects, shipped
from learngene.ancestry import new_model

ROOT = Path(lg.__file__).parents[1]
CALLABLE = ["load_ancestry", "mean_attention_distance", "cluster_heads", "cluster_ffns", "condense", "share_heads",
            "plan", "build", "solve", "inherit", "merge", "refit", "save_descendant", "load_descendant", "fit", "run",
            "HeadCluster", "Learngene", "Recipe"]
ATTRIBUTES = ["Learngene.save", "Learngene.load", "Recipe.load", "methods.names", "methods.get"]
MODULES = sorted(m.name for m in pkgutil.walk_packages(lg.__path__, "learngene.") if not m.name.endswith("__main__"))


def python(code, cwd=None, check=True):
    "Run code in a fresh interpreter and return what it printed, on both streams."
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=cwd)
    if check:
        assert finished.returncode == 0, finished.stderr
    return finished.stdout, finished.stderr


def check_names(api):
    for name in CALLABLE:
        assert callable(getattr(api, name)) and not inspect.ismodule(getattr(api, name)), name
    for name in ATTRIBUTES:
        owner, name = name.split(".")
        assert callable(getattr(getattr(api, owner), name)), name


def test_names():
    check_names(lg)
    assert set(CALLABLE) <= set(dir(lg)) and set(lg.__all__) <= set(dir(lg))


ORDERS = {"backward": "mods[::-1]", "names first": "[]"}


@pytest.mark.parametrize("order", ORDERS)
def test_no_submodule_hides_a_function(order):
    code = f"""
import importlib, inspect
import learngene as lg
mods, names = {MODULES!r}, {CALLABLE!r}
order = {ORDERS[order]}
if not order:
    [getattr(lg, n) for n in names]; order = mods
for m in order:
    importlib.import_module(m)
public = names + sorted(set(lg.__all__) - {{'methods'}})
bad = [n for n in public if inspect.ismodule(getattr(lg, n)) or not callable(getattr(lg, n))]
assert not bad, bad
assert callable(lg.methods.get) and 'cluster-learngene' in lg.methods.names()
ns = {{}}
exec('from learngene import *', ns)
assert set(lg.__all__) <= ns.keys()
"""
    python(code)


def test_import_is_quiet_and_light(tmp_path):
    slow = ("torch", "timm", "torchvision", "numpy", "matplotlib")
    code = f"import sys, learngene; dir(learngene); print([m for m in {slow} if m in sys.modules])"
    out, err = python(code, cwd=tmp_path)
    assert out == "[]\n" and err == ""


def test_unknown_name():
    with pytest.raises(AttributeError, match="inherits"):
        lg.inherits  # noqa: B018
    assert not hasattr(lg, "nothing")


def test_torchvision_can_be_imported_after_learngene():
    code = """
import learngene, timm, torchvision, torch, sys
assert torchvision.__version__ and timm.create_model('vit_tiny_patch16_224', depth=1) is not None
print([type(f).__module__ for f in sys.meta_path])
"""
    out, _ = python(code)
    assert "learngene" not in out  # the finder has gone


def test_torchvision_finder_stands_aside():
    "Importing learngene twice, or after torchvision, installs nothing more; an absent torchvision stays absent."
    python("""
import sys, importlib, learngene
importlib.reload(learngene)
assert sum('learngene' in type(f).__module__ for f in sys.meta_path) <= 1
""")
    code = """
import sys, learngene
from learngene import _torchvision
sys.path[:] = [p for p in sys.path if 'site-packages' not in p]
sys.modules['torch'] = None
try:
    import torchvision
except ImportError:
    print('absent')
"""
    assert python(code)[0] == "absent\n"


def test_torchvision_repair_is_only_made_where_it_is_needed():
    from learngene import _torchvision

    import torchvision

    spec = importlib.util.find_spec("torchvision")
    needed = torch.version.cuda is None and not _torchvision._loads(spec, torch)
    assert (_torchvision._library is not None) == needed and torchvision.__version__


def defaults(f):
    parameters = inspect.signature(f).parameters.items()
    return {name: p.default for name, p in parameters if p.default is not inspect.Parameter.empty}


SHAPE = dict(depth=None, heads=None, omega=None, num_classes=None, proj="paper", ffn="transform", layers="front")


@pytest.mark.parametrize("name, wanted", [
    ("cluster_heads", dict(eps=10.0, min_heads=1)), ("cluster_ffns", dict(eps=10.0)),
    ("condense", dict(eps=None, ffn_eps=None, min_heads=1)), ("load_ancestry", dict(pretrained=True)),
    ("inherit", SHAPE | dict(refit=None, ffn_width=None, budget=None, ancestry=None)), ("plan", SHAPE),
])
def test_public_defaults(name, wanted):
    assert wanted.items() <= defaults(getattr(lg, name)).items()


@pytest.mark.parametrize("name, wanted", [
    ("load_ancestry", ["name_or_path"]), ("mean_attention_distance", ["model", "images"]),
    ("cluster_heads", ["distances"]), ("cluster_ffns", ["distances", "clusters"]), ("condense", ["model", "images"]),
    ("share_heads", ["n_centroids", "n_heads"]), ("plan", ["learngene", *SHAPE, "order"]),
    ("build", ["learngene", "plan"]), ("solve", ["learngene", "budget", "ancestry", "images"]),
    ("inherit", ["learngene", *SHAPE]), ("fit", ["model", "data", "recipe"]), ("run", ["recipe"]),
])
def test_first_arguments(name, wanted):
    assert list(inspect.signature(getattr(lg, name)).parameters)[: len(wanted)] == wanted


def test_the_short_inherit_takes_what_plan_takes():
    assert inspect.signature(lg.inheriting.inherit).parameters.keys() == inspect.signature(lg.plan).parameters.keys()


def test_docstrings():
    for name in CALLABLE:
        assert (getattr(lg, name).__doc__ or "").strip(), name


ORDER = ["vit", "ancestry", "density", "cluster", "condensing", "inheriting", "refitting", "budgeting", "methods",
         "data", "recipe", "train", "ledger", "running", "tables", "app"]


@pytest.mark.parametrize("module", ORDER[:8])
def test_no_module_imports_a_later_one(module):
    tree = ast.parse((ROOT / "learngene" / f"{module}.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    imported = {(node.module or node.names[0].name).split(".")[0] for node in imports}
    assert not imported & set(ORDER[ORDER.index(module):]), imported


def test_nothing_unpickles():
    for file in (ROOT / "learngene").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads"):
                safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
                assert safe and "pickle" not in ast.unparse(node.func), f"{file}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg == "strict":
                assert ast.unparse(node.value) != "False", f"{file}:{node.lineno}"


# ---- load_ancestry

def test_ancestry_from_timm():
    model = lg.load_ancestry("deit_tiny_patch16_224", pretrained=False, depth=1, num_classes=3)
    assert len(model.blocks) == 1 and model.num_classes == 3 and not model.training


def test_ancestry_from_a_saved_folder(tmp_path):
    model = make("dinov2")
    lg.save_descendant(model, tmp_path / "a")
    for path in (tmp_path / "a", str(tmp_path / "a")):
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in lg.load_ancestry(path).state_dict().items())
    random = lg.load_ancestry(tmp_path / "a", pretrained=False)
    assert not torch.equal(random.pos_embed, model.pos_embed) and random.pos_embed.isfinite().all()
    assert not random.training
    with pytest.raises(TypeError, match="num_classes"):
        lg.load_ancestry(tmp_path / "a", num_classes=3)


def test_ancestry_from_a_timm_folder(tmp_path):
    model = timm.create_model("deit_tiny_patch16_224", depth=1, img_size=32, num_classes=4)
    pretrained = dict(input_size=[3, 32, 32], num_classes=4, classifier="head", first_conv="patch_embed.proj")
    config = dict(architecture="deit_tiny_patch16_224", num_classes=4, model_args=dict(depth=1, img_size=32),
                  pretrained_cfg=pretrained)
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = lg.load_ancestry(tmp_path).state_dict()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.items())


@pytest.mark.parametrize("name, error, words", [
    ("deit_tiny_patch16_22", ValueError, "did you mean 'deit_tiny_patch16_224'"),
    ("/no/such/folder", FileNotFoundError, "no folder"), ("./nothing", FileNotFoundError, "no folder"),
    (Path("nothing"), FileNotFoundError, "no folder"), ("resnet18", TypeError, "cannot be cut into heads"),
    ("", (ValueError, FileNotFoundError), "."), ("~/no such", FileNotFoundError, "no folder"),
    ("deit_tiny_patch16_224.fb_in1", ValueError,
     r"no weights 'fb_in1' of deit_tiny_patch16_224 \(did you mean 'fb_in1k'"),
])
def test_ancestry_errors(name, error, words):
    with pytest.raises(error, match=words):
        lg.load_ancestry(name, pretrained=False)


def test_no_weights_are_fetched_of_other_architectures(monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda *a, **kw: 1 / 0)
    with pytest.raises(TypeError, match="resnet18 cannot be cut into heads"):
        lg.load_ancestry("resnet18")


@pytest.mark.parametrize("arguments, says", [
    (dict(embed_dim=48, num_heads=5, depth=1), "divisible by num_heads"), (dict(patch_size=0), "modulo by zero"),
    (dict(embed_dimm=48), "unexpected keyword argument 'embed_dimm'"), (dict(depth="x"), "unsupported operand"),
])
def test_a_new_model_that_timm_refuses(arguments, says):
    with pytest.raises(ValueError, match=f"recipe 'r': model: timm's VisionTransformer refuses its arguments .*{says}"):
        new_model(arguments, "recipe 'r': model")


def test_ancestry_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    lg.save_descendant(make("plain"), tmp_path / "a")
    assert len(lg.load_ancestry("~/a").blocks) == len(lg.load_ancestry(Path("~/a")).blocks) > 0


def test_normalisation_that_a_model_expects():
    model = lg.load_ancestry("vit_tiny_patch16_224.augreg_in21k", pretrained=False, depth=1)
    assert expects(model) == ((0.5,) * 3, (0.5,) * 3)
    assert expects(make("plain")) is None and expects(torch.nn.Linear(1, 1)) is None


def test_ancestry_from_a_damaged_folder(tmp_path):
    lg.save_descendant(make("plain"), tmp_path / "a")
    (tmp_path / "a" / "config.json").write_text('{"format": ')
    with pytest.raises(ValueError, match="truncated"):
        lg.load_ancestry(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        lg.load_ancestry(tmp_path / "empty")


def test_shipped_ancestries_load_by_name():
    for name, folder in shipped().items():  # may be none yet
        assert (folder / "model.safetensors").stat().st_size <= 3_000_000
        by_name, by_folder = (lg.load_ancestry(x).state_dict()["pos_embed"] for x in (name, str(folder)))
        assert torch.equal(by_name, by_folder)
