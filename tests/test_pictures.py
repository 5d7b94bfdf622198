"Pictures are what their files show, and folders, tables and labels are read right or refused by name."
import io
import json
import os
import subprocess
import warnings

import numpy as np
import pandas as pd
import pictures
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from learngene import decoded as decoded_module
from learngene import scanning
from learngene.data import data_fingerprint, load_data
from learngene.datasets import READERS, dataset, read_splits
from learngene.decoding import ENDINGS, decode_image
from learngene.images import Images, encode_image
from learngene.labels import clean_labels, encode_labels
from learngene.packing import pack
from learngene.recipe import DataSpec
from learngene.scanning import decodes_differently, suspect_kind
from learngene.shards import find_shards, has_shards

KINDS = {kind.name: kind for kind in pictures.kinds()}


def pixels(image):
    return np.asarray(image).astype(int)


def spec(name, path, **options):
    return DataSpec(name, path=str(path), **dict(image_size=8, val_fraction=0.2) | options)


def fill(folder, *items, classes=("cat", "dog"), count=10):
    "Write class folders of plain pictures, the first of each class replaced by `items`."
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            item = items[i] if i < len(items) else KINDS["plain.png"].item
            (folder / name / f"{i}.png").write_bytes(item)
    return folder.parent


def write_table(file, **columns):
    "Write a parquet file with a picture a row."
    count = len(next(iter(columns.values())))
    metadata = columns.pop("metadata", None)
    table = pa.table(dict(image=[{"bytes": KINDS["plain.png"].item, "path": None}] * count) | columns)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), file)
    return file


def hub_metadata(names, column="label"):
    return {"huggingface": json.dumps({"info": {"features": {column: {"_type": "ClassLabel", "names": names}}}})}


# ---- pictures

@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_shows_its_pixels(name):
    kind = KINDS[name]
    shown = pixels(decode_image(kind.item))
    assert shown.shape == kind.right.shape and abs(shown - kind.right).max() <= kind.tolerance
    grey = pixels(Image.fromarray(kind.right).convert("L"))
    assert abs(pixels(decode_image(kind.item, "L")) - grey).max() <= kind.tolerance + 1


@pytest.mark.filterwarnings("ignore")
def test_headers_tell_which_kinds_have_changed():
    "A change of the decoding is in the fingerprint of a dataset if and only if its pixels have changed."
    wrong = {name for name, kind in KINDS.items()
             if kind.changed != (bool(suspect_kind(kind.item)) and decodes_differently(kind.item, "white"))}
    assert wrong == set()
    plain = [name for name, kind in KINDS.items() if name.endswith((".jpg", ".png", ".webp")) and not kind.changed]
    assert sum(not scanning.is_plain(KINDS[name].item) for name in plain) < len(plain) / 2, "most without Pillow"


def test_files_are_read_as_their_bytes(tmp_path):
    for name in "ink.png", "turned-6.jpg", "ramp.tif", "frames.gif":
        (tmp_path / name).write_bytes(KINDS[name].item)
        file = str(tmp_path / name)
        assert decode_image(file).tobytes() == decode_image(KINDS[name].item).tobytes()
        assert suspect_kind(file) == suspect_kind(KINDS[name].item)


@pytest.mark.parametrize("name", ["ink.png", "palette-index.png", "ink.webp", "clear.gif", "as-an-array-of-4"])
def test_a_background_of_ones_own(name):
    item, right = KINDS[name].item, pictures.INK_ON_RED
    if name in ("palette-index.png", "clear.gif"):
        right = np.array([[(255, 0, 0), (255, 0, 0), (0, 0, 255)]])
    assert (pixels(decode_image(item, background="red")) == right).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, encoded, reason", [*pictures.refused()], ids=lambda v: v if isinstance(v, str) else "")
def test_a_file_that_cannot_be_shown_is_named(tmp_path, name, encoded, reason):
    file = tmp_path / name
    file.write_bytes(encoded)
    for item, place in (str(file), str(file)), (encoded, "shard, row 7"):
        with pytest.raises(ValueError) as e:
            Images([item], np.array([0]), ["a"], "", [place])[0]
        text = str(e.value)
        assert text.startswith(f"the image in {place} cannot be read (") and reason in text
        assert text.endswith("; download it again or remove it.") and "\n" not in text


