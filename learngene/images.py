"""Labelled images by index, in whatever form: arrays, files, or encoded bytes in a table."""
import hashlib
import os
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import ConcatDataset

from .decoding import decode_image, open_image, orientation
from .labels import normal_name

# what each split is called in folders and files
SPLIT_NAMES = dict(train=["train"], validation=["validation", "valid", "val"], test=["test"])


@dataclass
class Images:
    """Labelled images by index, each decoded on access.

    Raises ValueError, with the image's location, for one that cannot be decoded.
    """
    items: object  # by index: an array, a path, encoded bytes, or a PIL image
    labels: np.ndarray  # class of each image, from 0
    classes: list  # class names
    digest: str  # hash that stands for all of the content
    locations: object  # by index: the file or table row of the image, for error messages
    mode: str = "RGB"  # of the decoded image: "RGB", or "L" for one channel
    background: str = "white"  # shows through transparent parts

    def __len__(self):
        return len(self.labels)

    def in_class_order(self, classes):
        "Return the same images, classes numbered as in `classes`, a permutation of the names."
        numbers = {normal_name(name): number for number, name in enumerate(classes)}
        if sorted(numbers) != sorted(map(normal_name, self.classes)):
            raise ValueError(f"{list(classes)[:5]} are not the classes {self.classes[:5]} in an order of their own; "
                             "give the same names.")
        order = np.array([numbers[normal_name(name)] for name in self.classes])
        labels = np.where(self.labels < 0, self.labels, order[self.labels])
        return replace(self, labels=labels, classes=list(classes))

    def __getitem__(self, i):
        try:
            return decode_image(self.items[i], self.mode, self.background)
        except Exception as e:  # decoders fail in many ways: struct.error, KeyError, MemoryError, ...
            location = self.locations[i]  # IndexError past the end, which stops a loop
            reason = str(e) if isinstance(e, (OSError, ValueError)) else f"{type(e).__name__}: {e}"
            text = f"the image in {location} cannot be read ({reason}); download it again or remove it."
        raise ValueError(text)


def encode_image(item):
    "Return the bytes of an image file; arrays and PIL images become lossless PNG."
    if isinstance(item, bytes):
        return item
    if not isinstance(item, (np.ndarray, Image.Image)):
        return Path(item).read_bytes()
    file = BytesIO()
    with open_image(item) as image:
        as_it_is = image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") and orientation(image) == 1
        (image if as_it_is else decode_image(image)).save(file, "PNG")
    return file.getvalue()


def hash_pieces(*pieces):
    """Hash bytes, or the text of anything else, piece by piece; a hexadecimal SHA-256.

    Each piece is preceded by its length, so that ("ab", "c") and ("a", "bc") differ.
    """
    sha = hashlib.sha256()
    for piece in pieces:
        piece = piece if isinstance(piece, bytes) else str(piece).encode("utf-8", "surrogateescape")
        sha.update(len(piece).to_bytes(8, "little"))
        sha.update(piece)
    return sha.hexdigest()


def images_from_files(root, files, labels, classes):
    """Make `Images` of the image files below `root`, sorted by name.

    The digest covers names, sizes and labels: hashing the content of a million files takes longer than an epoch.
    """
    root = Path(root)
    rows = sorted((Path(file).relative_to(root).as_posix(), int(label)) for file, label in zip(files, labels))
    paths = [str(root / name) for name, _ in rows]
    digest = hash_pieces(*(f"{name} {_size_of(path)} {label}" for (name, label), path in zip(rows, paths)))
    return Images(paths, np.array([label for _, label in rows], dtype=np.int64), classes, digest, paths)


def _size_of(path):
    try:
        return os.stat(path).st_size
    except OSError as e:
        raise FileNotFoundError(f"{path} cannot be read ({e.strerror}); if it is a link that leads nowhere, restore "
                                "its target or remove it.") from None


def join_images(first, second):
    "Append the images of `second` to those of `first`, whose classes and mode hold for both."
    return Images(ConcatDataset([first.items, second.items]), np.concatenate([first.labels, second.labels]),
                  first.classes, hash_pieces(first.digest, second.digest),
                  ConcatDataset([first.locations, second.locations]), first.mode, first.background)


def check_labels(images, name):
    """Raise ValueError unless every label is the number of a class.

    The error calls the images `name`.
    """
    low, high = images.labels.min(), images.labels.max()
    if low < 0 or high >= len(images.classes):
        raise ValueError(f"{name} has labels from {low} to {high}, but {len(images.classes)} classes; "
                         f"wanted labels from 0 to {len(images.classes) - 1}.")
