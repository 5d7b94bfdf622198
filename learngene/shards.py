"""Parquet shards as on the Hugging Face hub: tables with an image and a label a row.

A split's files are called `train-00000-of-00002.parquet` and so on. They are read with pyarrow alone: Hugging Face's
`datasets` is an optional extra, copies each table into a cache of its own, and its fingerprint is not of the bytes.
"""
import hashlib
import json
import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from .files import in_one_line
from .images import SPLIT_NAMES, Images, encode_image, hash_pieces
from .labels import check_names, classes_of, clean_labels, encode_labels

IMAGE_COLUMNS = ["image", "img", "jpg", "png", "webp"]  # the first one that a table has is taken
LABEL_COLUMNS = ["label", "labels", "fine_label", "class", "target", "cls"]
CARD = "fingerprint.json"  # of a packed dataset: the hash of each shard
SHARD = re.compile(r"-(\d+)-of-(\d+)")  # number and total in a shard's name
ROW_OVERHEAD = 64  # bytes a row takes beside its image, at most


def find_shards(folder):
    """Map each split to its files, in any of the hub's layouts.

    They lie in `folder`, in its `data/`, or in the subfolder of one configuration, as `train-*.parquet`,
    `train.parquet` or `train/*.parquet`; without training files the result is empty. Raises ValueError for several
    configurations, and for two sets of files that could be one split.
    """
    places = [place for place in (folder, folder / "data") if _sets_of_files(place, "train")]
    if not places:
        places = [place for place in _subfolders(folder) if _sets_of_files(place, "train")]
        if len(places) > 1:
            names = ", ".join(place.name for place in places)
            raise ValueError(f"{folder} holds several configurations: {names}; choose one by its folder, e.g. "
                             f"parquet:{folder.name}/{places[0].name} (or data.path).")
    files = {}
    for split in SPLIT_NAMES:
        sets = [files_of_one for place in places for files_of_one in _sets_of_files(place, split)]
        if len(sets) > 1:
            texts = [f"{some[0].relative_to(folder)} ({len(some)} file{'s' * (len(some) > 1)})" for some in sets]
            raise ValueError(f"{folder} holds {len(sets)} sets of files for the {split} split: {', '.join(texts)}; "
                             "keep the files of one upload and move the others away.")
        if sets:
            files[split] = sets[0]
    return files


def has_shards(folder):
    "Whether a folder holds parquet files of a training split, in any of the layouts."
    return any(_sets_of_files(place, "train") for place in (folder, folder / "data", *_subfolders(folder)))


def _subfolders(folder):
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".") if folder.is_dir() else []


def _sets_of_files(place, split):
    "Group the files of a split right in a folder by the upload that their names tell."
    sets, copies = {}, Counter()
    for name in SPLIT_NAMES[split]:
        for file in sorted([*place.glob(f"{name}-*.parquet"), *place.glob(f"{name}.parquet"),
                            *place.glob(f"{name}/*.parquet")]):
            shard = SHARD.search(file.name)
            upload = "folder" if file.parent != place else "whole" if file.stem == name else shard and shard[2]
            copies[name, upload, shard and shard[1]] += bool(shard)  # a shard that is there twice is of two uploads
            sets.setdefault((name, upload, copies[name, upload, shard and shard[1]]), []).append(file)
    return list(sets.values())


def read_shards(files):
    """Read the shards that `find_shards` lists, as a dict of `Images`.

    Images stay encoded, in memory. Classes are the names in the schema, else the label values of the training split,
    in order. Raises FileNotFoundError for a missing shard, ValueError for a damaged one, for one that another packing
    made, and for labels or class names that the training split does not have.
    """
    shards = {split: [read_shard(file) for file in check_complete(split_files)] for split, split_files in files.items()}
    card_folder = files["train"][0].parent
    pairs = [pair for split in files for pair in zip(files[split], shards[split])]
    check_card(card_folder, {file.name: shard.hash for file, shard in pairs if file.parent == card_folder})
    first, train_labels = shards["train"][0], [label for shard in shards["train"] for label in shard.labels]
    classes = first.class_names or classes_of(train_labels, card_folder, first.label_column)
    return {split: _join_shards(shards[split], files[split], classes) for split in files}


@dataclass
class Shard:
    "One parquet file."
    items: list  # encoded images
    labels: list  # whole numbers or text, as `clean_labels` leaves them
    label_column: str  # its name
    class_names: list | None  # from the schema
    hash: str  # of the file's bytes