@pytest.mark.parametrize("error", [
    KeyError(7), IndexError("x"), EOFError(), MemoryError(), OverflowError("x"), ZeroDivisionError("x"),
    RuntimeError("x"), RecursionError(), TypeError("x"), AttributeError("x"), AssertionError(), UnicodeError("x"),
    SyntaxError("x")], ids=lambda e: type(e).__name__)
def test_whatever_a_decoder_raises_becomes_one_error(monkeypatch, error):
    def fail(*args):
        raise error
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ValueError, match="the image in row 7 cannot be read .*download it again or remove it"):
        Images([b"x"], np.array([0]), ["a"], "", ["row 7"])[0]


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_of_every_kind_show_pixels_or_are_named():
    rng = np.random.RandomState(0)
    encoded = [kind.item for kind in KINDS.values() if isinstance(kind.item, bytes)]
    for number in range(400):
        raw = bytearray(encoded[number % len(encoded)])
        for place in rng.randint(0, len(raw), rng.randint(1, 6)):
            raw[place] = rng.randint(256)
        if number % 3 == 0:
            raw = raw[: rng.randint(1, len(raw))]
        suspect_kind(bytes(raw)), decodes_differently(bytes(raw), "white")
        try:
            assert Images([bytes(raw)], np.array([0]), ["a"], "", ["row 7"])[0].mode == "RGB"
        except ValueError as e:
            assert "row 7" in str(e)


def test_no_other_program_is_started(monkeypatch):
    def refuse(*args, **kw):
        raise AssertionError("a program was started")
    monkeypatch.setattr(subprocess, "Popen", refuse)
    script = dict((name, encoded) for name, encoded, _ in pictures.refused())["script.jpg"]
    assert decode_image(KINDS["plain.png"].item).size
    with pytest.raises(OSError, match="cannot identify"):
        decode_image(script)


def test_a_loop_over_images_ends():
    images = Images([KINDS["plain.png"].item] * 3, np.zeros(3, int), ["a"], "", range(3))
    assert len(list(images)) == 3


def test_arrays_and_pictures_are_packed_as_they_show():
    turned = Image.open(io.BytesIO(KINDS["turned-6.png"].item))
    inks = Image.fromarray(pictures.SHOWN).convert("CMYK")
    for item in KINDS["ink.png"].item, pictures.INK, pictures.SHOWN, turned, inks:
        assert decode_image(encode_image(item)).tobytes() == decode_image(item).tobytes()


# ---- datasets of changed pictures

def test_a_fingerprint_knows_the_decoding_where_it_matters(tmp_path):
    same = fill(tmp_path / "same/train", KINDS["opaque.png"].item, KINDS["turned-1.png"].item)
    assert read_splits(spec("folder", same))["train"].digest == READERS["folder"](spec("folder", same))["train"].digest
    for name in "ink.png", "turned-6.png", "ramp.png":
        changed = fill(tmp_path / f"{name}/train", KINDS[name].item)
        bare = READERS["folder"](spec("folder", changed))["train"].digest
        assert read_splits(spec("folder", changed))["train"].digest != bare


def test_a_background_is_in_the_fingerprint_where_it_shows(tmp_path):
    opaque, ink = fill(tmp_path / "a/train"), fill(tmp_path / "b/train", KINDS["ink.png"].item)
    prints = [[data_fingerprint(spec("folder", root, background=colour)) for colour in ("white", "#FFF", "black")]
              for root in (opaque, ink)]
    assert len(set(prints[0])) == 1 and prints[1][0] == prints[1][1] != prints[1][2]
    data = load_data(spec("folder", ink, background="red"))
    shown = [pixels(data.train.images[i]) for i in range(20)]
    assert sum(p.shape == (2, 2, 3) and (p == pictures.INK_ON_RED).all() for p in shown) == 2


