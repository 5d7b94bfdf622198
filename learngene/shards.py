"""Parquet shards as on the Hugging Face hub: tables with an image and a label a row.

A split's files are called `train-00000-of-00002.parquet` and so on. They are read with pyarrow alone, because
`datasets` is an optional extra and a fingerprint is of the shards' bytes.
"""
import hashlib
import json
import re

import numpy as np

from .images import SPLIT_NAMES, Images, encode_image, hash_pieces

IMAGE_COLUMNS = ["image", "img", "jpg", "png", "webp"]  # the first one that a table has is taken
LABEL_COLUMNS = ["label", "labels", "fine_label", "class", "target", "cls"]
CARD = "fingerprint.json"  # of a packed dataset: the hash of each shard
ROW_OVERHEAD = 64  # bytes a row takes beside its image, at most


def find_shards(folder):
    "Map each split to its files in `folder` or its `data/`; empty without training files."
    for place in folder, folder / "data":
        files = {split: sorted(f for name in names for f in place.glob(f"{name}-*.parquet"))
                 for split, names in SPLIT_NAMES.items()}
        if files["train"]:
            return {split: split_files for split, split_files in files.items() if split_files}
    return {}


def read_shards(files):
    """Read the shards that `find_shards` lists, as a dict of `Images`.

    Images stay encoded, in memory. Classes are the names in the schema, else the label values of the training split,
    in order. Raises FileNotFoundError for a missing shard, ValueError for a damaged one, for one that another packing
    made, and for labels or class names that the training split does not have.
    """
    shards = {split: [read_shard(file) for file in check_complete(split_files)] for split, split_files in files.items()}
    hashes = {file.name: shard[3] for split in files for file, shard in zip(files[split], shards[split])}
    check_card(files["train"][0].parent, hashes)
    classes = shards["train"][0][2] or sorted({label for shard in shards["train"] for label in shard[1]})
    return {split: _join_shards(shards[split], files[split], classes) for split in files}


def read_shard(file):
    """Read one parquet file.

    Returns its images, encoded, its labels, its class names (None without any) and the hash of its bytes. Raises
    ValueError for a damaged file, a missing column, and a row without an image or a label.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = file.read_bytes()
    try:
        shard = pq.ParquetFile(pa.BufferReader(raw))
        columns = shard.schema_arrow.names
        image = find_column(IMAGE_COLUMNS, columns, "image", file)
        label = find_column(LABEL_COLUMNS, columns, "label", file)
        table = shard.read([image, label])
    except (pa.ArrowException, OSError) as e:
        raise ValueError(f"{file} is truncated or not a parquet file ({e}); download it again.") from None
    schema = json.loads((shard.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    class_names = schema.get("info", {}).get("features", {}).get(label, {}).get("names")
    items = [v.get("bytes") if isinstance(v, dict) else v for v in table[image].to_pylist()]
    labels = table[label].to_pylist()
    for row, (item, value) in enumerate(zip(items, labels)):
        if not isinstance(item, bytes) or value is None:
            missing = "label" if isinstance(item, bytes) else "image bytes"
            raise ValueError(f"{file}, row {row}, has no {missing}; write the row again or remove it.")
    return items, labels, class_names, hashlib.sha256(raw).hexdigest()


def find_column(known, columns, content, table):
    "Find the first of the `known` names among `columns`. ValueError without one."
    for name in known:
        if name in columns:
            return name
    raise ValueError(f"{table} has columns {', '.join(columns)}; "
                     f"wanted one named {', '.join(known)} for the {content}.")


def encode_labels(values, classes, table):
    """Turn label values into class numbers, an int64 array.

    Numbers are class numbers already, unless the classes are numbers, too; anything else is looked up in `classes`.
    Raises ValueError, which names `table`, for a value that is no class.
    """
    values = list(values)
    if all(isinstance(v, int) for v in values) and not all(isinstance(c, int) for c in classes):
        return np.array(values, dtype=np.int64)
    numbers = {c: number for number, c in enumerate(classes)}
    unknown = sorted({str(v) for v in values if v not in numbers})
    if unknown:
        raise ValueError(f"{table} has labels {', '.join(unknown[:5])} that are not among the classes of train; "
                         "correct them, or add the classes to train.")
    return np.array([numbers[v] for v in values], dtype=np.int64)


def check_complete(files):
    "Return the files. FileNotFoundError when there are fewer than their names say."
    total = re.search(r"-of-(\d+)", files[0].name)
    if total and int(total[1]) != len(files):
        raise FileNotFoundError(f"{files[0].parent} holds {len(files)} of the {int(total[1])} shards that "
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
        if shard[2] and shard[2] != classes:
            raise ValueError(f"{file} names other classes than the first shard of train; use shards of one dataset.")
    items = [item for shard in shards for item in shard[0]]
    labels = np.concatenate([encode_labels(shard[1], classes, file) for shard, file in zip(shards, files)])
    locations = [f"{file}, row {row}" for shard, file in zip(shards, files) for row in range(len(shard[0]))]
    digest = hash_pieces(*(shard[3] for shard in shards))
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
