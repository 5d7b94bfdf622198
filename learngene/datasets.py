"""Datasets by name. To add one, write a reader here under `@dataset("its-name")`.

A reader takes a `DataSpec` and returns a dict of `Images`: the official splits, `train` and, where the dataset has
them, `validation` and `test`. It raises FileNotFoundError, with what to put where, when the files are missing.
"""
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision import datasets as torchvision_datasets

from .files import cache_folder, near
from .folders import find_split_folders, read_split_folders
from .hub import without_retries
from .images import SPLIT_NAMES, Images, hash_pieces, images_from_files
from .labels import check_names, classes_of, clean_labels, encode_labels
from .recipe import DataSpec
from .scanning import apply_options
from .shards import IMAGE_COLUMNS, LABEL_COLUMNS, find_column, find_shards, has_shards, read_shards

READERS = {}  # name -> reader
OWN = ("parquet", "folder")  # your own images; `folder:pets` is the folder pets among the other datasets


def dataset(*names):
    "Register a reader of datasets under `names`, which a recipe's `data.name` can then have."
    def register(reader):
        READERS.update(dict.fromkeys(names, reader))
        return reader
    return register


def dataset_names():
    "List the names that a recipe's `data.name` can have."
    return [*(name for name in READERS if name != "hub"), *(f"{kind}:<name>" for kind in OWN), "hub:<org/name>"]


def read_splits(spec: DataSpec):
    """Read the official splits of the dataset that `spec` names, as a dict of `Images`.

    Images are decoded as `spec.channels` and `spec.background` say. Raises ValueError for an unknown name, and what the
    reader raises.
    """
    kind, _, rest = spec.name.partition(":")
    known = kind in READERS and (kind in OWN or bool(rest) == (kind == "hub"))
    if not known:
        layout = folder_layout(dataset_folder(spec))  # a folder's name alone
        hint = f" (did you mean '{layout}:{spec.name}'?)" if layout else near(spec.name, dataset_names())
        raise ValueError(f"there is no dataset {spec.name!r}{hint}; known are {', '.join(dataset_names())}.")
    splits = READERS[kind](spec)
    return {split: apply_options(images, spec.channels, spec.background) for split, images in splits.items()}


def data_folder(name) -> Path:
    """Return the folder where a dataset is looked for.

    It is `$LEARNGENE_DATA/<name>`, by default `~/.cache/learngene/data/<name>`.
    """
    return Path(os.environ.get("LEARNGENE_DATA") or cache_folder() / "data").expanduser() / name


def dataset_folder(spec: DataSpec) -> Path:
    "Return the folder that holds the dataset of `spec`."
    kind, _, rest = spec.name.partition(":")
    return Path(spec.path).expanduser() if spec.path else data_folder(rest or kind)


def dataset_title(spec: DataSpec) -> str:
    "Return the dataset's name for people: its own, or the folder's for your own images."
    kind, _, rest = spec.name.partition(":")
    if kind not in OWN:
        return spec.name
    return dataset_folder(spec).resolve().name if spec.path else rest or kind


# --- your own images

def folder_layout(folder):
    "Tell how a folder holds images: \"parquet\", \"folder\" (class folders), or None."
    return "parquet" if has_shards(folder) else "folder" if "train" in find_split_folders(folder) else None


def _layout_hint(folder):
    "Guess what was meant by a folder without the wanted layout: ` (...)`, or nothing."
    if layout := folder_layout(folder):
        content = "shards, not class folders" if layout == "parquet" else "no shards but class folders"
        return f" (it holds {content}; did you mean '{layout}:{folder.name}'?)"
    siblings = folder.parent.iterdir() if folder.parent.is_dir() else []
    return near(folder.name, [path.name for path in siblings if path.is_dir() and path != folder])


def _read_class_folders(folder, content, skip=()):
    "Read class folders, without the splits in `skip`; `content` is what belongs there."
    split_folders = {split: path for split, path in find_split_folders(folder).items() if split not in skip}
    if "train" not in split_folders:
        raise FileNotFoundError(f"there is no {folder / 'train'}{_layout_hint(folder)}: put {content} into train/ and "
                                "val/ there, with a folder per class, or set data.path.")
    return read_split_folders(folder, split_folders)


# --- datasets

