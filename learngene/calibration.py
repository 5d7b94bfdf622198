"Calibration images: batches of unlabelled images in the form that a model takes, from whatever holds them."
import sys

import torch
from torch.utils.data import DataLoader

from .matching import warn_of_normalisation
from .model_input import check_floats


def image_batches(images, batch_size, model=None):
    """Yield image tensors (B, C, H, W) from a tensor, a Dataset or a DataLoader.

    Labels are dropped. With `model`, a timm VisionTransformer, the images are checked against its input.
    Raises ValueError for anything that holds no images, and for images of another size, channel count or type.
    """
    if model is not None:
        warn_of_normalisation(model, "the model", images)
    for batch in _tensors(images, batch_size):
        if model is not None:
            check_images(batch, model)
        yield batch


def count_batches(
    images,  # a tensor, a Dataset or a DataLoader
    batch_size: int,  # images a pass, when `images` is not a DataLoader
    max_images=None,  # use no more than this
):  # a whole number; None where the images cannot be counted
    "Count the passes of `image_batches`, to say how far a step is."
    if isinstance(images, DataLoader):
        images, batch_size = images.dataset, images.batch_size or 1
    if not hasattr(images, "__len__"):
        return None
    count = len(images) if max_images is None else min(len(images), max_images)
    return -(-count // batch_size)


def calibration_batches(images, batch_size, max_images, model):
    """List batches of at most `max_images` images (None = all) on the model's device.

    Raises ValueError when there are none, and when some are not finite.
    """
    remaining = sys.maxsize if max_images is None else max_images
    if type(remaining) is not int or remaining < 1:
        raise ValueError(f"max_images is {max_images!r}, wanted a whole number of at least 1.")
    batches, device = [], next(model.parameters()).device
    for batch in image_batches(images, batch_size, model):
        batch = batch[:remaining].to(device)
        if len(batch):
            batches.append(batch)
            remaining -= len(batch)
        if remaining <= 0:
            break
    if not batches:
        raise ValueError("there are no images to calibrate on; give at least one.")
    if not all(x.isfinite().all() for x in batches):
        raise ValueError("some calibration images are not finite; look for NaN in the pixels or a std of 0.")
    return batches


def check_images(batch, model):
    "Raise ValueError unless a vision transformer takes the images in `batch` (B, C, H, W)."
    embed = getattr(model, "patch_embed", None)
    side = getattr(embed, "img_size", None)
    wanted, given = _size_text(model.in_chans, *(side or batch.shape[2:])), _size_text(*batch.shape[1:])
    if batch.shape[1] != model.in_chans or getattr(embed, "strict_img_size", False) and wanted != given:
        remedy = f" (data.image_size: {side[0]} in a recipe, image_size={side[0]} in a DataSpec)" if side else ""
        raise ValueError(f"images have {given}, the model takes {wanted}; load them at its size{remedy}.")
    check_floats(batch)


def _size_text(channels, height, width):
    return f"{channels} channel{'s' * (channels != 1)} of {height} x {width} pixels"


def _tensors(images, batch_size):
    if isinstance(images, torch.Tensor):
        if images.ndim != 4:
            raise ValueError(f"images have shape {tuple(images.shape)}, wanted (images, channels, height, width).")
        yield from images.split(batch_size)
        return
    if isinstance(images, torch.utils.data.Dataset):
        # a generator of its own: a DataLoader would draw its seed from PyTorch's
        images = torch.utils.data.DataLoader(images, batch_size=batch_size, generator=torch.Generator())
    for batch in images:
        if isinstance(batch, dict):
            batch = batch.get("image", batch.get("pixel_values"))
        batch = batch[0] if isinstance(batch, (list, tuple)) else batch
        if not isinstance(batch, torch.Tensor) or batch.ndim != 4:
            raise ValueError("a batch holds no images; wanted a tensor (images, channels, height, width), alone, "
                             "first in a tuple, or as 'image' or 'pixel_values' in a dict.")
        yield batch
