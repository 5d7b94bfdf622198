"Classifiers of any architecture: a teacher needs no heads that can be told apart, only answers."
from pathlib import Path

from torch import nn

from .ancestry import OF_ARCHITECTURE, shipped
from .ancestry_sources import find_source, from_folder, from_timm
from .families.checks import family_of
from .files import CONFIG, read_json, save_tensors
from .model_notes import read_notes
from .vit import save_vit

CLASSIFIER_FORMAT = "learngene-classifier"  # marks the folder's config.json


def load_teacher(
    name_or_path,  # as `load_ancestry` takes it; any timm classifier, a convolutional network too
) -> nn.Module:  # in eval mode
    "Load a trained classifier. Errors as `load_ancestry`'s; ValueError without classes."
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    path = shipped().get(name, path)
    if find_source(name_or_path, path, shipped()):
        model = from_folder(path, True, {}, any_architecture=True)
    else:
        model = from_timm(name, True, {}, any_architecture=True)
    if not getattr(model, "num_classes", 0):
        raise ValueError(f"{name} has no classifier, so it cannot teach; give one with classes.")
    return model.eval()


def find_teacher(
    teacher,  # a model, a name or folder of one, or None
):  # a model, or None
    "Load a teacher that is given by name."
    return load_teacher(teacher) if isinstance(teacher, (str, Path)) else teacher


def record_kept_with(
    path,  # a folder that `save_classifier` wrote
):  # the record of its training, or None
    "Read the record that lies beside a trained model."
    return read_json(Path(path) / CONFIG, "train it again").get("extra", {}).get("record")


def save_classifier(
    model,  # of timm; a vision transformer, or one that `new_model` built by its architecture's name
    path,  # folder to write; a model there is replaced
    arguments=None,  # that built it, with its `architecture`
    dtype=None,  # store floating-point weights in this type; None = as they are
    **extra,  # JSON-able things to keep beside the weights
) -> Path:
    "Save a vision transformer as `save_vit` does, any other model as timm's folder."
    if family_of(model):
        return save_vit(model, path, dtype, **extra)
    arguments = dict(arguments)
    notes = read_notes(model).get("pretrained_cfg", {}) | {name: model.pretrained_cfg[name] for name in OF_ARCHITECTURE}
    stated = dict(architecture=arguments.pop("architecture"), num_classes=arguments.pop("num_classes", None),
                  model_args=arguments, pretrained_cfg=notes, extra=extra)
    tensors = {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in model.state_dict().items()}
    return save_tensors(path, CLASSIFIER_FORMAT, tensors, stated)
