"One trained vision transformer becomes many: condense it into a learngene, start descendants of other sizes from it."
__version__ = "0.1.0"

import importlib

from . import _torchvision

# Each public name and the module it lives in. Modules load when a name is first used, so `import learngene` is quick.
_API = {
    "ancestry": ["load_ancestry"],
    "density": ["mean_attention_distance"],
    "cluster": ["HeadCluster", "cluster_heads", "cluster_ffns"],
    "condensing": ["Learngene", "condense"],
    "inheriting": ["share_heads", "Plan", "plan", "build", "merge", "save_descendant", "load_descendant"],
    "refitting": ["refit", "RefitReport", "stream_errors"],
    "budgeting": ["Budget", "solve", "inherit"],
    "data": ["load_data"],
    "recipe": ["DataSpec", "Recipe", "Sweep"],
    "train": ["fit", "evaluate"],
    "ledger": ["Ledger"],
    "running": ["run", "run_all"],
    "shrinking": ["shrink"],
    "healing": ["heal", "HealReport"],
    "predicting": ["predict"],
    "sharing": ["save_pretrained", "from_pretrained", "push_to_hub", "export"],
}
_HOME = {name: module for module, names in _API.items() for name in names}
_MODULES = [*_API, "methods", "vit", "tables", "app"]

__all__ = [*_HOME, "methods"]


def __getattr__(name):
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'learngene' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_HOME, *_MODULES})


_torchvision.install()
