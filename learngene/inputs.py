"""Images in any form, as a model takes them: files, folders, datasets by name, PIL images, arrays, tensors.

Pictures are prepared as the model's notes say. Floating-point tensors count as prepared already.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader, IterableDataset

from .anatomy import image_shape
from .calibration import check_images, image_batches
from .data import Data, load_data
from .datasets import OWN, READERS, folder_layout
from .decoding import ENDINGS, decode_image
from .files import near
from .folders import walk_files
from .input_specs import spec_for
from .model_notes import class_names, input_config
from .progress import track

FORMS = ("a tensor, a Dataset, a DataLoader, a folder, a name such as 'folder:pets', 'parquet:pets' or 'hub:org/name', "
         "or a list of files, PIL images or arrays")
IN_A_DICT = ("image", "pixel_values", "img")  # where a dataset of dicts keeps its images


class Preparation:
    "Turn one picture into the tensor that a model takes."
    def __init__(
        self,
        model,  # a vision transformer of timm
    ):
        config = input_config(model)
        channels = config["input_size"][0]
        if channels not in (1, 3):
            raise ValueError(f"the model takes {channels} channels, which no picture has; give tensors.")
        self.mode = "L" if channels == 1 else "RGB"
        self.transform, self.model = create_transform(**config, is_training=False), model

    def __call__(self, item, name="the image"):
        "Prepare a file, PIL image or array (H, W[, C]); ValueError, with `name`, for anything else."
        if isinstance(item, torch.Tensor) and item.is_floating_point():
            check_images(item[None] if item.ndim == 3 else item, self.model)
            return item
        if isinstance(item, torch.Tensor):
            item = item.movedim(0, -1).numpy() if item.ndim == 3 and item.shape[0] in (1, 3, 4) else item.numpy()
        if isinstance(item, np.ndarray):
            item = _as_pixels(item, name)
        elif not isinstance(item, (str, Path, bytes, Image.Image)):
            raise ValueError(f"{name} is a {type(item).__name__}; give a file, a PIL image, an array or a tensor.")
        return self.transform(_decode_picture(item, self.mode, name))


def _decode_picture(item, mode, name):
    "Decode a picture. FileNotFoundError, or ValueError for what is no image."
    if isinstance(item, (str, Path)) and not Path(item).expanduser().is_file():
        raise FileNotFoundError(f"there is no image {item}; give the path of a file.")
    try:
        return decode_image(Path(item).expanduser() if isinstance(item, (str, Path)) else item, mode)
    except Exception as error:  # decoders fail in many ways
        text = f"{name} cannot be read as an image ({error}); give one of {', '.join(ENDINGS[:4])}, ..."
    raise ValueError(text)


def _as_pixels(array, name):
    "Convert to an array of 8 bits (H, W[, C]); numbers between 0 and 1 are scaled."
    if array.ndim not in (2, 3):
        raise ValueError(f"{name} is an array of shape {array.shape}; give (height, width) or (height, width, 3).")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"{name} is an array of {array.dtype} outside 0 to 1; give 8-bit pixels from 0 to 255, or "
                             "a tensor that is normalised already.")
        array = (array * 255).round()
    elif array.dtype != np.uint8 and (array.min() < 0 or array.max() > 255):
        raise ValueError(f"{name} is an array of {array.dtype} outside 0 to 255; give 8-bit pixels.")
    return array.astype(np.uint8)


def open_pictures(
    images,  # one of FORMS
    model,  # a vision transformer of timm, for the size of datasets by name
):  # (a sequence of pictures or (picture, label), the source as text)
    "Find the images that are meant; nothing is decoded. Errors name what is missing or wrong."
    if isinstance(images, Data):
        return images.train_plain, images.name
    if isinstance(images, (str, Path)):
        return _open_named(images, model)
    if isinstance(images, Image.Image):
        return [images], "one image"
    if isinstance(images, np.ndarray):
        several = images.ndim == 4 or images.ndim == 3 and images.shape[-1] not in (1, 3, 4)
        return (images if several else [images]), "an array"
    if isinstance(images, torch.Tensor):
        return (images if images.ndim == 4 else images[None]), "a tensor"
    if isinstance(images, (Sequence, Iterable)) or hasattr(images, "__getitem__"):
        if not isinstance(images, Mapping):
            return images, f"a {type(images).__name__}"
    raise ValueError(f"images is {images!r:.80}; give {FORMS}.")


def _open_named(name, model):
    "Open the images of a file, a folder, or a dataset's name."
    path, kind = Path(name).expanduser(), str(name).partition(":")[0]
    if path.is_file():
        return [path], path.name
    if path.is_dir():
        if data := _data_in(path, model):
            return data.train_plain, path.name
        files = sorted(file for file in walk_files(path) if file.lower().endswith(ENDINGS))
        if not files:
            raise ValueError(f"{path} holds no images ({', '.join(ENDINGS[:6])}, ...); give another folder.")
        return files, path.name
    if kind in READERS and not isinstance(name, Path):
        data = load_data(spec_for(model, str(name)))
        return data.train_plain, data.name
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = near(path.name, siblings) or near(name, [*READERS, *(f"{own}:{name}" for own in OWN)])
    raise FileNotFoundError(f"there is no folder, image or dataset {str(name)!r}{hint}; give {FORMS}.")


def _data_in(path, model):
    "Load the dataset in a folder, at the model's size; None where the folder has no splits."
    layout = folder_layout(path)
    return load_data(spec_for(model, f"{layout}:{path.name}", path=str(path))) if layout else None


def picture_of(item):
    "Take the image out of an item of a dataset: alone, first in a tuple, or in a dict."
    if isinstance(item, Mapping):
        key = next((key for key in IN_A_DICT if key in item), None)
        if key is None:
            raise ValueError(f"the dataset's items have {', '.join(map(str, item))}; "
                             f"wanted one of {', '.join(IN_A_DICT)}.")
        return item[key]
    return item[0] if isinstance(item, (list, tuple)) else item


def prepare_pictures(
    pictures,  # a sequence, from `open_pictures`
    indices,  # which of them
    model,  # a vision transformer of timm
    title="reading images",  # of the progress bar
) -> torch.Tensor:  # (images, C, H, W)
    "Read pictures as the model takes them."
    preparation = None
    tensors = torch.empty(len(indices), *image_shape(model))
    for row, i in enumerate(track(indices, title)):
        item = picture_of(pictures[i])
        if not (isinstance(item, torch.Tensor) and item.is_floating_point()):
            preparation = preparation or Preparation(model)
            item = preparation(item, str(item) if isinstance(item, (str, Path)) else f"image {i}")
        check_images(item[None], model)
        tensors[row] = item
    return tensors


@dataclass
class CalibrationSets:
    "Images to solve with, and others to measure on, as the model takes them."
    calibration: torch.Tensor  # (images, C, H, W)
    others: torch.Tensor  # the same images where there are no others
    held_out: bool  # whether they are others
    source: str  # what they are, as text


def calibration_sets(
    images,  # one of FORMS
    model,  # a vision transformer of timm
    max_images=512,  # to solve with
    max_others=256,  # to measure on
    seed=0,  # which images are drawn
) -> CalibrationSets:
    "Draw calibration images at random, and others from what is left. ValueError without any."
    pictures, source = open_pictures(images, model)
    if isinstance(pictures, (DataLoader, IterableDataset)) or not hasattr(pictures, "__len__"):
        pictures = _first_images(pictures, max_images + max_others, model)
    n = len(pictures)
    if not n:
        raise ValueError(f"there are no images in {source}; give at least one.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    count = n if n < 8 else min(max_images, max(1, 3 * n // 4))
    calibration = prepare_pictures(pictures, order[:count], model)
    rest = order[count : count + max_others]
    others = prepare_pictures(pictures, rest, model, "reading other images") if rest else calibration
    return CalibrationSets(calibration, others, bool(rest), source)


def _first_images(batches, count, model):
    "Take the first images of something that yields batches, as one tensor."
    batches, held = (batches if isinstance(batches, DataLoader) else iter(batches)), []
    for batch in image_batches(batches, 64, model):
        held.append(batch[:count].cpu())
        count -= len(held[-1])
        if count <= 0:
            break
    return torch.cat(held) if held else torch.empty(0)


def labelled_data(
    name,  # a folder with class folders, a dataset's name, or Data
    model,  # a classifier
) -> Data:
    "Load labelled images as a classifier takes them; ValueError for other classes."
    if isinstance(name, Data):
        data = name
    else:
        path = Path(name).expanduser()
        data = _data_in(path, model) if path.is_dir() else load_data(spec_for(model, str(name)))
        if data is None:
            raise ValueError(f"{path} holds no train/ with a folder per class, and no Parquet shards; images without "
                             "labels cannot be evaluated.")
    names = class_names(model)
    if len(data.classes) != model.num_classes:
        raise ValueError(f"{data.name} has {len(data.classes)} classes, the model {model.num_classes}; give the images "
                         "it was trained on, or train it on these.")
    if names and set(names) == set(data.classes) and names != data.classes:
        raise ValueError(f"{data.name} has the model's classes in another order; name its folders so that the "
                         "alphabetical order is the model's.")
    return data
