"Images by name: read, split, transformed, decoded once, packed; and the errors of each."
import io
import json
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from learngene import decoded as decoded_module
from learngene import images as images_module
from learngene.data import (IMAGENET_DEFAULT_MEAN, count_training_images, data_fingerprint, eval_transform, load_data,
                            posterize_some, split_images, stratified, train_transform)
from learngene.datasets import READERS, TORCHVISION, data_folder, dataset, dataset_names, read_splits
from learngene.decoded import DecodedImages, decoded
from learngene.images import Images, encode_image, hash_pieces
from learngene.packing import pack
from learngene.recipe import AugmentSpec, DataSpec
from learngene.labels import encode_labels
from learngene.shards import find_column, read_shard

OFF = dict(rand_augment=None, erasing=0.0, hflip=0.0)


def picture(i, mode="RGB", size=(12, 10), kind="png"):
    "Encode a small picture that differs with `i`."
    shade = 7 * i % 256
    colours = {"RGB": (shade, 255 - shade, i % 5), "L": shade, "RGBA": (shade, 0, 0, 128), "P": shade,
               "CMYK": (shade, 0, 0, 0), "1": i % 2}
    Image.new(mode, size, colours[mode]).save(file := io.BytesIO(), kind)
    return file.getvalue()


def alternating(count, classes=2):
    "Labels 0, 1, 0, 1, ..."
    return [i % classes for i in range(count)]


def write_shard(file, labels, classes=None, image="image", label="label", start=0, pictures=None, paths=True):
    "Write a parquet file as the hub would, of pictures from number `start` or those given."
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = pictures or [picture(start + i) for i in range(len(labels))]
    rows = [{"bytes": encoded, "path": f"{i}.png" if paths else None} for i, encoded in enumerate(pictures)]
    table = pa.table({image: rows, label: labels})
    if classes:
        features = {label: {"names": classes, "_type": "ClassLabel"}, image: {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
    return file


@pytest.fixture
def shards(tmp_path):
    "Two shards of train, one of test: 40 and 10 images in two classes."
    folder = tmp_path / "pets"
    write_shard(folder / "train-00000-of-00002.parquet", alternating(20), ["cat", "dog"])
    write_shard(folder / "train-00001-of-00002.parquet", alternating(20), ["cat", "dog"], start=20)
    write_shard(folder / "test-00000-of-00001.parquet", alternating(10), ["cat", "dog"], start=40)
    return folder


def write_folder(root, **counts):
    "Write class folders of cats and dogs, so many pictures for each split."
    for split, count in counts.items():
        for i in range(count):
            file = root / split / ("cat", "dog")[i % 2] / f"{split}{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(i))
    return root


def spec(name, path, **options):
    "A DataSpec of images of 8 pixels, a fifth of them for validation."
    return DataSpec(name, path=str(path), **dict(image_size=8, val_fraction=0.2) | options)


def seed_all(seed):
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)


# ---- digits

def test_digits():
    data = load_data(DataSpec())
    assert data.sizes == dict(train=1293, val=145, test=359)
    assert (data.in_chans, data.image_size, data.mean, data.std) == (1, 8, (0.3052,), (0.3758,))
    assert len(data.classes) == 10
    x, y = data.train[0]
    assert x.shape == (1, 8, 8) and x.dtype == torch.float32 and isinstance(y, int)
    text = "digits: 1,293 train, 145 val, 359 test images of 8 px in 10 classes, 1 channel, "
    assert str(data) == text + data.fingerprint


def test_a_stated_normalisation(shards):
    plain = load_data(spec("parquet", shards))
    stated = spec("parquet", shards, mean=0.5, std=[0.5, 0.25, 0.5])
    half = load_data(stated, AugmentSpec(crop="none", **OFF))
    assert (half.mean, half.std, half.fingerprint) == ((0.5,) * 3, (0.5, 0.25, 0.5), plain.fingerprint)
    pixels = [torch.tensor(d.std).view(3, 1, 1) * d.test[0][0] + torch.tensor(d.mean).view(3, 1, 1)
              for d in (plain, half)]
    assert torch.allclose(*pixels, atol=1e-6) and torch.equal(half.train[0][0], half.train_plain[0][0])
    assert load_data(DataSpec(mean=0.5)).mean == (0.5,)
    with pytest.raises(ValueError, match="data.std has 3 numbers, but the images of digits have 1 channel; give one"):
        load_data(DataSpec(std=[0.5] * 3))


def test_the_fingerprint_of_digits_is_a_constant():
    assert load_data(DataSpec()).fingerprint == "cb94876540080dc0"


@pytest.mark.parametrize("options", [
    dict(), dict(val_fraction=0.5), dict(fraction=0.3), dict(val_fraction=0.0), dict(val_fraction=1.0)], ids=str)
def test_splits_are_disjoint(options):
    data = load_data(DataSpec(**options))
    train, val, test = (set(split.index.tolist()) for split in (data.train, data.val, data.test))
    assert not train & val and not train & test and not val & test
    assert len(np.unique(data.train.labels)) == 10
    assert np.array_equal(data.train.index, data.train_plain.index)


def test_no_validation_images():
    data = load_data(DataSpec(val_fraction=0.0))
    assert data.sizes == dict(train=1438, val=0, test=359) and list(DataLoader(data.val)) == []


def test_all_splits_are_stratified():
    data = load_data(DataSpec(fraction=0.2))
    shares = np.bincount(data.test.images.labels) / 1797
    for split in data.train, data.val, data.test:
        assert np.abs(np.bincount(split.labels) / len(split) - shares).max() < 0.01


def test_fraction_changes_training_images_only():
    full, *reduced = (load_data(DataSpec(fraction=f)) for f in (1.0, 0.5, 0.1, 0.0001))
    for data in reduced:
        assert np.array_equal(data.val.index, full.val.index) and np.array_equal(data.test.index, full.test.index)
    half, tenth, least = (set(d.train.index) for d in reduced)
    assert least < tenth < half < set(full.train.index) and len(least) == 10
    assert abs(len(half) - len(full.train) / 2) <= 10


def test_fraction_seeds_draw_other_images():
    a, b = (load_data(DataSpec(fraction=0.25, fraction_seed=s)) for s in (0, 1))
    assert len(a.train) == len(b.train) and set(a.train.index) != set(b.train.index)
    assert np.array_equal(a.val.index, b.val.index) and a.fingerprint != b.fingerprint
    assert np.array_equal(*(load_data(DataSpec(fraction_seed=s)).train.index for s in (0, 1)))


def test_the_fingerprint_depends_on_the_splits_alone():
    changes = [{}, dict(fraction=0.5), dict(fraction=0.5, fraction_seed=1), dict(split_seed=1), dict(val_fraction=0.2)]
    assert len({load_data(DataSpec(**c)).fingerprint for c in changes}) == len(changes)
    same = [{}, dict(image_size=16), dict(crop_pct=0.9), dict(fraction_seed=3), dict(path="/anywhere")]
    assert len({load_data(DataSpec(**c)).fingerprint for c in same}) == 1


@pytest.mark.parametrize("start, workers", [("fork", 2), ("spawn", 1)])  # a spawned worker imports everything again
def test_loader_with_workers(start, workers):
    data = load_data(DataSpec(fraction=0.1), AugmentSpec(crop="pad", pad=1))
    batches = list(DataLoader(data.train, batch_size=32, num_workers=workers, multiprocessing_context=start))
    assert sum(len(y) for _, y in batches) == len(data.train)
    assert torch.cat([y for _, y in batches]).tolist() == data.train.labels.tolist()


# ---- splits

def test_stratified():
    labels = np.repeat([0, 1, 2], [10, 20, 1])
    assert np.bincount(labels[stratified(labels, 0.5, 0)], minlength=3).tolist() == [5, 10, 1]
    assert np.bincount(labels[stratified(labels, 1.0, 0, spare=1)], minlength=3).tolist() == [9, 19, 0]
    assert np.bincount(labels[stratified(labels, 0.0, 0, least=1)], minlength=3).tolist() == [1, 1, 1]
    assert stratified(labels, 0.0, 0).tolist() == [] and stratified(labels[:0], 0.5, 0).tolist() == []


def test_stratified_is_frozen():
    assert stratified(np.arange(20) % 2, 0.3, 7).tolist() == [0, 2, 10, 11, 17, 19]


def test_split_images_is_what_load_data_uses():
    splits, data = split_images(DataSpec(), read_splits(DataSpec())), load_data(DataSpec())
    assert splits.fingerprint == data.fingerprint and np.array_equal(splits.train_index, data.train.index)
    assert np.array_equal(np.union1d(splits.train_index, splits.val_index), splits.candidates)


# ---- parquet

def test_parquet(shards):
    data = load_data(spec("parquet", shards))
    assert data.sizes == dict(train=32, val=8, test=10) and data.classes == ["cat", "dog"]
    assert data.name == "pets" and data.in_chans == 3 and data.train[0][0].shape == (3, 8, 8)
    assert data.mean == IMAGENET_DEFAULT_MEAN
    assert data.test.labels.tolist() == [0, 1] * 5
    pickle.loads(pickle.dumps(data)).train[0]


@pytest.mark.parametrize("mode, kind", [
    ("L", "png"), ("RGBA", "png"), ("P", "png"), ("1", "png"), ("CMYK", "jpeg"), ("RGB", "webp")])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode, kind):
    pictures = [picture(i, mode, kind=kind) for i in range(10)]
    write_shard(tmp_path / "train-0.parquet", [0, 1] * 5, ["a", "b"], pictures=pictures)
    assert load_data(spec("parquet", tmp_path)).train[0][0].shape == (3, 8, 8)


