"""Let torchvision be imported beside a PyTorch its compiled operators were not built for.

PyPI's torchvision is built against PyPI's (CUDA) torch. Beside a CPU build of torch its compiled library does not load,
and `import torchvision` then stops at `operator torchvision::nms does not exist`; timm imports torchvision. We never
call these two operators, they only have to exist. The repair waits until torchvision is first imported, because testing
for the need means importing torch, and `import learngene` should be quick.
"""
import importlib.util
import sys
from pathlib import Path

_library = None  # keeps the declared operators alive


class _Finder:
    "A meta-path finder that finds nothing, but sees `import torchvision` coming."

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare_operators()


def _declare_operators():
    import torch

    global _library
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or torch.version.cuda is not None or _loads(spec, torch):
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _loads(spec, torch):
    """Tell whether torchvision's compiled library loads.

    Torchvision itself loads it in the same way, so nothing is done twice.
    """
    for library in Path(spec.origin).parent.glob("_C*"):
        if library.suffix in (".so", ".pyd", ".dylib"):
            try:
                torch.ops.load_library(str(library))
                return True
            except (ImportError, OSError):
                pass
    return False


def install():
    if "torchvision" not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