@dataset("digits")
def read_digits(spec):
    "Read scikit-learn's 1797 handwritten digits: 8 x 8 pixels, 17 shades, one split."
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)
    labels = digits.target.astype("<i8")
    digest = hash_pieces(pixels.tobytes(), labels.tobytes())
    locations = [f"digit {i}" for i in range(len(labels))]
    return dict(train=Images(pixels, labels, [str(c) for c in range(10)], digest, locations, "L"))


_BY_SPLIT = dict(train=dict(split="train"), test=dict(split="test"))
_CIFAR = dict(train=dict(train=True), test=dict(train=False))
TORCHVISION = {  # name -> torchvision's class, its arguments for each split, the folder that it reads
    "cifar10": ("CIFAR10", _CIFAR, "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", _CIFAR, "cifar-100-python"),
    "flowers102": ("Flowers102", _BY_SPLIT | dict(validation=dict(split="val")), "flowers-102"),
    "food101": ("Food101", _BY_SPLIT, "food-101"),
    "stanford_cars": ("StanfordCars", _BY_SPLIT, "stanford_cars"),
    "inat2019": ("INaturalist", dict(train=dict(version="2019")), "2019"),  # its test labels are not public
}


@dataset(*TORCHVISION)
def read_torchvision(spec):
    "Let torchvision read and check a dataset and, except for Stanford Cars, download it."
    class_name, arguments, subfolder = TORCHVISION[spec.name]
    folder, download = dataset_folder(spec), spec.download and spec.name != "stanford_cars"
    try:
        if not download and not (folder / subfolder).is_dir():
            raise RuntimeError("there is no such folder")
        folder.mkdir(parents=True, exist_ok=True)
        reader = getattr(torchvision_datasets, class_name)
        splits = {split: reader(str(folder), download=download, **chosen) for split, chosen in arguments.items()}
    except RuntimeError as e:
        advice = "set `download: true` in the recipe's data to download it"
        if spec.name == "stanford_cars":
            advice = "its home is gone: https://github.com/pytorch/vision/issues/7545 tells what to download by hand"
        raise FileNotFoundError(f"{spec.name} is missing or damaged in {folder / subfolder} ({e}): {advice}, or set "
                                f"data.path to the folder that holds {subfolder}/.") from None
    return {split: _torchvision_images(split_dataset, folder) for split, split_dataset in splits.items()}


def _torchvision_images(split_dataset, folder):
    "Make `Images` of the arrays or the paths that one of torchvision's datasets holds."
    if hasattr(split_dataset, "data"):  # CIFAR
        pixels, labels = split_dataset.data, np.array(split_dataset.targets, dtype="<i8")
        locations = [f"{type(split_dataset).__name__}, image {i}" for i in range(len(labels))]
        digest = hash_pieces(pixels.tobytes(), labels.tobytes())
        return Images(pixels, labels, list(split_dataset.classes), digest, locations)
    if hasattr(split_dataset, "index"):  # iNaturalist
        classes = list(split_dataset.all_categories)
        files = [Path(split_dataset.root, classes[label], name) for label, name in split_dataset.index]
        return images_from_files(folder, files, [label for label, _ in split_dataset.index], classes)
    if hasattr(split_dataset, "_samples"):  # Stanford Cars; torchvision has no public name for either
        files, labels = zip(*split_dataset._samples)
    else:
        files, labels = split_dataset._image_files, split_dataset._labels
    classes = getattr(split_dataset, "classes", range(max(map(int, labels)) + 1))
    return images_from_files(folder, files, labels, [str(c) for c in classes])


@dataset("imagenet")
def read_imagenet(spec):
    "Read ImageNet-1k from class folders; the labels of its test split are not public."
    return _read_class_folders(dataset_folder(spec), "ImageNet-1k (ILSVRC 2012, from https://image-net.org)", ["test"])


@dataset("cub200")
def read_cub(spec):
    "Read CUB-200-2011; three text files, keyed by image, state its files, labels and split."
    folder = dataset_folder(spec)
    root = next((path for path in (folder, folder / "CUB_200_2011") if (path / "images.txt").is_file()), None)
    if root is None:
        raise FileNotFoundError(f"there is no {folder / 'images.txt'}: unpack CUB_200_2011.tgz "
                                "(https://data.caltech.edu/records/65de6-vp158) there, or set data.path.")
    names = ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    files, numbers, is_train = (dict(line.split() for line in (root / name).read_text().splitlines() if line.strip())
                                for name in names)
    labels = {i: int(number) - 1 for i, number in numbers.items()}
    class_names = {labels[i]: file.split("/")[0] for i, file in files.items()}
    classes = [class_names.get(label, str(label)) for label in range(max(class_names) + 1)]
    ids = {split: [i for i in files if is_train[i] == flag] for split, flag in (("train", "1"), ("test", "0"))}
    return {split: images_from_files(root, [root / "images" / files[i] for i in split_ids],
                                     [labels[i] for i in split_ids], classes) for split, split_ids in ids.items()}


