"Where ancestries come from: folders on this machine, and timm's registry."
import os
import pickle
import sys
from contextlib import nullcontext

import timm
import torch
from safetensors import SafetensorError

from .families.blocks import patches_of
from .families.checks import why_refused
from .files import CONFIG, check_finite, in_one_line, near, read_config, read_json, shorten
from .folder_schema import check_hub_folder, check_vit_folder
from .hub import without_retries
from .vit import VIT_FORMAT, build_described, build_vit, load_vit
from .wrong_paths import explain_absent, explain_file, explain_folder

MOST_PARAMS = 2**34  # of a model: 64 GB


def find_source(
    name_or_path,  # as given to `load_ancestry`
    path,  # the same as a Path
    known,  # names of models that come with the library
) -> bool:  # whether it is a folder; else a name of timm's
    """Tell a folder from a name.

    Raises ValueError or FileNotFoundError, with what it is and what to do, for anything else.
    """
    name = str(name_or_path)
    if os.path.isdir(path):
        return True
    if os.path.isfile(path):
        raise ValueError(explain_file(path))
    is_path = not isinstance(name_or_path, str) or "/" in name or name.startswith((".", "~"))
    if is_path and not name.startswith("hf-hub:") or name.startswith("local-dir:"):
        raise FileNotFoundError(explain_absent(name, path))
    if not timm.is_model(name.partition(".")[0]) and not name.startswith("hf-hub:"):
        names = [*known, *timm.list_models("*vit*"), *timm.list_models("deit*")]
        raise ValueError(explain_absent(name, path, names))
    return False


def from_folder(
    path,  # a folder, as a Path
    pretrained: bool,  # False: random weights
    arguments: dict,  # for `timm.create_model`; a folder of ours takes none
    allow_nonfinite=False,  # load NaN and infinite weights, too
    any_architecture=False,  # load what cannot be cut into heads, too
):  # a model, not yet checked
    """Load a model from a folder of `save_vit`, or one in the Hugging Face hub's layout.

    Raises TypeError for arguments that a folder of ours does not take, ValueError or FileNotFoundError for other
    folders.
    """
    file = path / CONFIG
    if not file.is_file():
        raise FileNotFoundError(explain_folder(path))
    stated = read_json(file, "fetch or save it again", finite=False)
    stated = stated if isinstance(stated, dict) else {}
    if stated.get("format") != VIT_FORMAT and "architecture" in stated:
        return _from_hub_folder(path, stated, pretrained, arguments, allow_nonfinite, any_architecture)
    if "format" not in stated or stated["format"] == "learngene":
        raise ValueError(explain_folder(path))
    arguments = dict(arguments)
    size = arguments.pop("img_size", None)
    if arguments:
        raise TypeError(f"{path} states its whole architecture; leave {', '.join(arguments)} out.")
    if pretrained:
        model = load_vit(path, allow_nonfinite=allow_nonfinite)
    else:
        values = read_config(path, VIT_FORMAT)
        check_vit_folder(values, file)
        _check_size(build_described(values["config"], file), file)
        model = build_vit(values["config"], device="cpu")
    return model if size is None else set_image_size(model, size)


def _from_hub_folder(path, stated, pretrained, arguments, allow_nonfinite, any_architecture):
    "Load a folder in the hub's layout. ValueError, of one sentence, when timm cannot."
    file = path / CONFIG
    check_hub_folder(stated, file)
    if not timm.is_model(stated["architecture"]):
        raise ValueError(f"{file}: architecture is {shorten(stated['architecture'])}, which timm does not know"
                         f"{near(stated['architecture'], timm.list_models())}; update timm, or fetch it again.")
    if not any_architecture:
        check_architecture(stated["architecture"])
    try:
        with torch.device("meta"):
            _check_size(timm.create_model(f"local-dir:{path}", pretrained=False, **arguments), file)
        model = timm.create_model(f"local-dir:{path}", pretrained=pretrained, **arguments)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, SafetensorError,
            TypeError, ValueError, pickle.UnpicklingError) as e:
        if isinstance(e, TypeError) and arguments:
            raise TypeError(f"{path}: timm refuses {', '.join(arguments)} ({in_one_line(e)}).") from None
        raise ValueError(f"{path}: timm cannot load this folder ({in_one_line(e)}); fetch or save it again. If it is a "
                         "descendant, save it with `learngene.save_descendant`.") from None
    if pretrained and not allow_nonfinite:
        check_finite(model.state_dict(), path)
    if classes := stated.get("class_to_idx"):
        model.pretrained_cfg = (model.pretrained_cfg or {}) | dict(class_to_idx=classes)
    return model


def _check_size(model, file):
    "Raise ValueError for a model, on the meta device, that no memory holds."
    params = sum(p.numel() for p in model.parameters())
    if params > MOST_PARAMS:
        raise ValueError(f"{file} describes a model of {params:,} parameters, at most {MOST_PARAMS:,} are built; "
                         "fetch it again.")


def set_image_size(
    model,  # a timm VisionTransformer
    size,  # pixels: one number, or (height, width)
):  # the same model
    "Resample a model's positions for images of another size. ValueError for a bad one."
    height, width = (size, size) if isinstance(size, int) else size
    if not hasattr(model, "set_input_size"):
        raise ValueError(f"{type(model).__name__} cannot be set to another image size; leave the size out.")
    _, patch = patches_of(model, (height, width))
    if height < patch[0] or width < patch[1] or height % patch[0] or width % patch[1]:
        raise ValueError(f"images of {height} x {width} pixels do not divide into patches of {patch[0]} x {patch[1]}; "
                         "choose a multiple.")
    model.set_input_size(img_size=(height, width))
    return model


def from_timm(
    name: str,  # of `timm.list_models()`, with or without a tag, or "hf-hub:..."
    pretrained: bool,  # False: random weights
    arguments: dict,  # for `timm.create_model`
    allow_nonfinite=False,  # load NaN and infinite weights, too
    any_architecture=False,  # create what cannot be cut into heads, too
):  # a model, not yet checked
    """Create a timm model; what can be refused is refused before anything is fetched.

    Raises ValueError for an unknown tag, TypeError for an architecture without separate heads, and OSError when
    weights cannot be fetched.
    """
    architecture, _, tag = name.partition(".")
    if timm.is_model(architecture):
        if not any_architecture:
            check_architecture(architecture)
        _check_tag(architecture, tag)
    try:
        with without_retries() if pretrained else nullcontext():
            model = timm.create_model(name, pretrained=pretrained, **arguments)
    except OSError as error:  # every failed download is one
        hint = f" Is {name.removeprefix('hf-hub:')!r} its name on the hub?" if name.startswith("hf-hub:") else ""
        raise OSError(f"the weights of {name!r} could not be fetched ({in_one_line(error)}). Without a network, give a "
                      f"local folder, or pretrained=False for random weights.{hint}") from error
    if pretrained and not allow_nonfinite:
        check_finite(model.state_dict(), name)
    return model


def check_architecture(
    name: str,  # of timm's
) -> None:
    "Raise TypeError for an architecture without separate heads; nothing is built for it."
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
