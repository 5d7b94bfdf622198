"""Image folders, as ImageNet is usually stored: a folder a split, in it a folder a class."""
import os

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from .images import SPLIT_NAMES, images_from_files


def find_split_folders(folder):
    "Map each split to its folder in `folder`, where there is one."
    return {split: folder / name for split, names in SPLIT_NAMES.items() for name in names if (folder / name).is_dir()}


def read_split_folders(folder, split_folders):
    """Read the folders that `find_split_folders` lists, as a dict of `Images`.

    Images are in the order of their file names. Classes are the class folders of the training split in alphabetical
    order. Hidden files, files below a class folder's own folders and files that are no images are left out. Raises
    ValueError for a class folder that the training split lacks, and for one without images.
    """
    classes = class_folders(split_folders["train"])
    return {split: _read_split(folder, path, classes) for split, path in split_folders.items()}


def class_folders(folder):
    "List the class folders by name. By hand: torchvision takes hidden folders for classes."
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _read_split(root, folder, classes):
    "Read the class folders of one split."
    present = class_folders(folder)
    if not present or set(present) - set(classes):
        raise ValueError(f"{folder} holds class folders {present[:5]}, wanted some of train's: "
                         f"{', '.join(classes[:5])} ... ({len(classes)} in all); rename or remove the others.")
    numbers = {name: classes.index(name) for name in present}
    samples = make_dataset(folder, numbers, is_valid_file=_is_image(folder), allow_empty=True)
    files, labels = [file for file, _ in samples], [label for _, label in samples]
    if empty := set(numbers.values()) - set(labels):
        raise ValueError(f"{folder / classes[min(empty)]} holds no image files ({', '.join(IMG_EXTENSIONS)}); "
                         "put the images of this class there, or remove the folder.")
    return images_from_files(root, files, labels, classes)


def _is_image(folder):
    "Make a test for visible image files right in a class folder of `folder`."
    def is_image(path):
        class_folder, name = os.path.split(path)
        direct = os.path.dirname(class_folder) == str(folder)
        return direct and not name.startswith(".") and name.lower().endswith(IMG_EXTENSIONS)
    return is_image
