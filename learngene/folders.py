"""Image folders, as ImageNet is usually stored: a folder per split, in it a folder per class."""
import os
import warnings
from collections import Counter
from pathlib import Path

from .decoding import ENDINGS
from .images import SPLIT_NAMES, images_from_files
from .labels import normal_name

SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
SYSTEM_FILES = ("thumbs.db", "desktop.ini", "ehthumbs.db")


def find_split_folders(folder):
    """Map each split to its folder in `folder`, where there is one.

    Raises ValueError when two folders could be one split.
    """
    split_folders = {}
    for split, names in SPLIT_NAMES.items():
        present = [name for name in names if (folder / name).is_dir()]
        if len(present) > 1:
            raise ValueError(f"{folder} holds {' and '.join(present)}, which both mean the {split} split; "
                             "remove one, or put its images into the other.")
        if present:
            split_folders[split] = folder / present[0]
    return split_folders


def read_split_folders(folder, split_folders):
    """Read the folders that `find_split_folders` lists, as a dict of `Images`.

    Images are in the order of their file names, those of subfolders included. Classes are the class folders of the
    training split in alphabetical order. Hidden files, what operating systems put beside images and files that are no
    images are left out; a warning counts the last. Raises ValueError for a class folder that the training split
    lacks, and for one without images.
    """
    classes = sorted(class_folders(split_folders["train"]))
    return {split: _read_split(folder, path, classes) for split, path in split_folders.items()}


def class_folders(folder):
    """Map the class names of a split to their folders.

    Names are compared in Unicode's composed form, without white space at their ends. Raises ValueError for two folders
    of one name.
    """
    folders = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and not _is_skipped(entry.name):
            name = normal_name(entry.name)
            if name in folders:
                raise ValueError(f"{folder} holds two folders of one class, {ascii(folders[name].name)} and "
                                 f"{ascii(entry.name)}; put their images into one.")
            folders[name] = Path(entry.path)
    return folders


def _read_split(root, folder, classes):
    "Read the class folders of one split."
    present = class_folders(folder)
    if not present or set(present) - set(classes):
        raise ValueError(f"{folder} holds class folders {sorted(present)[:5]}, wanted some of train's: "
                         f"{', '.join(classes[:5])} ... ({len(classes)} in all); rename or remove the others.")
    files, labels = [], []
    passed_over = Counter(_ending(entry.name) for entry in os.scandir(folder)
                          if entry.is_file() and not _is_skipped(entry.name))  # they are of no class
    for name, class_folder in present.items():
        visible = list(walk_files(class_folder))
        images = [path for path in visible if path.lower().endswith(ENDINGS)]
        others = Counter(_ending(path) for path in visible if not path.lower().endswith(ENDINGS))
        if not images:
            instead = f" but files ending in {_list(others)}" if others else ""
            raise ValueError(f"{class_folder} holds no image files ({', '.join(ENDINGS)}){instead}; "
                             "put the images of this class there, or remove the folder.")
        files += images
        labels += [classes.index(name)] * len(images)
        passed_over += others
    if passed_over:
        warnings.warn(f"{folder}: {sum(passed_over.values())} files were passed over ({_list(passed_over)}); images "
                      "count that lie in a class's folder and have an ending of learngene.decoding.FORMATS.",
                      stacklevel=6)
    return images_from_files(root, files, labels, classes)


def walk_files(folder, above=()):
    "Yield the visible files below a folder; links are followed, but never in a circle."
    place = os.path.realpath(folder)
    if place in above:
        return
    for entry in os.scandir(folder):
        if _is_skipped(entry.name):
            continue
        if entry.is_dir():
            yield from walk_files(entry.path, (*above, place))
        elif entry.is_file() or entry.is_symlink():  # a link that leads nowhere is an error later
            yield entry.path


def _is_skipped(name):
    "Whether a file or folder is hidden, or an operating system's own."
    return name.startswith(".") or name in SYSTEM_FOLDERS or name.lower() in SYSTEM_FILES


def _ending(path):
    return os.path.splitext(path)[1].lower() or "(no ending)"


def _list(counts):
    "Text such as \".txt 3, .heic 2\", the most frequent first."
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{ending} {count}" for ending, count in ordered[:8]) + ", ..." * (len(ordered) > 8)