def test_parquet_label_values(tmp_path):
    write_shard(tmp_path / "numbers" / "train-0.parquet", [3, 7] * 5)
    assert load_data(spec("parquet", tmp_path / "numbers")).classes == ["3", "7"]
    write_shard(tmp_path / "words" / "train-0.parquet", ["owl", "bat"] * 5, image="img", label="fine_label")
    data = load_data(spec("parquet", tmp_path / "words"))
    assert data.classes == ["bat", "owl"] and set(data.train.labels) == {0, 1}


def test_columns_and_labels_of_a_table():
    columns = ["img", "coarse_label", "fine_label"]
    assert find_column(["label", "fine_label"], columns, "label", "a table") == "fine_label"
    assert encode_labels([1, 0], ["cat", "dog"], "a table", "label").tolist() == [1, 0]
    assert encode_labels(["dog", "cat"], ["cat", "dog"], "a table", "label").tolist() == [1, 0]
    assert encode_labels([7, 3], [3, 7], "a table", "label").tolist() == [1, 0]


def test_validation_joins_training_beside_a_test_split(shards):
    write_shard(shards / "validation-00000-of-00001.parquet", [0, 1] * 5, ["cat", "dog"], start=60)
    data = load_data(spec("parquet", shards, val_fraction=0.0))
    assert data.sizes == dict(train=50, val=0, test=10)
    assert torch.equal(data.train[45][0], data.train_plain[45][0])
    (shards / "test-00000-of-00001.parquet").unlink()
    assert load_data(spec("parquet", shards, val_fraction=0.0)).sizes == dict(train=40, val=0, test=10)


def test_a_test_split_with_secret_labels_is_left_out(shards):
    write_shard(shards / "test-00000-of-00001.parquet", [-1] * 10, ["cat", "dog"])
    assert load_data(spec("parquet", shards)).sizes == dict(train=26, val=6, test=8)


def test_parquet_fingerprint(shards, tmp_path):
    before = load_data(spec("parquet", shards)).fingerprint
    moved = shards.rename(tmp_path / "moved")
    assert load_data(spec("parquet", moved)).fingerprint == before
    write_shard(moved / "test-00000-of-00001.parquet", alternating(10), ["cat", "dog"], start=41)
    assert load_data(spec("parquet", moved)).fingerprint != before


def test_damaged_image(shards):
    pictures = [picture(i) for i in range(10)]
    pictures[3], pictures[4] = pictures[3][:-30], b"nonsense"
    write_shard(shards / "test-00000-of-00001.parquet", [0, 1] * 5, ["cat", "dog"], pictures=pictures)
    test = read_splits(spec("parquet", shards))["test"]
    test[2]
    for row in 3, 4:
        with pytest.raises(ValueError, match=rf"test-00000-of-00001.parquet, row {row} cannot be read"):
            test[row]
    with pytest.raises(ValueError, match="test-00000-of-00001.parquet, row 3 cannot be read"):  # before a run begins
        load_data(spec("parquet", shards))


@pytest.mark.parametrize("damage", [
    lambda raw: raw[:-40], lambda raw: b"", lambda raw: b"hello" * 9,
    lambda raw: raw[:4] + b"\xff" * (len(raw) - 1500) + raw[-1496:]])
def test_damaged_shard(shards, damage):
    file = shards / "train-00001-of-00002.parquet"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match="train-00001-of-00002.parquet is truncated or not a parquet file"):
        load_data(spec("parquet", shards))


def test_missing_shard(shards):
    (shards / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="1 of the 2 shards"):
        load_data(spec("parquet", shards))


