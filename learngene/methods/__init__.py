"Ways to start a descendant, one room each; `names()` lists them, `get(name, **options)` makes one."
from . import cluster_learngene, from_scratch, pretraining_finetuning, refit, released, slices, weight_transformation  # noqa: F401  each registers itself
from .core import Method, Shape, check_methods, get, module_of, names, register

__all__ = ["Method", "Shape", "check_methods", "get", "module_of", "names", "register"]