@dataset("parquet")
def read_parquet(spec):
    "Read a folder of parquet shards, as the Hugging Face hub serves them."
    folder = dataset_folder(spec)
    files = find_shards(folder)
    if not files:
        raise FileNotFoundError(f"there is no {folder / 'train-*.parquet'}{_layout_hint(folder)}: put the shards of a "
                                "Hugging Face image dataset there, set $LEARNGENE_DATA to the folder that holds its "
                                "folder, or set data.path.")
    return read_shards(files)


@dataset("folder")
def read_folder(spec):
    "Read `train/` and, where there are any, `val/` and `test/`, each with a folder per class."
    return _read_class_folders(dataset_folder(spec), "your images")


@dataclass
class HubColumn:
    "The encoded images of a table of Hugging Face's `datasets`, by index."
    table: object
    column: str

    def __len__(self):
        return len(self.table)

    def __getitem__(self, i):
        image = self.table[int(i)][self.column]
        return image["path"] if image["bytes"] is None else image["bytes"]


@dataset("hub")
def read_hub(spec):
    """Let Hugging Face's `datasets` read a dataset of the hub.

    `spec.name` is `hub:<org/name>` or, for one of several configurations, `hub:<org/name/configuration>`, and
    `spec.path` the cache folder. The fingerprint that `datasets` gives a split stands for its content. Raises
    ImportError without `datasets`, OSError when the hub cannot be reached or has no such name, ValueError without a
    training split, or a column of images or labels.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError(f"{spec.name} needs Hugging Face's datasets: pip install 'learngene[hub]'.") from None
    name = spec.name.removeprefix("hub:")
    parts = name.split("/")
    arguments = ["/".join(parts[:2]), parts[2]] if len(parts) == 3 and all(parts) else [name]
    cache = str(Path(spec.path).expanduser()) if spec.path else None
    try:
        with without_retries():
            hub_splits = datasets.load_dataset(*arguments, cache_dir=cache)
    except OSError as e:  # no network, or no dataset of that name
        repo = arguments[0]
        said = (str(e) or "no answer").splitlines()[0]
        raise OSError(f"{spec.name} could not be fetched ({type(e).__name__}: {said}). Check the name; or fetch it "
                      f"where there is a network, by `hf download --repo-type dataset {repo} --local-dir FOLDER`, and "
                      f"load 'parquet:{repo.rpartition('/')[2]}' with data.path: FOLDER.") from None
    except ValueError as e:  # among them: several configurations, which it lists
        raise ValueError(f"{spec.name} cannot be loaded ({e}); a configuration is named as hub:<org/name/configuration>"
                         ".") from None
    tables = {split: hub_splits[name] for split, names in SPLIT_NAMES.items() for name in names if name in hub_splits}
    if "train" not in tables:
        raise ValueError(f"{spec.name} has splits {', '.join(hub_splits)}; wanted one named train.")
    image = find_column(IMAGE_COLUMNS, tables["train"].column_names, "image", spec.name)
    label = find_column(LABEL_COLUMNS, tables["train"].column_names, "label", spec.name)
    values = {split: clean_labels(table[label], f"{spec.name}, {split}", label) for split, table in tables.items()}
    names = getattr(tables["train"].features[label], "names", None)
    classes = check_names(names, spec.name, label) if names else classes_of(values["train"], spec.name, label)
    splits = {}
    for split, table in tables.items():
        where = f"{spec.name}, {split}"
        items = HubColumn(table.cast_column(image, datasets.Image(decode=False)).select_columns([image]), image)
        labels = encode_labels(values[split], classes, where, label)
        locations = [f"{where}, row {row}" for row in range(len(table))]
        splits[split] = Images(items, labels, [str(c) for c in classes], table._fingerprint, locations)
    return splits