def test_unsuitable_tables(tmp_path, shards):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "odd" / "train-0.parquet"
    file.parent.mkdir()

    def refused(table, match):
        pq.write_table(pa.table(table), file)
        with pytest.raises(ValueError, match=match):
            load_data(spec("parquet", file.parent))

    refused({"text": ["a"], "label": [1]}, "has columns text, label; wanted one named image")
    refused({"image": [b"a"], "sentiment": [1]}, "has columns image, sentiment; wanted one named label")
    refused({"image": ["a.png"], "label": [1]}, "row 0, has no image bytes")
    refused({"image": [{"bytes": None, "path": "a.png"}], "label": [1]}, "row 0, has no image bytes")
    refused({"image": [picture(1), picture(2)], "label": [1, None]}, "row 1, has no label")
    write_shard(file, [0, 5] * 4, ["a", "b"])
    with pytest.raises(ValueError, match="labels from 0 to 5, but 2 classes"):
        load_data(spec("parquet", file.parent))
    write_shard(file, [-1, -1], ["a", "b"])
    with pytest.raises(ValueError, match="holds no labelled images"):
        load_data(spec("parquet", file.parent))
    write_shard(shards / "test-00000-of-00001.parquet", [0, 1], ["dog", "cat"])
    with pytest.raises(ValueError, match="names other classes"):
        load_data(spec("parquet", shards))


def test_a_class_that_training_lacks(tmp_path):
    write_shard(tmp_path / "train-0.parquet", ["owl", "bat"] * 5)
    write_shard(tmp_path / "test-0.parquet", ["owl", "cow"])
    with pytest.raises(ValueError, match="has labels cow that are not among the classes of train"):
        load_data(spec("parquet", tmp_path))


# ---- folders

def test_image_folder(tmp_path):
    data = load_data(spec("folder", write_folder(tmp_path, train=20, val=6)))
    assert data.sizes == dict(train=16, val=4, test=6)
    assert data.classes == ["cat", "dog"] and data.name == tmp_path.name
    assert data.test[5][1] == 1 and data.test[0][0].shape == (3, 8, 8)


def test_image_folder_without_held_out_images(tmp_path):
    data = load_data(spec("folder", write_folder(tmp_path, train=20)))
    assert data.sizes == dict(train=12, val=4, test=4)


def test_image_folder_with_three_splits(tmp_path):
    write_folder(tmp_path, train=20, validation=10, test=8)
    assert load_data(spec("folder", tmp_path)).sizes == dict(train=24, val=6, test=8)


def test_what_is_no_image_of_a_class_is_passed_over_and_counted(tmp_path, recwarn):
    before = load_data(spec("folder", write_folder(tmp_path, train=20, test=4)))
    cat = tmp_path / "train" / "cat"
    for hidden in ".hidden.png", "._cat.jpg", "Thumbs.db", ".cache/a.png", "__MACOSX/._a.jpg", "../.cache/b.png":
        (cat / hidden).parent.mkdir(exist_ok=True)
        (cat / hidden).write_text("no image")
    (cat / ".." / "__MACOSX").mkdir()
    assert load_data(spec("folder", tmp_path)).fingerprint == before.fingerprint and not recwarn.list
    (cat / "notes.txt").write_text("a note")
    (cat / "photo.HEIC").write_text("a photo")
    (tmp_path / "train" / "beside.png").write_bytes(picture(1))
    with pytest.warns(UserWarning, match=r"train: 3 files were passed over \(.heic 1, .png 1, .txt 1\)"):
        assert load_data(spec("folder", tmp_path)).fingerprint == before.fingerprint


def test_folder_fingerprint(tmp_path):
    before = load_data(spec("folder", write_folder(tmp_path / "a", train=20, test=4))).fingerprint
    assert load_data(spec("folder", write_folder(tmp_path / "b", train=20, test=4))).fingerprint == before
    (tmp_path / "a" / "test" / "dog" / "test1.png").write_bytes(picture(1, size=(40, 40)))
    changed = load_data(spec("folder", tmp_path / "a")).fingerprint
    (tmp_path / "b" / "test" / "dog" / "test1.png").rename(tmp_path / "b" / "test" / "cat" / "test1.png")
    moved = load_data(spec("folder", tmp_path / "b")).fingerprint
    assert len({before, changed, moved}) == 3