def read_shard(file):
    """Read one parquet file as a `Shard`.

    Raises ValueError for a damaged file, a missing column, and a row without an image or a label.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = file.read_bytes()
    with _naming_damage(file):
        shard = pq.ParquetFile(pa.BufferReader(raw))
        schema = shard.schema_arrow
    image = find_column(IMAGE_COLUMNS, schema.names, "image", file)
    label = find_column(LABEL_COLUMNS, schema.names, "label", file)
    with _naming_damage(file):
        table = shard.read([image, label])
        items = [v.get("bytes") if isinstance(v, dict) else v for v in table[image].to_pylist()]
        values = table[label].to_pylist()
    for row, item in enumerate(items):
        if not isinstance(item, bytes):
            raise ValueError(f"{file}, row {row}, has no image bytes; write the row again or remove it.")
    class_names = read_class_names((schema.metadata or {}).get(b"huggingface"), label, file)
    return Shard(items, clean_labels(values, file, label), label, class_names, hashlib.sha256(raw).hexdigest())


@contextmanager
def _naming_damage(file):
    "Turn whatever pyarrow raises for a damaged file into a ValueError that names the file."
    try:
        yield
    except Exception as e:
        raise ValueError(f"{file} is truncated or not a parquet file ({in_one_line(e)}); "
                         "download it again.") from None


def read_class_names(metadata, label, file):
    """Read the class names of a column from the hub's metadata in a schema.

    Returns None where there are none. Raises ValueError, which names `file`, for metadata that is broken, and for names
    that are no list of text.
    """
    try:
        schema = json.loads(metadata or b"null") or {}
        feature = ((schema.get("info") or {}).get("features") or {}).get(label) or {}
    except (ValueError, AttributeError):
        raise ValueError(f"{file}: the 'huggingface' metadata of its schema is broken ({metadata!r:.60}); download the "
                         "file again, or write it without.") from None
    names = feature.get("names") if isinstance(feature, dict) else None
    return check_names(names, file, label) if names else None


def find_column(known, columns, content, table):
    "Find the first of the `known` names among `columns`. ValueError without one."
    for name in known:
        if name in columns:
            return name
    raise ValueError(f"{table} has columns {', '.join(columns)}; "
                     f"wanted one named {', '.join(known)} for the {content}.")


def check_complete(files):
    "Return the files. FileNotFoundError when there are fewer than their names say."
    total = SHARD.search(files[0].name)
    if total and int(total[2]) != len(files):
        raise FileNotFoundError(f"{files[0].parent} holds {len(files)} of the {int(total[2])} shards that "
                                f"{files[0].name} belongs to; download the others.")
    return files


def check_card(folder, hashes):
    """Raise ValueError unless the card of a packed folder lists these hashes.

    `hashes` is by file name. A folder without a card passes.
    """
    card = folder / CARD
    if not card.is_file():
        return
    try:
        listed = json.loads(card.read_text(encoding="utf-8"))["shards"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{card} is damaged; pack the dataset again, or download the file again.") from None
    for name in sorted(listed.keys() | hashes.keys()):
        if listed.get(name) == hashes.get(name):
            continue
        problem = (f"has another fingerprint than in {CARD}" if name in hashes and name in listed
                   else f"is not named in {CARD}" if name in hashes else "is missing")
        raise ValueError(f"{folder / name} {problem}: the shards of one packing belong together; "
                         "download it again, or pack the dataset again.")


def _join_shards(shards, files, classes):
    "Make one `Images` of the shards of a split."
    for shard, file in zip(shards, files):
        if shard.class_names and shard.class_names != classes:
            raise ValueError(f"{file} names other classes than the first shard of train; use shards of one dataset.")
    items = [item for shard in shards for item in shard.items]
    labels = np.concatenate([encode_labels(shard.labels, classes, file, shard.label_column)
                             for shard, file in zip(shards, files)])
    locations = [f"{file}, row {row}" for shard, file in zip(shards, files) for row in range(len(shard.items))]
    digest = hash_pieces(*(shard.hash for shard in shards))
    return Images(items, labels, [str(c) for c in classes], digest, locations)


def write_shards(folder, split, images, max_bytes):
    "Write a split's images, in order, as shards of at most `max_bytes`; returns the files."
    groups, size = [[]], 0
    spare = 100_000 * (max_bytes > 400_000) + 40 * len(images.classes) + 2000  # for what a file holds beside its rows
    for i in range(len(images)):
        row_size = len(encode_image(images.items[i])) + ROW_OVERHEAD
        if row_size > max_bytes // 2:
            raise ValueError(f"the image in {images.locations[i]} has {row_size / 1e6:.3g} MB, too much for shards of "
                             f"{max_bytes / 1e6:.3g} MB; give a larger --max-mb.")
        if groups[-1] and size + row_size > max_bytes - spare:
            groups.append([])
            size = 0
        groups[-1].append(i)
        size += row_size
    names = [f"{split}-{number:05d}-of-{len(groups):05d}.parquet" for number in range(len(groups))]
    return [_write_shard(folder / name, images, rows, max_bytes) for name, rows in zip(names, groups)]


def _write_shard(path, images, rows, max_bytes):
    "Write some rows as one parquet file; the same rows give the same bytes."
    import pyarrow as pa
    import pyarrow.parquet as pq

    class_label = dict(_type="ClassLabel", names=list(images.classes))
    features = json.dumps(dict(info=dict(features=dict(image=dict(_type="Image"), label=class_label))))
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image_type), ("label", pa.int64())], metadata=dict(huggingface=features))
    encoded = pa.array([dict(bytes=encode_image(images.items[i]), path=None) for i in rows], image_type)
    table = pa.table([encoded, pa.array(images.labels[rows].tolist(), pa.int64())], schema=schema)
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"{path.name} has {size / 1e6:.3g} MB with what a shard holds beside its images, "
                         f"more than {max_bytes / 1e6:.3g}; give a larger --max-mb.")
    return path
