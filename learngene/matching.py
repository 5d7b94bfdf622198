"""Checks that a model, its images and its recipe go together, made before anything is trained."""
import sys
import warnings
from contextvars import ContextVar
from functools import wraps

import numpy as np
import torch
from timm.utils import natural_key

from .anatomy import image_shape
from .ancestry import expects, load_ancestry, stated_classes
from .families.blocks import takes_one_size
from .families.checks import family_of
from .labels import normal_name
from .model_input import number_type
from .rng import isolate_rng
from .vit_checks import check_head


def check_model_fits(
    model,  # about to be trained
    data,  # from `load_data`
):
    "Raise TypeError unless the model is timm's, ValueError unless it fits the data."
    if family_of(model) is None and not getattr(model, "pretrained_cfg", None):
        raise TypeError(f"{type(model).__name__} is no model of timm; only these can be trained here.")
    if (kind := number_type(model)) in (torch.float16, torch.bfloat16):
        raise ValueError(f"the model's weights are {str(kind).removeprefix('torch.')}, in which small steps are lost; "
                         "call `model.float()` first, and set train.precision to compute in fewer bits.")
    if family_of(model):
        check_head(model)
    (channels, *size), classes = image_shape(model), len(data.classes)
    if model.num_classes < classes:
        raise ValueError(f"{data.name} has {classes} classes, the model's classifier {model.num_classes}; "
                         f"inherit with num_classes={classes}, or call `model.reset_classifier({classes})`.")
    if channels != data.in_chans:
        raise ValueError(f"{data.name} has {data.in_chans} channel{'s' * (data.in_chans > 1)}, the model takes "
                         f"{channels}; choose images or a model with as many.")
    if tuple(size) != (data.image_size,) * 2 and takes_one_size(model):
        raise ValueError(f"{data.name} has images of {data.image_size} px, the model takes {size[0]}; "
                         f"set data.image_size: {size[0]}, or ancestry_size: {data.image_size}.")


def check_logits(
    logits,  # what a model made of some images
    labels,  # (images,): of these images; on a GPU they are not looked at, which would wait for it
) -> None:
    "Raise ValueError unless there is a number for each image and for each class that occurs."
    shape, known = tuple(logits.shape), labels.device.type == "cpu" and labels.numel()
    if len(shape) != 2 or known and not 0 <= labels.min() <= labels.max() < shape[1]:
        occur = f"labels are {labels.min()} to {labels.max()}" if known else f"there are {len(labels)} labels"
        raise ValueError(f"the model's outputs have shape {shape} and {occur}; give a model with a class for each "
                         "label, e.g. by `model.reset_classifier(n)`.")


def check_class_count(
    recipe,  # of the run, for the message
    data,  # from `load_data`
    classes: int | None,  # of the classifier; None = nothing to check
    setting: str,  # which says so
):
    "ValueError when a recipe asks for a classifier of other classes than the dataset has."
    if classes is not None and classes != len(data.classes):
        raise ValueError(f"recipe {recipe.name!r}: {setting} is {classes}, but {data.name} has {len(data.classes)} "
                         "classes; name the dataset that it was meant for.")


# --- what a model states of its images, beside what they are

WARNED = ContextVar("what the outermost call has warned of", default=None)


def warns_once(function):
    "Let a function, and all that it calls, warn of one mismatch once."
    @wraps(function)
    def call(*args, **kw):
        token = WARNED.set(set()) if WARNED.get() is None else None
        try:
            return function(*args, **kw)
        finally:
            if token:
                WARNED.reset(token)
    return call


def warn_of_normalisation(
    model,  # which may state its normalisation
    name: str,  # of the model, for the message
    images,  # a Data, a Dataset, a DataLoader or DeviceImages; of a tensor nothing is known
):
    "Warn when a model was trained on images that were normalised in another way."
    wanted, given = expects(model), stated_normalisation(images)
    if not wanted or not given:
        return
    if len(given[0]) == 1:  # one channel made of several
        wanted = tuple((float(np.mean(numbers)),) for numbers in wanted)
    if len(wanted[0]) == len(given[0]) and all(np.allclose(a, b, atol=1e-3) for a, b in zip(wanted, given)):
        return
    mean, std, given_mean, given_std = ([round(n, 4) for n in numbers] for numbers in (*wanted, *given))
    title = getattr(images, "name", "these images")
    _warn(f"{name} was trained on images normalised by mean {mean} and std {std}, and {title} by mean {given_mean} and "
          f"std {given_std}; state data: {{mean: {mean}, std: {std}}} in the recipe, or mean= and std= in DataSpec.",
          f"{mean} {std} {given_mean} {given_std}")


def stated_normalisation(
    images,  # a Data, a Dataset, a DataLoader or DeviceImages
):  # (mean, std), one number per channel; None where nothing tells
    "Find what images are normalised with: look for a Normalize in their transform."
    for _ in range(10):  # loaders, subsets and the like around the dataset
        steps = [getattr(images, "augment", None), images, *_steps(getattr(images, "transform", None))]
        for step in steps:
            mean, std = getattr(step, "mean", None), getattr(step, "std", None)
            if not (mean is None or std is None or callable(mean)):
                numbers = (torch.as_tensor(number).cpu().double().flatten() for number in (mean, std))
                return tuple(tuple(one.tolist()) for one in numbers)
        images = getattr(images, "dataset", None) or next(iter(getattr(images, "datasets", None) or ()), None)
        if images is None:
            return None


def _steps(transform):
    "List the steps of a transform, those of nested ones too."
    inner = getattr(transform, "transforms", None)
    return [transform] if inner is None else [step for part in inner for step in _steps(part)]


def _warn(text, topic):
    "Warn at the line outside the library that made the call, unless that call has warned of it."
    warned = WARNED.get()
    if warned is not None and topic in warned:
        return
    if warned is not None:
        warned.add(topic)
    level, frame = 3, sys._getframe(2)
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in ("learngene", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def classes_of_ancestry(
    name: str,  # of one whose weights are ready
):  # names in its classifier's order; None where it states none
    "Read the classes of an ancestry, without its weights."
    with isolate_rng():
        return stated_classes(load_ancestry(name, pretrained=False))


def follow_class_order(
    data,  # from `load_data`
    stated,  # names of the classifier's classes in its order, from `stated_classes`; None = it states none
    name: str,  # of the model, for messages
):  # the Data, labelled in the classifier's order
    """Number the classes of a dataset as a classifier does that is kept.

    Raises ValueError when the names agree in part. Warns when none agrees, and, for a classifier that states no order,
    when timm would have numbered the classes in another.
    """
    own = [normal_name(c) for c in data.classes]
    if stated is None:
        natural = sorted(own, key=natural_key)
        if own == sorted(own) != natural:
            _warn(f"{data.name} numbers its classes alphabetically ({', '.join(own[:3])}, ...), and {name}, whose "
                  f"classifier is kept, states no order. timm's would be {', '.join(natural[:3])}, ...: if {name} was "
                  "trained in it, state label_names in its config.json.", "class order")
        return data
    if stated == own or len(stated) != len(own):  # of another number: an error of its own
        return data
    unknown = sorted(set(own) - set(stated))
    if not unknown:
        return data.in_class_order(stated)
    text = f"{name} states classes {', '.join(stated[:3])}, ..., and {data.name} has {', '.join(unknown[:3])}"
    if set(own) & set(stated):
        raise ValueError(f"{text}, which it does not know; correct the names of the classes.")
    _warn(f"{text}, ...: no name agrees, so the order of the classes is not known to be the same.", "class names")
    return data