def test_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*train: put your images"):
        load_data(spec("folder", tmp_path / "none"))
    write_folder(tmp_path, train=20, val=4)
    (tmp_path / "val" / "cow").mkdir()
    with pytest.raises(ValueError, match="holds class folders .*cow.*, wanted some of train's: cat, dog"):
        load_data(spec("folder", tmp_path))
    bare = tmp_path / "bare"
    (bare / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds class folders"):
        load_data(spec("folder", bare))
    (bare / "train" / "cat").mkdir()
    text = r"train/cat holds no image files \(.jpg, .*; put the images of this class there, or remove the folder"
    with pytest.raises(ValueError, match=text):
        load_data(spec("folder", bare))


def test_the_order_in_which_a_folder_is_listed_is_irrelevant(tmp_path, monkeypatch):
    write_folder(tmp_path, train=20, val=4)
    before, scandir = load_data(spec("folder", tmp_path)), os.scandir

    class Reversed:
        "A folder's entries, last name first."
        def __init__(self, folder="."):
            self.entries = iter(sorted(scandir(folder), key=lambda entry: entry.name, reverse=True))

        def __iter__(self):
            return self.entries

        def __next__(self):
            return next(self.entries)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        close = __exit__
    monkeypatch.setattr(os, "scandir", Reversed)
    assert [entry.name for entry in os.scandir(tmp_path)] == ["val", "train"]
    after = load_data(spec("folder", tmp_path))
    assert after.fingerprint == before.fingerprint and after.train.images.items == before.train.images.items


def test_a_class_without_images_is_named(tmp_path):
    write_folder(tmp_path, train=20, val=4)
    (tmp_path / "train" / "cow").mkdir()
    (tmp_path / "train" / "cow" / "cow.heic").write_bytes(b"no image file that is read here")
    with pytest.raises(ValueError, match="train/cow holds no image files"):
        load_data(spec("folder", tmp_path))


def test_too_few_images_to_hold_any_out(tmp_path):
    tiny = spec("folder", write_folder(tmp_path / "few", train=4))
    for load in load_data, count_training_images:
        text = "few has 4 images in 2 classes, too few to hold any out for testing, and no test split"
        with pytest.raises(ValueError, match=text):
            load(tiny)
    assert load_data(spec("folder", write_folder(tmp_path / "enough", train=6))).sizes["test"] == 2


@pytest.mark.parametrize("name, error, text", [
    ("pets", ValueError, r"no dataset 'pets' \(did you mean 'folder:pets'\?\)"),
    ("tables", ValueError, r"did you mean 'parquet:tables'\?"),
    ("folder:pet", FileNotFoundError, r"pet/train \(did you mean 'pets'\?\): put"),
    ("parquet:table", FileNotFoundError, r"parquet \(did you mean 'tables'\?\): put"),
    ("folder:tables", FileNotFoundError, r"it holds shards, not class folders; did you mean 'parquet:tables'\?"),
    ("parquet:pets", FileNotFoundError, r"it holds no shards but class folders; did you mean 'folder:pets'\?")])
def test_names_that_nearly_fit(tmp_path, monkeypatch, name, error, text):
    monkeypatch.setenv("LEARNGENE_DATA", str(tmp_path))
    write_folder(tmp_path / "pets", train=6)
    write_shard(tmp_path / "tables" / "train-0.parquet", [0, 1] * 5, ["a", "b"])
    with pytest.raises(error, match=text):
        load_data(DataSpec(name))


def test_a_clone_of_the_hub_keeps_its_shards_in_data(shards, tmp_path):
    before = load_data(spec("parquet", shards))
    (tmp_path / "clone" / "pets").mkdir(parents=True)
    shards.rename(tmp_path / "clone" / "pets" / "data")
    after = load_data(spec("parquet", tmp_path / "clone" / "pets"))
    assert (after.fingerprint, after.name) == (before.fingerprint, "pets")


def test_damaged_file_is_named(tmp_path):
    write_folder(tmp_path, train=20, val=4)
    (tmp_path / "val" / "cat" / "val0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="val0.png cannot be read"):
        load_data(spec("folder", tmp_path)).test[0]


def test_imagenet(tmp_path):
    write_folder(tmp_path, train=20, val=6)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "flat.JPEG").write_bytes(picture(0, kind="jpeg"))
    assert load_data(spec("imagenet", tmp_path)).sizes == dict(train=16, val=4, test=6)
    with pytest.raises(FileNotFoundError, match="ILSVRC 2012"):
        load_data(spec("imagenet", tmp_path / "none"))


@pytest.mark.parametrize("below", [".", "CUB_200_2011"])
def test_cub(tmp_path, below):
    root = tmp_path / below
    files = [f"{c:03}.Bird_{c}/bird_{i}.jpg" for c in (1, 2, 3) for i in range(8)]
    for i, file in enumerate(files):
        (root / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / file).write_bytes(picture(i, kind="jpeg"))
    (root / "images.txt").write_text("".join(f"{i + 1} {f}\n" for i, f in enumerate(files)))
    (root / "image_class_labels.txt").write_text("".join(f"{i + 1} {i // 8 + 1}\n" for i in range(24)))
    (root / "train_test_split.txt").write_text("".join(f"{i + 1} {int(i % 8 < 5)}\n" for i in range(24)))
    data = load_data(spec("cub200", tmp_path))
    assert data.sizes == dict(train=12, val=3, test=9)
    assert data.classes == ["001.Bird_1", "002.Bird_2", "003.Bird_3"]
    assert data.test.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 and data.train[0][0].shape == (3, 8, 8)


# ---- torchvision

def write_cifar(root, name="cifar10"):
    "Write CIFAR's own files: 10 images a batch, or 100."
    if name == "cifar100":
        folder, batches, key, count = root / "cifar-100-python", ["train", "test"], "fine_labels", 100
        meta_file, meta_key = "meta", "fine_label_names"
    else:
        folder, key, count = root / "cifar-10-batches-py", "labels", 10
        batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        meta_file, meta_key = "batches.meta", "label_names"
    folder.mkdir(parents=True)
    for i, batch in enumerate(batches):
        pixels = np.random.RandomState(i).randint(0, 256, (count, 3072), dtype=np.uint8)
        (folder / batch).write_bytes(pickle.dumps({"data": pixels, key: list(range(count))}))
    (folder / meta_file).write_bytes(pickle.dumps({meta_key: [f"thing {i}" for i in range(count)]}))


@pytest.mark.parametrize("name, sizes", [
    ("cifar10", dict(train=40, val=10, test=10)), ("cifar100", dict(train=100, val=0, test=100))])
def test_cifar(tmp_path, monkeypatch, name, sizes):
    write_cifar(tmp_path, name)
    with pytest.raises(FileNotFoundError, match=f"{name} is missing or damaged"):
        load_data(spec(name, tmp_path))  # torchvision knows the checksums
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    data = load_data(spec(name, tmp_path, image_size=32))
    assert data.sizes == sizes and data.classes[3] == "thing 3" and data.train[0][0].shape == (3, 32, 32)
    assert data.fingerprint == load_data(spec(name, tmp_path, image_size=32)).fingerprint


def test_food(tmp_path):
    (tmp_path / "food-101" / "meta").mkdir(parents=True)
    for split, count in ("train", 5), ("test", 3):
        names = {c: [f"{c}/{split}{i}" for i in range(count)] for c in ("ramen", "sushi")}
        (tmp_path / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(names))
        for name in [*names["ramen"], *names["sushi"]]:
            file = tmp_path / "food-101" / "images" / f"{name}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(1, kind="jpeg"))
    data = load_data(spec("food101", tmp_path))
    assert data.sizes == dict(train=8, val=2, test=6) and data.classes == ["ramen", "sushi"]


def test_flowers(tmp_path, monkeypatch):
    from scipy.io import savemat

    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for i in range(1, 31):
        (folder / "jpg" / f"image_{i:05d}.jpg").write_bytes(picture(i, kind="jpeg"))
    savemat(folder / "imagelabels.mat", {"labels": [i % 2 + 1 for i in range(30)]})
    ids = {"trnid": list(range(1, 11)), "valid": list(range(11, 21)), "tstid": list(range(21, 31))}
    savemat(folder / "setid.mat", ids)
    monkeypatch.setattr("torchvision.datasets.Flowers102._check_integrity", lambda self: True)
    data = load_data(spec("flowers102", tmp_path))
    assert data.sizes == dict(train=16, val=4, test=10)  # the official validation images are training images


def test_cars(tmp_path):
    from scipy.io import savemat

    root = tmp_path / "stanford_cars"
    (root / "devkit").mkdir(parents=True)
    for split, file in ("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat"):
        (root / f"cars_{split}").mkdir()
        for i in range(10):
            (root / f"cars_{split}" / f"{i:05}.jpg").write_bytes(picture(i, kind="jpeg"))
        rows = np.array([(f"{i:05}.jpg", i % 2 + 1) for i in range(10)], dtype=[("fname", "O"), ("class", "O")])
        savemat(root / file, {"annotations": rows})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(["Audi TT", "Fiat 500"], dtype="O")})
    data = load_data(spec("stanford_cars", tmp_path, download=True))
    assert data.sizes == dict(train=8, val=2, test=10) and data.classes == ["Audi TT", "Fiat 500"]


