"""Packed datasets: parquet shards of a limited size, for machines that take small files."""
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

from .datasets import dataset_folder, dataset_title, read_splits
from .files import atomic_folder, check_writable, explained
from .recipe import DataSpec
from .shards import CARD, find_shards, write_shards


def pack(
    spec: DataSpec | str,  # which dataset
    folder,  # to write; `parquet:<its name>` reads it, below `$LEARNGENE_DATA`
    max_mb=55.0,  # largest shard, in MB of a million bytes
) -> str:  # one line of what was written
    """Write a dataset as parquet shards, with a card that lists their hashes.

    Images stay encoded as they are. Shards that are small enough already are copied, so that the fingerprint stays.
    Raises ValueError when the folder is not empty, when an image is larger than half a shard, and for digits.
    """
    spec = DataSpec(spec) if isinstance(spec, str) else spec
    folder, max_bytes = Path(folder).expanduser(), int(max_mb * 1e6)
    check_writable(folder, is_folder=True)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already; give the name of a new folder.")
    splits = read_splits(replace(spec, channels=None, background="white"))  # both are chosen again at reading
    if any(images.mode != "RGB" for images in splits.values()):
        raise ValueError(f"{spec.name} comes with a library and has one channel; there is nothing to pack.")
    with atomic_folder(folder) as new, explained(folder):
        files = _copy_shards(spec, new, max_bytes) or [
            file for split, images in splits.items() for file in write_shards(new, split, images, max_bytes)]
        hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        counts = {split: len(images) for split, images in splits.items()}
        card = dict(name=dataset_title(spec), shards=hashes, images=counts, classes=len(splits["train"].classes))
        (new / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        sizes = [file.stat().st_size / 1e6 for file in files]
    return (f"{folder}: {sum(counts.values()):,} images in {len(files)} shards, {sum(sizes):.3g} MB in all, "
            f"the largest {max(sizes):.3g} MB")


def _copy_shards(spec, folder, max_bytes):
    "Copy the dataset's own shards if it has some and each is small enough; the new files."
    if not spec.name.startswith("parquet"):
        return []
    shards = find_shards(dataset_folder(spec))
    if max(file.stat().st_size for files in shards.values() for file in files) > max_bytes:
        return []
    names = {file: file.name if file.name.startswith(f"{split}-") else f"{split}-{i:05d}-of-{len(files):05d}.parquet"
             for split, files in shards.items() for i, file in enumerate(files)}  # train/0000.parquet: by its split
    return [shutil.copyfile(file, folder / name) for file, name in names.items()]
