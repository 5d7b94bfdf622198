"""Decoded once: the pixels of a dataset in one file, which later runs map into memory.

The file lies in the cache, under a hash of the images and of the version of what decoded them. It is written
completely or not at all, and rewritten when it is damaged.
"""
import json
import os
import shutil
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL
from torch.utils.data import ConcatDataset

from .decoding import DECODING, open_image
from .files import atomic_folder, cache_folder
from .images import hash_pieces

DECODED_LIMIT = 4 * 2**30  # bytes of pixels: larger datasets are decoded in every epoch
DECODED_LEAST = 500  # images: smaller datasets are not worth a file


@dataclass
class DecodedImages:
    """Images as uint8 arrays, mapped from one file.

    An array is (height, width, channels), or (height, width) for one channel.
    """
    folder: Path
    shapes: np.ndarray  # (images, 2): height and width; 0 for an image that cannot be decoded
    channels: int
    damaged: dict  # index of an image that cannot be decoded -> its path or bytes

    def __post_init__(self):
        sizes = self.shapes.prod(1) * self.channels
        self.ends = np.cumsum(sizes)
        self.starts, self.pixels = self.ends - sizes, None

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, i):
        if int(i) in self.damaged:
            return self.damaged[int(i)]  # opening it raises the error that names it
        if self.pixels is None:
            self.pixels = np.memmap(self.folder / "pixels", np.uint8, "r")
        shape = (*self.shapes[i], self.channels) if self.channels > 1 else tuple(self.shapes[i])
        return np.asarray(self.pixels[self.starts[i]:self.ends[i]]).reshape(shape)

    def __getstate__(self):  # a DataLoader's process maps the file itself
        return self.__dict__ | dict(pixels=None)


def decoded(images):
    """Return the same `Images`, from a file of pixels if they are many and fit.

    Warns when the file cannot be written.
    """
    encoded = isinstance(images.items, list) and len(images) and isinstance(images.items[0], (bytes, str))
    if not encoded or len(images) < DECODED_LEAST:
        return images
    times = [os.stat(file).st_mtime_ns for file in images.items] if isinstance(images.items[0], str) else []
    version = f"decoding {DECODING} {images.background}"  # the digest tells it only where it matters
    key = hash_pieces(images.digest, images.mode, PIL.__version__, version, *times)[:16]
    folder = cache_folder() / "decoded" / key
    items = _map_pixels(folder, images)
    if items is None and _fits(images):
        try:
            _write_pixels(folder, images)
        except OSError as e:  # the disk is full, or another process was first
            if not folder.is_dir():
                warnings.warn(f"the decoded images cannot be kept in {folder} ({e}), so each is decoded in every "
                              "epoch; make room there, or set LEARNGENE_HOME.", stacklevel=2)
        items = _map_pixels(folder, images)
    return images if items is None else replace(images, items=items)


def check_decodable(images, index):
    """Raise ValueError for the first of the images at `index` that is known to be damaged.

    Small datasets, which nothing has decoded yet, are looked through; large ones that do not fit into the cache are
    left to the run.
    """
    suspects = sorted(_suspects(images.items) & {int(i) for i in index})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda i: images[i] and None, suspects):
            pass


def _suspects(items):
    "List indices of damaged images, and in small datasets of those not yet decoded."
    if isinstance(items, ConcatDataset):
        starts = [0, *items.cumulative_sizes]
        return {start + i for start, joined in zip(starts, items.datasets) for i in _suspects(joined)}
    if isinstance(items, list):
        return set(range(len(items))) if len(items) < DECODED_LEAST else set()
    return set(getattr(items, "damaged", ()))


def _fits(images):
    "Whether all pixels stay within the limit, judged by a sample of 50 images."
    sizes = []
    for i in np.linspace(0, len(images) - 1, 50).astype(int):
        try:
            with open_image(images.items[i]) as image:
                sizes.append(image.width * image.height * len(images.mode))
        except Exception:  # damaged
            pass
    return bool(sizes) and np.mean(sizes) * len(images) <= DECODED_LIMIT


def _decode(images, i):
    "Decode the pixels of one image; None for a damaged one, which raises on access."
    try:
        return np.asarray(images[i])
    except ValueError:
        return None


def _write_pixels(folder, images):
    "Write the pixels of all images, in order. OSError when the disk is full."
    shapes, crc = np.zeros((len(images), 2), np.int64), 0
    with ThreadPoolExecutor(os.cpu_count()) as pool, atomic_folder(folder) as new, open(new / "pixels", "wb") as file:
        for start in range(0, len(images), 1024):
            rows = range(start, min(start + 1024, len(images)))
            for i, pixels in zip(rows, pool.map(lambda i: _decode(images, i), rows)):
                if pixels is not None:
                    shapes[i] = pixels.shape[:2]
                    data = pixels.tobytes()
                    file.write(data)
                    crc = zlib.crc32(data, crc)
        file.flush()
        os.fsync(file.fileno())
        (new / "index.json").write_text(json.dumps(dict(crc32=crc, shapes=shapes.tolist())), encoding="utf-8")


def _map_pixels(folder, images):
    "Map what `_write_pixels` wrote; None without a file. A damaged one is removed."
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        shapes = np.array(index["shapes"], np.int64)
        damaged = {i: images.items[i] for i in np.flatnonzero(shapes[:, 0] == 0).tolist()}
        items = DecodedImages(folder, shapes, len(images.mode), damaged)
        pixels = np.memmap(folder / "pixels", np.uint8, "r")
        complete = len(shapes) == len(images) and len(pixels) == items.ends[-1]
        if complete and zlib.crc32(pixels) == index["crc32"]:
            return items
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
