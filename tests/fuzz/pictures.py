"Damaged images and parquet tables: pixels, or one error that names the file."

import io
import random
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fuzz.damage import change_bytes
from learngene.data import load_data
from learngene.recipe import AugmentSpec, DataSpec

QUICK = 24
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
AUGMENT = AugmentSpec(crop="none", rand_augment=None, erasing=0.0)


def cases(seed):
    rng = random.Random(seed)
    pixels = np.random.RandomState(seed).randint(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    for i in range(120):
        owner = tempfile.TemporaryDirectory()  # lives as long as the case
        folder = Path(owner.name)
        if i % 2:
            kind = rng.choice(FORMATS)
            raw, done = change_bytes(rng, _encoded(pixels[0], kind))
            yield f"{i} {kind} {done}", partial(_read_folder, owner, folder, pixels, kind, raw), (folder,)
        else:
            raw, done = change_bytes(rng, _table(pixels))
            yield f"{i} parquet {done}", partial(_read_table, owner, folder, raw), (folder,)


def _encoded(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _table(pixels):
    rows = [dict(image=dict(bytes=_encoded(p, "PNG"), path=None), label=i % 2) for i, p in enumerate(pixels)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def _read_folder(owner, folder, pixels, kind, raw):
    for i, image in enumerate(pixels):
        file = folder / "train" / "ab"[i % 2] / f"{i}.{kind.lower()}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(raw if i == 0 else _encoded(image, kind))
    _look_at(load_data(DataSpec("folder:x", path=str(folder), val_fraction=0.2), AUGMENT))


def _read_table(owner, folder, raw):
    (folder / "train-00000-of-00001.parquet").write_bytes(raw)
    _look_at(load_data(DataSpec("parquet:x", path=str(folder), val_fraction=0.2), AUGMENT))


def _look_at(data):
    for split in (data.train, data.val):
        for i in range(len(split)):
            assert split[i][0].isfinite().all()