def test_inaturalist(tmp_path):
    for i in range(20):
        file = tmp_path / "2019" / ("Birds", "Plants")[i % 2] / str(i % 2) / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(i, kind="jpeg"))
    data = load_data(spec("inat2019", tmp_path))
    assert data.sizes == dict(train=12, val=4, test=4) and data.classes == ["Birds/0", "Plants/1"]


@pytest.mark.parametrize("name", [*TORCHVISION, "cub200", "imagenet", "parquet", "folder"])
def test_missing_data_says_where_to_put_it(tmp_path, monkeypatch, name):
    monkeypatch.setenv("LEARNGENE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as e:
        load_data(DataSpec(name))
    assert str(tmp_path / name) in str(e.value) and "data.path" in str(e.value)
    assert ("`download: true`" in str(e.value)) == (name in TORCHVISION and name != "stanford_cars")
    assert not any(tmp_path.iterdir())  # looking for data leaves nothing behind


def test_cars_cannot_be_downloaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="its home is gone"):
        load_data(spec("stanford_cars", tmp_path, download=True))


def test_download_is_left_to_torchvision(tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", lambda self: folders.append(self.root))
    with pytest.raises(FileNotFoundError, match="cifar10 is missing or damaged"):
        load_data(spec("cifar10", tmp_path / "new", download=True))
    assert folders == [str(tmp_path / "new")]


# ---- names and folders

def test_dataset_names():
    names = dataset_names()
    assert names[0] == "digits" and len(names) == len(set(names)) and "hub" not in names
    assert {*TORCHVISION, "imagenet", "cub200", "parquet", "folder", "folder:<name>", "hub:<org/name>"} <= set(names)


def test_a_dataset_is_registered_in_one_place(monkeypatch):
    monkeypatch.setattr("learngene.datasets.READERS", READERS.copy())  # for this test alone

    @dataset("stripes")
    def read_stripes(spec):
        pixels = np.tile(np.array([[0, 255]] * 4, np.uint8), (40, 1, 2))
        return dict(train=Images(pixels, np.arange(40) % 2, ["a", "b"], hash_pieces(pixels.tobytes()), range(40), "L"))

    data = load_data(DataSpec("stripes", image_size=4, val_fraction=0.25))
    assert "stripes" in dataset_names() and data.sizes == dict(train=24, val=8, test=8)
    assert (data.name, data.in_chans, data.mean, data.std) == ("stripes", 1, (0.5,), (0.5,))
    assert torch.equal(data.train[0][0], torch.tensor([-1.0, 1, -1, 1]).expand(1, 4, 4))


@pytest.mark.parametrize("name, near", [
    ("digit", "digits"), ("cifar_100", "cifar100"), ("digits:a", "digits"), ("hub:", None), ("hub", None),
    ("zzz", None)])
def test_unknown_name(name, near):
    hint = rf" \(did you mean '{near}'\?\)" if near else ""
    with pytest.raises(ValueError, match=f"there is no dataset '{name}'{hint}"):
        load_data(DataSpec(name))


def test_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("LEARNGENE_DATA", raising=False)
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path))
    assert data_folder("food101") == tmp_path / "data" / "food101"
    monkeypatch.setenv("LEARNGENE_DATA", "~/images")
    assert data_folder("food101") == Path.home() / "images" / "food101"


# ---- the hub

class FakeSplit:
    "As much of a Hugging Face dataset as is used."

    def __init__(self, count, fingerprint, columns=("img", "label")):
        self.column_names = list(columns)
        self.count, self._fingerprint = count, fingerprint
        self.features = {"label": type("ClassLabel", (), {"names": ["cat", "dog"]})}

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        if key == "label":
            return alternating(self.count)
        return dict(img=dict(bytes=picture(key), path=None))

    def cast_column(self, column, feature):
        assert feature == dict(decode=False), "all images are decoded here"
        return FakeSplit(self.count, "a fingerprint of its own", self.column_names)

    def select_columns(self, columns):
        return self


def fake_hub(monkeypatch, **splits):
    "Put these splits in place of `datasets`; returns the list of names that it is asked for."
    names = []
    module = type(sys)("datasets")
    module.load_dataset = lambda *name, cache_dir=None: names.append("/".join(name)) or splits
    module.Image = dict
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr("learngene.hub.is_reachable", lambda: True)
    return names


def test_hub(monkeypatch):
    names = fake_hub(monkeypatch, train=FakeSplit(20, "a"), test=FakeSplit(6, "b"))
    data = load_data(DataSpec("hub:org/pets", val_fraction=0.2))
    assert names == ["org/pets"] and data.sizes == dict(train=16, val=4, test=6) and data.classes == ["cat", "dog"]
    assert data.name == "hub:org/pets" and data.train[0][0].shape == (3, 8, 8)
    assert data.train.images.digest == "a"
    fake_hub(monkeypatch, train=FakeSplit(20, "another"), test=FakeSplit(6, "b"))
    assert load_data(DataSpec("hub:org/pets", val_fraction=0.2)).fingerprint != data.fingerprint


