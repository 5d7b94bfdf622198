"""Checks that a model, its images and its recipe go together, made before anything is trained."""
import warnings

import numpy as np
from timm.models.vision_transformer import VisionTransformer

from .ancestry import expects


def check_model_fits(
    model,  # about to be trained
    data,  # from `load_data`
):
    "Raise TypeError unless the model is a ViT, ValueError unless it fits images and labels."
    if not isinstance(model, VisionTransformer):
        raise TypeError(f"{type(model).__name__} is not a timm VisionTransformer; only these can be trained here.")
    size, channels, classes = model.patch_embed.img_size, model.patch_embed.proj.in_channels, len(data.classes)
    if model.num_classes < classes:
        raise ValueError(f"{data.name} has {classes} classes, the model's classifier {model.num_classes}; "
                         f"inherit with num_classes={classes}.")
    if channels != data.in_chans:
        raise ValueError(f"{data.name} has {data.in_chans} channel{'s' * (data.in_chans > 1)}, the model takes "
                         f"{channels}; choose images or a model with as many.")
    if tuple(size) != (data.image_size,) * 2 and not model.dynamic_img_size:
        raise ValueError(f"{data.name} has images of {data.image_size} px, the model takes {size[0]}; "
                         f"set data.image_size: {size[0]}.")


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


def warn_of_normalisation(
    ancestry,  # a model, which may state its normalisation
    name: str,  # of the ancestry, for the message
    data,  # from `load_data`
):
    "Warn when an ancestry was trained on images that were normalised in another way."
    wanted = expects(ancestry)
    if wanted and not all(np.allclose(a, b, atol=1e-3) for a, b in zip(wanted, (data.mean, data.std))):
        mean, std = map(list, wanted)
        warnings.warn(f"{name} was trained on images normalised by mean {mean} and std {std}, and {data.name} is "
                      f"normalised by {list(data.mean)} and {list(data.std)}; state data.mean and data.std in the "
                      "recipe.", stacklevel=4)
