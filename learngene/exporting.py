"Models for other runtimes: ONNX and torch.export, each compared with the model it came from."
import copy
import warnings
from pathlib import Path

import torch

from .anatomy import image_shape
from .ffn_sharing import merge
from .files import check_writable, explained
from .optional import require
from .vit_checks import check_vit

SUFFIXES = (".onnx", ".pt2")  # of `export`


def example_images(
    model,  # a vision transformer
    count=2,  # images
) -> torch.Tensor:  # on the CPU
    "Draw random images of a model's size, the same ones each time."
    return torch.randn(count, *image_shape(model), generator=torch.Generator().manual_seed(0))


def plain_copy(
    model,  # with or without shared FFNs, on any device
):  # on the CPU, in 32 bits and eval mode, without gradients
    "Copy a model for an export. TypeError for what is no vision transformer of timm."
    check_vit(model)
    return merge(copy.deepcopy(model)).cpu().float().eval().requires_grad_(False)


def export_onnx(
    model,  # a vision transformer
    path,  # of the file, ending in .onnx
    tolerance=1e-3,  # largest difference of outputs, as a share of the largest output
) -> Path:
    """Write a model as ONNX for any number of images at once.

    It is run by onnxruntime where that is installed, and compared. ImportError without onnx and onnxscript,
    RuntimeError when the file computes something else.
    """
    for package in ("onnx", "onnxscript"):
        require(package, "an export to ONNX")
    path = _checked(path, ".onnx")
    model, images = plain_copy(model), example_images(model)
    with explained(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # within torch
        program = torch.onnx.export(model, (images,), input_names=["images"], output_names=["output"], dynamo=True,
                                    dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), verbose=False)
        program.save(str(path))
    try:
        outputs = run_onnx(path, example_images(model, 5))
    except ImportError:
        return path
    _compare(path, model(example_images(model, 5)), torch.from_numpy(outputs), tolerance)
    return path


def run_onnx(
    path,  # of an ONNX file
    images: torch.Tensor,  # (images, C, H, W), prepared
):  # array of outputs
    "Run an exported model in onnxruntime, on the CPU. ImportError where it is not installed."
    runtime = require("onnxruntime", "running an ONNX file")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


def export_program(
    model,  # a vision transformer
    path,  # of the file, ending in .pt2
    tolerance=1e-4,  # as in `export_onnx`
) -> Path:
    "Write a model as a program that `torch.export.load` opens, for any number of images."
    path = _checked(path, ".pt2")
    model, images = plain_copy(model), example_images(model)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    with explained(path):
        torch.export.save(program, path)
    again, more = torch.export.load(path).module(), example_images(model, 5)
    _compare(path, model(more), again(more), tolerance)
    return path


def _checked(path, suffix):
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"{path} should end in {suffix}; give such a name.")
    check_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _compare(path, wanted, outputs, tolerance):
    "RuntimeError, and no file, when outputs differ."
    difference = ((outputs - wanted).abs().max() / wanted.abs().max()).item()
    if not difference <= tolerance:
        path.unlink(missing_ok=True)
        raise RuntimeError(f"{path} would compute something else: outputs differ by {difference:.1e} of the largest; "
                           "it was removed. Try another version of torch or onnxruntime.")