def test_hub_errors(monkeypatch):
    fake_hub(monkeypatch, everything=FakeSplit(20, "a"))
    with pytest.raises(ValueError, match="has splits everything; wanted one named train"):
        load_data(DataSpec("hub:org/pets"))
    fake_hub(monkeypatch, train=FakeSplit(20, "a", columns=["text", "label"]))
    with pytest.raises(ValueError, match="hub:org/pets has columns text, label"):
        load_data(DataSpec("hub:org/pets"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'learngene\[hub\]'"):
        load_data(DataSpec("hub:org/pets"))


def test_an_unreachable_hub_is_not_asked_again(monkeypatch):
    config = pytest.importorskip("datasets.config")
    monkeypatch.setattr("learngene.hub.is_reachable", lambda: False)
    start = time.process_time()
    with pytest.raises(OSError, match=r"hub:no-org/pets could not be fetched .*hf download .*'parquet:pets'"):
        load_data(DataSpec("hub:no-org/pets"))
    assert time.process_time() - start < 5 and not config.HF_HUB_OFFLINE


@pytest.mark.parametrize("typed", [True, False])
def test_hub_with_the_real_library(shards, tmp_path, monkeypatch, typed):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    library = pytest.importorskip("datasets")
    if not typed:  # a column of nothing but empty paths is not recognised as one of images
        for i, file in enumerate(sorted(shards.iterdir())):
            write_shard(file, [0, 1] * 10, ["cat", "dog"], start=20 * i, paths=False)
    files = {split: sorted(map(str, shards.glob(f"{split}-*"))) for split in ("train", "test")}
    load, cache = library.load_dataset, str(tmp_path / "cache")

    def load_files(name, cache_dir):
        return load("parquet", data_files=files, cache_dir=cache)
    monkeypatch.setattr(library, "load_dataset", load_files)
    data, same = load_data(DataSpec("hub:org/pets", val_fraction=0.2)), load_data(spec("parquet", shards))
    assert data.sizes == same.sizes and data.classes == same.classes
    assert torch.equal(data.train[5][0], same.train[5][0]) and data.train.labels.tolist() == same.train.labels.tolist()
    assert torch.equal(pickle.loads(pickle.dumps(data.train))[5][0], data.train[5][0])


# ---- transforms

@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", ["resized", "pad", "none"])
@pytest.mark.parametrize("colours", [None, "rand-m9-mstd0.5-inc1", "rand-m5-n3-p0.8"])
@pytest.mark.parametrize("erasing", [0.0, 1.0])
def test_augmentations(channels, crop, colours, erasing):
    augment = AugmentSpec(crop=crop, rand_augment=colours, erasing=erasing, pad=2)
    transform = train_transform(augment, 16, (0.4,) * channels, (0.3,) * channels)
    pixels = np.random.RandomState(0).randint(0, 256, (20, 24, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")

    def twenty():
        seed_all(3)
        return torch.stack([transform(image) for _ in range(20)])

    once = twenty()
    assert once.shape == (20, channels, 16, 16) and once.dtype == torch.float32 and once.isfinite().all()
    assert torch.equal(once, twenty())
    pickle.loads(pickle.dumps(transform))


@pytest.mark.parametrize("size", [(8, 8), (30, 10), (10, 30), (3, 2)])
def test_any_shape_of_image(size):
    image = Image.new("RGB", size)
    for crop in "resized", "pad", "none":
        assert train_transform(AugmentSpec(crop=crop), 16, (0.5,) * 3, (0.5,) * 3)(image).shape == (3, 16, 16)


def test_evaluation_crops():
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    same = eval_transform(8, (0.0,), (1.0,))(image)
    assert torch.equal(same[0], torch.from_numpy(np.array(image)) / 255)  # the right size already: not resampled
    edge = Image.new("L", (20, 20), 255)
    edge.paste(0, (2, 2, 18, 18))
    cropped, full = (eval_transform(8, (0.0,), (1.0,), crop_pct=share)(edge).max() for share in (0.8, 1.0))
    assert cropped < 0.2 < full


def test_without_augmentation_training_is_evaluation():
    data = load_data(DataSpec())
    assert all(torch.equal(data.train[i][0], data.train_plain[i][0]) for i in range(20))
    quiet = load_data(DataSpec(), AugmentSpec(crop="none", **OFF))
    assert all(torch.equal(quiet.train[i][0], data.train_plain[i][0]) for i in range(20))


def test_pad_moves_the_image():
    data = load_data(DataSpec(), AugmentSpec(crop="pad", pad=1, **OFF))
    seed_all(0)
    seen = {data.train[0][0].numpy().tobytes() for _ in range(200)}
    assert len(seen) == 9
    assert data.train_plain[0][0].numpy().tobytes() in seen


def test_posterize_keeps_a_bit():
    image = Image.new("L", (4, 4), 200)
    assert posterize_some(image, 0).getpixel((0, 0)) == 128
    augment = AugmentSpec(crop="none", hflip=0.0, erasing=0.0, rand_augment="rand-m10-n9-p1-inc1")
    strongest = train_transform(augment, 8, (0.5,), (0.5,))
    seed_all(0)
    assert all(strongest(image).isfinite().all() for _ in range(200))


def test_transform_errors():
    with pytest.raises(ValueError, match="crop.*'resized', 'pad' or 'none'"):
        AugmentSpec(crop="resize")
    for text in "rand-q9", "nonsense":
        with pytest.raises(ValueError, match=f"augment.rand_augment is '{text}'"):
            load_data(DataSpec(), AugmentSpec(rand_augment=text))


# ---- the modules

def test_images_of_arrays():
    black = Images(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1]), ["a", "b"], "", ["x", "y"])
    assert black[1].mode == "RGB" and len(black) == 2


def test_encoding_keeps_what_is_encoded(tmp_path):
    file, pixels = tmp_path / "a.jpg", np.random.RandomState(0).randint(0, 256, (5, 4, 3), np.uint8)
    file.write_bytes(picture(1, kind="jpeg"))
    assert encode_image(b"bytes") == b"bytes" and encode_image(str(file)) == file.read_bytes()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_image(pixels)))), pixels)


def test_pieces_do_not_run_together():
    assert hash_pieces("ab", "c") != hash_pieces("a", "bc") and hash_pieces("1") == hash_pieces(1) == hash_pieces(b"1")


def test_import_is_light():
    heavy = "datasets papermill nbdev fastcore pyarrow matplotlib"
    code = f"import learngene.data, sys; print([m for m in '{heavy}'.split() if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


