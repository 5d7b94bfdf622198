"""Ways to start a descendant: `names()` lists them, `get(name, **options)` makes one.

A method registers in one place: the `@register("name")` on its class. Every module of this folder is imported here, so
a new notebook in `nbs/methods` is enough to add one.
"""
import importlib
import pkgutil

from .core import Method, Shape, check_methods, get, module_of, names, register

__all__ = ["Method", "Shape", "check_methods", "get", "module_of", "names", "register"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