def test_the_costly_search_for_changes_is_noted(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(scanning, "NOTED", dict(images=20, decoded=100))
    root = fill(tmp_path / "pets/train", KINDS["ink.png"].item)
    before = data_fingerprint(spec("folder", root))
    (note,) = (tmp_path / "home/scanned").iterdir()
    monkeypatch.setattr(scanning, "suspect_kind", None)  # nobody looks again
    assert data_fingerprint(spec("folder", root)) == before
    note.write_text("{")
    monkeypatch.undo()
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    assert data_fingerprint(spec("folder", root)) == before
    (root / "train/cat/0.png").write_bytes(KINDS["opaque.png"].item.ljust(len(KINDS["ink.png"].item), b"\0"))
    (root / "train/dog/0.png").write_bytes(KINDS["opaque.png"].item)
    assert data_fingerprint(spec("folder", root)) != before, "a changed file is looked at again"


def test_images_of_their_own_range_are_counted_in_one_warning(tmp_path):
    root = fill(tmp_path / "train", KINDS["floats.tif"].item, KINDS["integers.tif"].item)
    with pytest.warns(UserWarning, match=r"4 of 20 images hold 32-bit .*cat/0.png: each is scaled by") as caught:
        load_data(spec("folder", root))
    assert len(caught) == 1


def test_pixels_of_an_older_decoding_are_never_served(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(decoded_module, "DECODED_LEAST", 10)
    root = fill(tmp_path / "pets/train", KINDS["ink.png"].item)
    for version, colour, copies in (0, "white", 1), (1, "white", 2), (1, "black", 3), (1, "white", 3):
        monkeypatch.setattr(decoded_module, "DECODING", version)
        load_data(spec("folder", root, background=colour))
        assert len(list((tmp_path / "home/decoded").iterdir())) == copies


def test_readers_share_one_decoding(tmp_path, monkeypatch):
    "The same files through folder, parquet, packed shards, the decoded cache, the device, and the hub's library."
    from learngene.device import Augment, prepare_images

    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = ["ink.png", "turned-6.jpg", "turned-8.png", "ramp.png", "palette-bytes.png", "clear.gif", "plain.png",
             "cmyk.jpg", "late-exif.png", "grey-alpha.png"]
    root = fill(tmp_path / "pets/train", *(KINDS[name].item for name in names))
    encoded = [KINDS[name].item for name in names] * 2
    table = pa.table(dict(image=[{"bytes": raw, "path": None} for raw in encoded], label=[0] * 10 + [1] * 10))
    (tmp_path / "table").mkdir()
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    hub = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(hub), tmp_path / "table/train.parquet")
    pack(spec("folder", root), tmp_path / "packed")
    sources = [spec("folder", root), spec("parquet", tmp_path / "table"), spec("parquet", tmp_path / "packed")]
    right = [decode_image(raw).tobytes() for raw in encoded]
    for least in 500, 5:
        monkeypatch.setattr(decoded_module, "DECODED_LEAST", least)
        for source in sources:
            data = load_data(source)
            assert [image.tobytes() for image in data.train.images] == right
            augment = Augment(data.train_plain.transform)
            on_device = prepare_images(augment, data.train_plain)
            assert all((a == augment.prepare(data.train.images[int(i)])).all()
                       for a, i in zip(on_device, data.train_plain.index))
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    served = load_data(DataSpec(f"hub:{tmp_path / 'table'}", path=str(tmp_path / "cache")))
    assert [image.tobytes() for image in served.train.images] == right and served.classes == ["cat", "dog"]


def test_the_device_takes_no_fourth_channel():
    from learngene.data import ImageDataset, eval_transform
    from learngene.device import Augment, prepare_images

    for mode, channels in ("RGB", 3), ("L", 1):
        transform = eval_transform(2, (0.5,) * channels, (0.5,) * channels)
        images = Images(pictures.INK[None], np.array([0]), ["a"], "", ["row 0"], mode)
        (x,) = prepare_images(Augment(transform), ImageDataset(images, np.array([0]), transform))
        assert (x == np.asarray(images[0]).reshape(2, 2, channels)).all()


def test_grey_images_of_ones_own(tmp_path):
    root = fill(tmp_path / "pets/train", KINDS["ramp.png"].item, KINDS["grey.png"].item)
    colour, grey = load_data(spec("folder", root)), load_data(spec("folder", root, channels=1))
    assert (colour.in_chans, grey.in_chans) == (3, 1) and grey.train[0][0].shape == (1, 8, 8)
    assert colour.fingerprint != grey.fingerprint and "1 channel," in str(grey)
    shades = [np.asarray(image.convert("L")) / 255 for image in colour.train.images]
    chosen = [shades[i] for i in np.union1d(grey.train.index, grey.val.index)]
    assert grey.mean == pytest.approx((np.mean([s.mean() for s in chosen]),), abs=1e-3)
    packed = spec("parquet", tmp_path / "packed", channels=1)
    pack(spec("folder", root, channels=1), tmp_path / "packed")
    assert [i.tobytes() for i in load_data(packed).train.images] == [i.tobytes() for i in grey.train.images]
    digits = load_data(DataSpec(channels=3))
    assert digits.in_chans == 3 and digits.fingerprint != load_data(DataSpec(channels=1)).fingerprint
    assert load_data(DataSpec(channels=1)).fingerprint == load_data(DataSpec()).fingerprint


def test_a_reader_of_16_bit_arrays(monkeypatch):
    monkeypatch.setattr("learngene.datasets.READERS", READERS.copy())

    @dataset("ramps")
    def read_ramps(spec):
        return dict(train=Images(np.stack([pictures.RAMP] * 20), np.arange(20) % 2, ["a", "b"], "x", range(20), "L"))
    data = load_data("ramps")
    assert (np.asarray(data.train.images[3]) == pictures.SHADES).all() and data.mean == (0.5,)
    assert data.train.images.digest != "x"


# ---- folders

def test_subfolders_of_a_class_count(tmp_path):
    fill(tmp_path / "train")
    for i, ending in enumerate([".JPG", ".gif", ".jfif", ".avif", ".Tiff", ".webp", ".bmp"]):
        file = tmp_path / "train/cat" / f"session {i}" / "deep" / f"a{ending}"
        file.parent.mkdir(parents=True)
        file.write_bytes(KINDS["plain.png"].item)
    before = fill(tmp_path / "other/train")
    data = load_data(spec("folder", tmp_path))
    assert sum(data.sizes.values()) == 27 and np.bincount(data.train.images.labels).tolist() == [17, 10]
    assert data.fingerprint != data_fingerprint(spec("folder", before))
    from torchvision.datasets.folder import IMG_EXTENSIONS
    assert set(IMG_EXTENSIONS) <= set(ENDINGS)


def test_links_are_followed_once(tmp_path):
    fill(tmp_path / "train")
    (tmp_path / "elsewhere/more").mkdir(parents=True)
    (tmp_path / "elsewhere/more/a.png").write_bytes(KINDS["plain.png"].item)
    (tmp_path / "train/cat/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train/cat/up").symlink_to(tmp_path / "train/cat")
    assert sum(load_data(spec("folder", tmp_path)).sizes.values()) == 21
    (tmp_path / "train/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match="gone.png cannot be read .*a link that leads nowhere"):
        load_data(spec("folder", tmp_path))


def test_names_that_differ_in_unicode_form_only(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path / "train", classes=[composed, "zoo"])
    fill(tmp_path / "val", classes=[decomposed, "zoo "], count=3)
    data = load_data(spec("folder", tmp_path))
    assert data.classes == [composed, "zoo"] and data.sizes["test"] == 6
    (tmp_path / "train" / decomposed).mkdir()
    with pytest.raises(ValueError, match=r"two folders of one class, 'cafe\\u0301' and 'caf\\xe9'; put"):
        load_data(spec("folder", tmp_path))


def test_names_that_are_no_utf8(tmp_path):
    fill(tmp_path / "train")
    os.rename(tmp_path / "train/cat/0.png", os.fsencode(tmp_path / "train/cat") + b"/\xff.png")
    assert len(data_fingerprint(spec("folder", tmp_path))) == 16


def test_two_folders_for_one_split(tmp_path):
    for name in "train", "val", "validation":
        fill(tmp_path / name)
    with pytest.raises(ValueError, match="holds validation and val, which both mean the validation split"):
        load_data(spec("folder", tmp_path))


# ---- layouts of tables

@pytest.mark.parametrize("files", [
    ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"], ["train.parquet", "test.parquet"],
    ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
    ["data/train.parquet", "data/test.parquet"],
    ["plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"],
    ["default/train/0000.parquet", "default/test/0000.parquet"], ["train/0000.parquet", "test/0000.parquet"],
    ["train-00000-of-00001-0123abcd.parquet", "test-00000-of-00001-89abcdef.parquet"]], ids=lambda f: f[0])
def test_layouts_of_the_hub(tmp_path, files):
    (tmp_path / "pets/.cache").mkdir(parents=True)
    for name, count in zip(files, (20, 6)):
        write_table(tmp_path / "pets" / name, label=[0, 1] * (count // 2), metadata=hub_metadata(["a", "b"]))
    data = load_data(spec("parquet", tmp_path / "pets"))
    assert data.sizes == dict(train=16, val=4, test=6) and has_shards(tmp_path / "pets")
    pack(spec("parquet", tmp_path / "pets"), tmp_path / "packed")
    assert load_data(spec("parquet", tmp_path / "packed")).fingerprint == data.fingerprint


@pytest.mark.parametrize("files, texts", [
    (["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"],
     ["train-00000-of-00001.parquet (1 file)", "train-00000-of-00002.parquet (2 files)"]),
    (["train", "train-00000-of-00001"], ["train.parquet (1 file)", "train-00000-of-00001.parquet (1 file)"]),
    (["train-00000-of-00001-aa", "train-00000-of-00001-bb"], ["-aa.parquet (1 file)", "-bb.parquet (1 file)"]),
    (["train-0", "data/train-0"], ["train-0.parquet (1 file)", "data/train-0.parquet (1 file)"]),
    (["train", "train/0000"], ["train.parquet (1 file)", "train/0000.parquet (1 file)"]),
    (["train", "val", "validation"], ["the validation split", "val.parquet", "validation.parquet"])])
def test_two_uploads_side_by_side(tmp_path, files, texts):
    for name in files:
        write_table(tmp_path / f"{name}.parquet", label=[0, 1])
    with pytest.raises(ValueError, match="holds 2 sets of files for the") as e:
        load_data(spec("parquet", tmp_path))
    assert all(text in str(e.value) for text in texts) and "keep the files of one upload" in str(e.value)


def test_several_configurations(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNGENE_DATA", str(tmp_path))
    for name in "small", "large":
        write_table(tmp_path / "pets" / name / "train-00000-of-00001.parquet", label=[0, 1] * 10)
    text = "holds several configurations: large, small; choose one by its folder, e.g. parquet:pets/large"
    with pytest.raises(ValueError, match=text):
        load_data("parquet:pets")
    assert sum(load_data("parquet:pets/small").sizes.values()) == 20
    with pytest.raises(ValueError, match=r"there is no dataset 'pets' \(did you mean 'parquet:pets'"):
        load_data("pets")
    assert find_shards(tmp_path / "none") == {}


def test_a_configuration_of_the_hub(monkeypatch):
    from test_data import FakeSplit, fake_hub

    names = fake_hub(monkeypatch, train=FakeSplit(20, "a"))
    load_data(DataSpec("hub:org/pets/small"))
    assert names == ["org/pets/small"]

    def several(*name, cache_dir):
        raise ValueError("Config name is missing. Please pick one among the available configs: ['a', 'b']")
    monkeypatch.setattr("sys.modules", dict(__import__("sys").modules))
    __import__("sys").modules["datasets"].load_dataset = several
    with pytest.raises(ValueError, match="hub:org/pets cannot be loaded .*'a', 'b'.*hub:<org/name/configuration>"):
        load_data(DataSpec("hub:org/pets"))


# ---- labels

@pytest.mark.parametrize("values, right", [
    ([1.0, 0.0, 2.0], [1, 0, 2]), ([True, False], [1, 0]), (pd.Series([1, 0], dtype="Int64"), [1, 0]),
    (pd.Series(["b", "a"], dtype="category"), [1, 0]), (["b ", "a", "b"], [1, 0, 1]),
    (["caf\u00e9", "cafe\u0301", "x"], [0, 0, 1]), (np.array([1, 0], np.uint8), [1, 0]), ([-1, 0, 1], [-1, 0, 1])])
def test_labels_that_are_read(values, right):
    clean = clean_labels(list(values), "a.parquet", "label")
    classes = ["zero", "one", "two"] if isinstance(clean[0], int) else sorted(set(clean))
    assert encode_labels(clean, classes, "a.parquet", "label").tolist() == right


def column(values, kind=None):
    return pa.array(values, kind)


@pytest.mark.parametrize("values, text", [
    (column([0, None]), "row 1, has no label"), (column([0.0, float("nan")]), "row 1, has no label"),
    (column([None, None]), "row 0, has no label"), (column(["a", ""]), "row 1, has no label"),
    (column([0.0, 1.5]), "row 1, has 1.5 for a label, wanted a whole number or text"),
    (column([0.0, float("inf")]), "row 1, has inf for a label"),
    (column([[0], [0, 1]]), "row 0, has \\[0\\] for a label"),
    (column([{"a": 1}, {"a": 2}]), "row 0, has {'a': 1} for a label, wanted one class an image"),
    (column([b"cat", b"dog"]), "row 0, has b'cat' for a label"),
    (column([0, 1], pa.timestamp("s")), "row 0, has datetime")])
def test_labels_that_are_refused_by_file_column_and_row(tmp_path, values, text):
    file = write_table(tmp_path / "train.parquet", label=values)
    with pytest.raises(ValueError, match=f"{file.name}, column 'label', {text}"):
        load_data(spec("parquet", tmp_path))


@pytest.mark.parametrize("labels, text", [
    ([0, 2], "has labels from 0 to 2, but 2 classes .*row 1"),
    ([-2, 0], "has labels from -2 to 0, but 2 classes .*row 0"),
    (["a", "c"], "has labels c that are not among the classes"), ([2**62, 0], "has .*but 2 classes")])
def test_labels_beyond_the_names(tmp_path, labels, text):
    write_table(tmp_path / "train.parquet", label=labels, metadata=hub_metadata(["a", "b"]))
    with pytest.raises(ValueError, match=f"train.parquet, column 'label', {text}"):
        load_data(spec("parquet", tmp_path))


def test_labels_from_pandas(tmp_path):
    encoded = KINDS["plain.png"].item
    frame = pd.DataFrame(dict(image=[dict(bytes=encoded)] * 20, label=pd.Series([0.0, 1.0] * 10)))
    frame.to_parquet(tmp_path / "train.parquet")
    assert load_data(spec("parquet", tmp_path)).classes == ["0", "1"]
    frame.loc[3, "label"] = None
    frame.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="train.parquet, column 'label', row 3, has no label"):
        load_data(spec("parquet", tmp_path))


def test_numbers_and_text_for_labels(tmp_path):
    write_table(tmp_path / "train-0.parquet", label=[0, 1])
    write_table(tmp_path / "train-1.parquet", label=["a", "b"])
    with pytest.raises(ValueError, match="column 'label' holds numbers and text such as 'a'; use one of them"):
        load_data(spec("parquet", tmp_path))


def test_minus_one_without_names(tmp_path):
    write_table(tmp_path / "train.parquet", label=[1, 2] * 10)
    write_table(tmp_path / "test.parquet", label=[-1] * 6)
    assert load_data(spec("parquet", tmp_path)).sizes == dict(train=12, val=4, test=4), "secret labels"
    write_table(tmp_path / "train.parquet", label=[-1, 1] * 10)
    (tmp_path / "test.parquet").unlink()
    assert load_data(spec("parquet", tmp_path)).classes == ["-1", "1"], "two classes, as they are"


@pytest.mark.parametrize("metadata, text", [
    ({"huggingface": "{"}, "the 'huggingface' metadata of its schema is broken"),
    ({"huggingface": "[1]"}, "metadata of its schema is broken"), ({"huggingface": b"\xff\xfe"}, "is broken"),
    ({"huggingface": '{"info": {"features": []}}'}, None), ({"huggingface": ""}, None), ({"huggingface": "null"}, None),
    ({"huggingface": "{}"}, None), ({"huggingface": '{"info": null}'}, None), (hub_metadata([]), None),
    (hub_metadata(["a", "a"]), r"classes 0 and 1 of column 'label' have one name, 'a' and 'a'; rename or join"),
    (hub_metadata(["caf\u00e9", "cafe\u0301"]), "have one name"),
    (hub_metadata(["a", "a "]), "have one name, 'a' and 'a '"),
    (hub_metadata("ab"), "the class names of column 'label' are 'ab', wanted a list of text"),
    (hub_metadata([["a"], ["b"]]), "wanted a list of text"), (hub_metadata(["a", "b"], "other"), None)])
def test_metadata_of_the_schema(tmp_path, metadata, text):
    write_table(tmp_path / "train.parquet", label=[0, 1] * 10, metadata=metadata)
    if text is None:
        assert load_data(spec("parquet", tmp_path)).classes == ["0", "1"]
        return
    with pytest.raises(ValueError, match=f"train.parquet: .*{text}"):
        load_data(spec("parquet", tmp_path))


def test_damaged_tables_are_named(tmp_path):
    file = write_table(tmp_path / "train.parquet", label=[0, 1] * 10, metadata=hub_metadata(["a", "b"]))
    raw, rng = file.read_bytes(), np.random.RandomState(0)
    for _ in range(150):
        damaged = bytearray(raw)
        for place in rng.randint(0, len(raw), 4):
            damaged[place] = rng.randint(256)
        file.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load_data(spec("parquet", tmp_path))
        except (ValueError, FileNotFoundError) as e:
            assert str(tmp_path) in str(e) or "parquet" in str(e)