@pytest.mark.skipif("LEARNGENE_TEST_DATA" not in os.environ, reason="LEARNGENE_TEST_DATA names no folder of datasets")
def test_real_parquet_folders():
    folders = sorted({f.parent for f in Path(os.environ["LEARNGENE_TEST_DATA"]).glob("*/train-*.parquet")})
    assert folders
    for folder in folders:
        data = load_data(DataSpec("parquet", path=str(folder), image_size=32), AugmentSpec())
        assert data.name == folder.name and min(data.sizes.values()) > 0
        for split in data.train, data.val, data.test:
            assert set(np.unique(split.labels)) <= set(range(len(data.classes)))
            x, _ = zip(*(split[i] for i in range(0, len(split), max(1, len(split) // 20))))
            assert torch.stack(x).isfinite().all() and x[0].shape == (3, 32, 32)


# ---- packing

def noise(count, size=(9, 11)):
    "Encode pictures that do not compress, as PNG and JPEG in turn."
    encoded = []
    for i, pixels in enumerate(np.random.RandomState(0).randint(0, 256, (count, *size, 3), np.uint8)):
        Image.fromarray(pixels).save(file := io.BytesIO(), ("png", "jpeg")[i % 2])
        encoded.append(file.getvalue())
    return encoded


@pytest.fixture(scope="module")
def noise_shards(tmp_path_factory):
    "600 and 60 images in one shard each; only to be read."
    folder = tmp_path_factory.mktemp("shards")
    for split, count in ("train", 600), ("test", 60):
        file = folder / f"{split}-00000-of-00001.parquet"
        write_shard(file, alternating(count, 3), ["a", "b", "c"], pictures=noise(count))
    return folder


@pytest.fixture
def many(noise_shards, tmp_path):
    "600 and 60 images in one shard each."
    folder = tmp_path / "many"
    folder.mkdir()
    for file in noise_shards.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def same_images(a, b):
    "Whether two `Data` hold the same tensors and labels in the same splits."
    for one, other in (a.train, b.train), (a.val, b.val), (a.test, b.test):
        for (x, i), (y, j) in zip(one, other, strict=True):
            if not torch.equal(x, y) or i != j:
                return False
    return True


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pack_in_smaller_shards(many, tmp_path):
    before, folder = load_data(spec("parquet", many)), tmp_path / "packed" / "many"
    line = pack(spec("parquet", many), folder, 0.05)
    files = sorted(folder.glob("*.parquet"))
    assert len(files) > 4 and all(f.stat().st_size <= 50_000 for f in files)
    assert f"660 images in {len(files)} shards" in line
    after = load_data(spec("parquet", folder))
    assert same_images(before, after) and after.classes == before.classes and after.sizes == before.sizes
    raw = [encoded for f in files if "train" in f.name for encoded in read_shard(f).items]
    assert raw == noise(600), "the images as they were encoded"


def test_packed_shards_are_found_by_name(many, tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNGENE_DATA", str(tmp_path))
    pack("parquet:many", tmp_path / "carried", 0.05)
    assert load_data("parquet:carried").sizes["test"] == 60


def test_a_shard_that_was_put_beside_packed_ones(many, tmp_path):
    pack(spec("parquet", many), tmp_path / "packed")
    write_shard(tmp_path / "packed" / "validation-0.parquet", [0, 1], ["a", "b", "c"])
    text = "validation-0.parquet is not named in fingerprint.json: the shards of one packing belong together"
    with pytest.raises(ValueError, match=text):
        load_data(spec("parquet", tmp_path / "packed"))


def test_the_image_that_would_fill_a_shard_begins_the_next(tmp_path):
    "Three images of a third of a shard and a little more."
    root, packed = tmp_path / "large", tmp_path / "packed"
    write_shard(root / "train-0.parquet", [0, 1, 0], ["a", "b"], pictures=noise(6, size=(340, 340))[::2])
    write_shard(root / "test-0.parquet", [0, 1], ["a", "b"])
    assert "5 images in 3 shards" in pack(spec("parquet", root), packed, 1.0)
    assert all(f.stat().st_size <= 1e6 for f in packed.glob("*.parquet"))
    assert load_data(spec("parquet", packed)).sizes["test"] == 2


def test_small_shards_are_copied_and_keep_the_fingerprint(many, tmp_path):
    pack(spec("parquet", many), tmp_path / "packed", 55)
    assert contents(tmp_path / "packed").keys() == contents(many).keys() | {"fingerprint.json"}
    packed, before = (load_data(spec("parquet", folder)) for folder in (tmp_path / "packed", many))
    assert packed.fingerprint == before.fingerprint


def test_shards_of_other_splits_are_not_packed(many, tmp_path):
    write_shard(many / "extra-00000-of-00001.parquet", [0, 1], ["x", "y"])
    before = load_data(spec("parquet", many))
    assert "660 images in 2 shards" in pack(spec("parquet", many), tmp_path / "packed")
    assert load_data(spec("parquet", tmp_path / "packed")).fingerprint == before.fingerprint


def test_pack_a_folder_of_files(tmp_path):
    root = write_folder(tmp_path / "pets", train=20, val=6)
    pack(spec("folder", root), tmp_path / "packed")
    card = json.loads((tmp_path / "packed/fingerprint.json").read_text())
    assert card["images"] == dict(train=20, validation=6) and card["name"] == "pets"
    assert same_images(load_data(spec("folder", root)), load_data(spec("parquet", tmp_path / "packed")))


def test_packing_twice_gives_the_same_files(many, tmp_path):
    for name in "ab":
        pack(spec("parquet", many), tmp_path / name, 0.05)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def exchange_shards(folder):
    shards = sorted(folder.glob("train-*"))
    shards[1].write_bytes(shards[2].read_bytes())


def rename_test(folder):
    for path in folder.glob("test-*"):
        path.rename(path.with_name(path.name.replace("test", "validation")))


@pytest.mark.parametrize("damage, text", [
    (exchange_shards, "train-00001-of-00008.parquet has another fingerprint than in fingerprint.json"),
    (lambda folder: (folder / "fingerprint.json").write_text("{"), "fingerprint.json is damaged"),
    (lambda folder: (folder / "fingerprint.json").write_text("[]"), "fingerprint.json is damaged"),
    (lambda folder: [path.unlink() for path in folder.glob("test-*")],
     "test-00000-of-00001.parquet is missing: the shards of one packing belong together"),
    (rename_test, "test-00000-of-00001.parquet is missing")])
def test_shards_that_do_not_belong_together(many, tmp_path, damage, text):
    folder = tmp_path / "packed"
    pack(spec("parquet", many), folder, 0.05)
    assert len(list(folder.glob("train-*"))) == 8
    damage(folder)
    with pytest.raises(ValueError, match=text):
        load_data(spec("parquet", folder))


def test_packing_errors(many, tmp_path):
    with pytest.raises(ValueError, match="exists already; give the name of a new folder"):
        pack(spec("parquet", many), many)
    with pytest.raises(ValueError, match="row 0 has .* too much for shards of 0.0001 MB; give a larger --max-mb"):
        pack(spec("parquet", many), tmp_path / "packed", 0.0001)
    with pytest.raises(ValueError, match="nothing to pack"):
        pack("digits", tmp_path / "packed")
    assert not (tmp_path / "packed").exists() and [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_pack_on_the_command_line(many, tmp_path, capsys, monkeypatch):
    from learngene.app import cli

    monkeypatch.chdir(tmp_path)
    cli.main(["data", "pack", "parquet:other", "--path", str(many), "--max-mb", "0.05"])
    assert "660 images in 9 shards" in capsys.readouterr().out and (tmp_path / "other/fingerprint.json").is_file()


# ---- decoded once

@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "decoded"


@pytest.fixture
def no_decoding(monkeypatch):
    "Call it, and encoded images can no longer be opened."
    def forbid():
        for module in images_module, decoded_module:
            monkeypatch.setattr(module, "open_image", arrays_alone)

    def arrays_alone(item):
        assert isinstance(item, np.ndarray), "an encoded image was opened"
        return Image.fromarray(item)
    return forbid


def forbidden(*args):
    raise AssertionError("this must not be called")


def test_the_same_pixels(many, home, monkeypatch, no_decoding):
    with monkeypatch.context() as m:
        m.setattr(decoded_module, "DECODED_LEAST", 10**9)
        before = load_data(spec("parquet", many))
        assert not home.exists()
        pixels = [before.train.images[i].tobytes() for i in range(600)]
    first = load_data(spec("parquet", many))
    assert len(list(home.iterdir())) == 1, "the test split is too small to be worth it"
    assert same_images(before, first) and first.fingerprint == before.fingerprint
    monkeypatch.setattr(decoded_module, "_write_pixels", forbidden)
    second = load_data(spec("parquet", many))
    no_decoding()
    assert [second.train.images[i].tobytes() for i in range(600)] == pixels
    again = pickle.loads(pickle.dumps(second.train))
    assert torch.equal(again[5][0], first.train[5][0])
    assert len(pickle.dumps(second.train)) < 100_000, "the pixels stay in their file"


def test_files_of_many_sizes(tmp_path, home, no_decoding):
    root, rng = tmp_path / "pets", np.random.RandomState(1)
    for i in range(510):
        file = root / "train" / ("cat", "dog")[i % 2] / f"{i}.{('png', 'jpg', 'bmp')[i % 3]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.randint(0, 256, (*rng.randint(1, 9, 2), 3), np.uint8))
        image.convert(("RGB", "L", "P", "RGBA")[i % 4] if i % 3 == 0 else "RGB").save(file)
    encoded = read_splits(spec("folder", root))["train"]
    mapped = decoded(encoded)
    assert isinstance(mapped.items, DecodedImages) and len({tuple(s) for s in mapped.items.shapes}) > 20
    pixels = [encoded[i].tobytes() for i in range(510)]
    no_decoding()
    assert [mapped[i].tobytes() for i in range(510)] == pixels


def test_a_file_that_has_changed_is_decoded_again(tmp_path, home):
    root = write_folder(tmp_path / "pets", train=510)
    decoded(read_splits(spec("folder", root))["train"])
    os.utime(root / "train/cat/train0.png", ns=(1, 1))
    decoded(read_splits(spec("folder", root))["train"])
    assert len(list(home.iterdir())) == 2


def test_worker_processes_map_the_file(many, home):
    data = load_data(spec("parquet", many))
    x = torch.cat([x for x, _ in DataLoader(data.train, 50, num_workers=1, multiprocessing_context="spawn")])
    assert torch.equal(x, torch.stack([x for x, _ in data.train]))


@pytest.mark.parametrize("name, damaged", [
    ("pixels", lambda raw: raw[:-1]), ("pixels", lambda raw: raw[:-1] + bytes([255 - raw[-1]])),
    ("pixels", lambda raw: bytes(len(raw))), ("pixels", lambda raw: b""), ("pixels", None), ("index.json", None),
    ("index.json", lambda raw: b"{"), ("index.json", lambda raw: b'{"crc32": 1, "shapes": [[1, 1]]}'),
    ("index.json", lambda raw: b"[]")])
def test_a_damaged_file_is_written_again(many, home, name, damaged):
    before = load_data(spec("parquet", many))
    (folder,) = home.iterdir()
    good, x = (folder / "pixels").read_bytes(), torch.stack([x for x, _ in before.train])
    if damaged:
        (folder / name).write_bytes(damaged((folder / name).read_bytes()))
    else:
        (folder / name).unlink()
    after = load_data(spec("parquet", many))
    assert (folder / "pixels").read_bytes() == good and torch.equal(torch.stack([x for x, _ in after.train]), x)
    assert [path.name for path in home.iterdir()] == [folder.name]


def test_a_full_disk_is_a_warning(many, home, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        with pytest.warns(UserWarning, match="cannot be kept in .*No space left.*make room there, or set LEARNGENE_HO"):
            data = load_data(spec("parquet", many))
    assert list(home.iterdir()) == []
    assert same_images(data, load_data(spec("parquet", many)))


def test_datasets_that_do_not_fit(many, home, monkeypatch):
    monkeypatch.setattr(decoded_module, "DECODED_LIMIT", 600 * 9 * 11 * 3 - 1)
    load_data(spec("parquet", many))
    assert not home.exists()
    monkeypatch.setattr(decoded_module, "DECODED_LIMIT", 600 * 9 * 11 * 3)
    load_data(spec("parquet", many))
    assert home.exists()


def damage(pictures, i):
    "Truncate one of the encoded pictures."
    return [*pictures[:i], pictures[i][:40], *pictures[i + 1:]]


def test_a_damaged_image_is_named_before_a_run_begins(many, home):
    file = many / "train-00000-of-00001.parquet"
    write_shard(file, alternating(600, 3), ["a", "b", "c"], pictures=damage(noise(600), 577))
    for _ in range(2):
        text = r"train-00000-of-00001.parquet, row 577 cannot be read .*download it again or remove it"
        with pytest.raises(ValueError, match=text):
            load_data(spec("parquet", many))
    used = load_data(spec("parquet", many, fraction=0.02, val_fraction=0.02))
    assert 577 not in used.train.index and used.train[0] is not None


def test_another_pillow_decodes_again(many, home, monkeypatch):
    load_data(spec("parquet", many))
    monkeypatch.setattr(decoded_module.PIL, "__version__", "0.0")
    load_data(spec("parquet", many))
    assert len(list(home.iterdir())) == 2


def test_counting_and_the_fingerprint_decode_nothing(many, home, monkeypatch, no_decoding):
    half = spec("parquet", many, fraction=0.5)
    fingerprint = load_data(half).fingerprint
    monkeypatch.setenv("LEARNGENE_HOME", str(many / "empty"))
    no_decoding()
    assert count_training_images(half) == 240
    assert data_fingerprint(half) == fingerprint != data_fingerprint(spec("parquet", many))
    assert not (many / "empty").exists()


def test_a_damaged_image_is_named_also_where_splits_are_joined(many, home, monkeypatch):
    "Training and official validation images, decoded apart, then too few to be decoded."
    file = many / "validation-00000-of-00001.parquet"
    write_shard(file, alternating(600, 3), ["a", "b", "c"], pictures=damage(noise(600), 577))
    for least in 500, 10**9:
        monkeypatch.setattr(decoded_module, "DECODED_LEAST", least)
        with pytest.raises(ValueError, match="validation-00000-of-00001.parquet, row 577 cannot be read"):
            load_data(spec("parquet", many))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_damaged_image_of_a_small_folder(tmp_path, split):
    write_folder(tmp_path, train=20, validation=6, test=6)
    (tmp_path / split / "dog" / f"{split}1.png").write_bytes(picture(1)[:-30])
    with pytest.raises(ValueError, match=f"{split}1.png cannot be read"):
        load_data(spec("folder", tmp_path))
