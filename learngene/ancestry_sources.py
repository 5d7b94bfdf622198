"Where ancestries come from: folders on this machine, and timm's registry."
import json
import sys

import timm

from .families.checks import why_refused
from .files import CONFIG, near, read_config
from .vit import VIT_FORMAT, build_vit, load_vit


def from_folder(
    path,  # a folder, as a Path
    pretrained: bool,  # False: random weights
    arguments: dict,  # for `timm.create_model`; a folder of ours takes none
):  # a model, not yet checked
    """Load a model from a folder of `save_vit`, or one in the Hugging Face hub's layout.

    Raises TypeError for arguments that a folder of ours does not take, and what `load_vit` and timm raise.
    """
    if _is_hub_folder(path):
        model = timm.create_model(f"local-dir:{path}", pretrained=pretrained, **arguments)
        if classes := json.loads((path / CONFIG).read_text(encoding="utf-8")).get("class_to_idx"):
            model.pretrained_cfg = (model.pretrained_cfg or {}) | dict(class_to_idx=classes)
        return model
    arguments = dict(arguments)
    size = arguments.pop("img_size", None)
    if arguments:
        raise TypeError(f"{path} states its whole architecture; leave {', '.join(arguments)} out.")
    model = load_vit(path) if pretrained else build_vit(read_config(path, VIT_FORMAT)["config"], device="cpu")
    return model if size is None else set_image_size(model, size)


def set_image_size(
    model,  # a timm VisionTransformer
    size,  # pixels: one number, or (height, width)
):  # the same model
    "Resample a model's positions for images of another size. ValueError for a bad one."
    height, width = (size, size) if isinstance(size, int) else size
    patch = model.patch_embed.patch_size
    if height < patch[0] or width < patch[1] or height % patch[0] or width % patch[1]:
        raise ValueError(f"images of {height} x {width} pixels do not divide into patches of {patch[0]} x {patch[1]}; "
                         "choose a multiple.")
    model.set_input_size(img_size=(height, width))
    return model


def from_timm(
    name: str,  # of `timm.list_models()`, with or without a tag, or "hf-hub:..."
    pretrained: bool,  # False: random weights
    arguments: dict,  # for `timm.create_model`
    also_known=(),  # more names to suggest for an unknown one
):  # a model, not yet checked
    """Create a timm model; what can be refused is refused before anything is fetched.

    Raises ValueError for an unknown name or tag, TypeError for an architecture without separate heads, and OSError
    when weights cannot be fetched.
    """
    architecture, _, tag = name.partition(".")
    if timm.is_model(architecture):
        _check_architecture(architecture)
        _check_tag(architecture, tag)
    elif not name.startswith("hf-hub:"):
        known = [*also_known, *timm.list_models("*vit*"), *timm.list_models("deit*")]
        raise ValueError(f"there is no model {name!r}{near(name, known)}: "
                         f"give a name of timm.list_models(), of {list(also_known)}, or a folder.")
    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except OSError as error:  # every failed download is one
        raise OSError(f"the weights of {name!r} could not be fetched ({type(error).__name__}: {error}). Without a "
                      "network, give a local folder, or pretrained=False for random weights.") from error


def _is_hub_folder(path):
    "Whether the folder's config names timm's architecture, as on the hub, and is not one of ours as well."
    config = path / CONFIG
    try:
        stated = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        return "architecture" in stated and stated.get("format") != VIT_FORMAT
    except ValueError:
        return False  # load_vit will say that the file is damaged


def _check_architecture(name):
    module = sys.modules[timm.model_entrypoint(name).__module__]
    if reason := why_refused(c for c in vars(module).values() if isinstance(c, type)):
        raise TypeError(f"{name} cannot be cut into heads: {reason}")


def _check_tag(name, tag):
    try:
        timm.models.get_pretrained_cfg(f"{name}.{tag}" if tag else name)
    except RuntimeError:  # no such tag
        tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{name}.*")]
        raise ValueError(f"there are no weights {tag!r} of {name}{near(tag, tags)}: "
                         f"timm has {', '.join(tags) or 'none'}.") from None
