"""Which datasets hold images that were decoded to other pixels before `decoding.DECODING`.

Results stay comparable where the pixels stayed the same, so the version of the decoding is part of the fingerprint of
those datasets only. Headers tell which images can have changed: turned by EXIF, with transparent parts, or of more than
8 bits. Those alone are decoded both ways, until one differs. A JPEG's, PNG's or WebP's header is read by its first
bytes, a hundred times as fast as by Pillow. What was costly to find out is noted in the cache.
"""
import json
import os
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO

import numpy as np
import PIL
from PIL import Image, ImageColor

from .decoding import DECODING, WHITE, full_range, is_deep, open_image, orientation, render_image
from .files import cache_folder, write_atomic
from .images import hash_pieces

NOTED = dict(images=10_000, decoded=100)  # a scan of so many is noted in the cache


def apply_options(images, channels, background):
    """Return `Images` that are decoded as the options say.

    Their digest covers what the options change. `channels` is 1, 3, or None for the dataset's own. Warns of images that
    are scaled by their own range.
    """
    mode = {None: images.mode, 1: "L", 3: "RGB"}[channels]
    colour = ImageColor.getrgb(background)
    changed, own_range = _scan(images, background)  # own_range: how many, and the first of them
    pieces = [f"decoding {DECODING}"] * changed + [f"background {colour}"] * (changed and colour != WHITE)
    pieces += [f"mode {mode}"] * (mode != images.mode)
    if own_range[0]:
        warnings.warn(f"{own_range[0]} of {len(images)} images hold 32-bit integers or floats, the first of them "
                      f"{images.locations[own_range[1]]}: each is scaled by its own smallest and largest value; save "
                      "them with 8 or 16 bits to choose the scale yourself.", stacklevel=4)
    digest = hash_pieces(images.digest, *pieces) if pieces else images.digest
    return replace(images, mode=mode, background=background, digest=digest)


def _scan(images, background):
    "Whether any image decodes to other pixels than before; count and first of those of their own range."
    items = images.items
    if isinstance(items, np.ndarray) and items.dtype == np.uint8 and (items.ndim == 3 or items.shape[3:] == (3,)):
        return False, [0, None]
    paths = isinstance(items, list) and items and all(isinstance(item, str) for item in items)
    times = [os.stat(path).st_mtime_ns for path in items] if paths else []
    key = hash_pieces(images.digest, DECODING, PIL.__version__, background, *times)[:16]
    note = cache_folder() / "scanned" / f"{key}.json"
    try:
        changed, (count, first) = json.loads(note.read_text(encoding="utf-8"))
        return changed is True, [count, first and int(first)]
    except (OSError, ValueError, TypeError):
        pass
    changed, own_range, decoded = _look_through(items, len(images), background)
    if len(images) >= NOTED["images"] or decoded >= NOTED["decoded"]:
        try:
            write_atomic(note, json.dumps([changed, own_range]))
        except OSError:  # a cache that cannot be written costs time alone
            pass
    return changed, own_range


def _look_through(items, count, background):
    "Scan as `_scan` does; also return the number of images that had to be decoded."
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        blocks = pool.map(lambda block: [suspect_kind(items[i]) for i in block],
                          [range(start, min(start + 256, count)) for start in range(0, count, 256)])
        kinds = [kind for block in blocks for kind in block]
        suspects = [i for i, kind in enumerate(kinds) if kind]
        for start in range(0, len(suspects), 64):
            rows = suspects[start:start + 64]
            changed = any(pool.map(lambda i: decodes_differently(items[i], background), rows))
            if changed:
                break
    own_range = [kinds.count("own range"), kinds.index("own range") if "own range" in kinds else None]
    return bool(suspects) and changed, own_range, start + 64 if suspects else 0


def suspect_kind(item):
    "Tell by the header why an image can have changed: \"\", \"changed\" or \"own range\"."
    try:
        if is_plain(item):
            return ""
        with open_image(item) as image:
            if is_deep(image):
                return "changed" if full_range(image) else "own range"
            box = image.tile[0][1] if image.format == "GIF" and image.tile else None
            partial = box is not None and tuple(box) != (0, 0, *image.size)
            late = image.format == "PNG"  # `is_plain` has seen something, maybe behind the pixels
            return "changed" if late or partial or image.has_transparency_data or orientation(image) != 1 else ""
    except Exception:  # damaged: an error before, and an error now
        return ""


def decodes_differently(item, background):
    "Whether an image has other pixels than Pillow's bare conversion gives. False if damaged."
    try:
        with open_image(item) as image:
            image.load()
            if image.mode == "P":
                image.info.pop("transparency", None)  # Pillow would warn, and leave it out
            before = image.convert("RGB")
        with open_image(item) as image:
            after = render_image(image, "RGB", background)
        return before.size != after.size or before.tobytes() != after.tobytes()
    except Exception:
        return False


def is_plain(item):
    "Whether an image is upright, opaque and of 8 bits, by its first bytes. False if unsure."
    if isinstance(item, Image.Image):
        return False
    if isinstance(item, np.ndarray):
        return item.dtype == np.uint8 and (item.ndim == 2 or item.shape[2:] in ((1,), (3,)))
    with BytesIO(item) if isinstance(item, bytes) else open(item, "rb") as file:
        head = file.read(26)
        try:
            if head[:3] == b"\xff\xd8\xff":
                return _is_plain_jpeg(file)
            if head[:8] == b"\x89PNG\r\n\x1a\n":
                return _is_plain_png(file, *head[24:26])
        except (struct.error, TypeError):  # shorter than it says
            return False
        return head[8:16] == b"WEBPVP8 "  # alpha and EXIF need the extended form


def _is_plain_jpeg(file):
    "Walk the segments before the pixels: is there no EXIF and no XMP?"
    file.seek(2)
    while True:
        marker, length = struct.unpack(">HH", file.read(4))
        if marker == 0xFFDA or not 0xFFC0 <= marker < 0xFFFF:
            return marker == 0xFFDA  # the pixels follow, or something unusual
        if marker == 0xFFE1 and file.read(5) in (b"Exif\0", b"http:"):
            return False
        file.seek(file.tell() + length - 2 - 5 * (marker == 0xFFE1))


def _is_plain_png(file, depth, colour_type):
    "Walk the chunks, those behind the pixels too: does none turn the image or make parts transparent?"
    if colour_type > 3 or depth == 16 and colour_type == 0:
        return False
    file.seek(8)
    while True:
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return True
        length, kind = struct.unpack(">I4s", head)
        keyword = file.read(min(17, length)) if kind in (b"tEXt", b"zTXt", b"iTXt") else b""
        if kind in (b"tRNS", b"eXIf") or keyword in (b"Raw profile type ", b"XML:com.adobe.xmp"):
            return False
        file.seek(file.tell() + length + 4 - len(keyword))
