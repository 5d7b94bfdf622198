"""Models that open without learngene: by timm's own arguments, else by one file of plain torch and timm.

timm's constructors take one number of heads and one FFN width for all layers. A model of that kind is written as timm's
arguments. Any other is written as timm's architecture and the list of what differs from it, in a file `modeling.py`
that makes the changes.
"""
import inspect
import json
import pprint

import timm
import torch

from .families import attention
from .families.blocks import block_paths
from .families.description import parts_of, settings_of, with_tuples
from .vit import vit_config

# Architectures of timm with other defaults: norms, activations, pooling
BASES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_base_patch32_clip_224",
         "vit_base_patch32_clip_quickgelu_224", "vit_base_patch16_siglip_224", "vit_small_patch14_reg4_dinov2",
         "vit_giant_patch14_dinov2", "vit_base_patch16_rpn_224")
ONLY_AT_FIRST = ("weight_init_mode", "fix_init")  # say how weights are drawn
AS_TIMM = ("img_size", "patch_size", "in_chans", "global_pool", "embed_dim", "qkv_bias", "qk_norm", "proj_bias",
           "scale_mlp_norm", "class_token", "pos_embed", "no_embed_class", "reg_tokens", "pre_norm", "final_norm",
           "fc_norm", "pool_include_prefix", "dynamic_img_size", "dynamic_img_pad")


def nearest_of_timm(
    model,  # a vision transformer
) -> tuple:  # (architecture, JSON-able arguments, a model of them on the meta device)
    """Find timm's architecture and arguments that come nearest to a model.

    Raises ValueError when timm has no such norms, activations or blocks.
    """
    config = vit_config(model)
    if "family" in config:
        name, args = config["architecture"], config["args"]
        return name, args, _make(name, args, config["num_classes"])
    embed_dim, heads = config["embed_dim"], max(1, config["embed_dim"] // config["head_dim"])
    heads = max(n for n in range(1, heads + 1) if embed_dim % n == 0)
    uniform = len(set(config["ffn_width"])) == 1
    width = config["ffn_width"][0] if uniform else config.get("pool_ffn_width", config["ffn_width"][0])
    args = {name: config[name] for name in AS_TIMM if name in config}
    args |= dict(depth=len(config["heads"]), num_heads=config["pool_heads"] or heads, mlp_ratio=width / embed_dim,
                 init_values=1e-5 if config["layer_scale"] else None)
    if int(embed_dim * args["mlp_ratio"]) != width:  # timm rounds down
        args["mlp_ratio"] = (width + 0.5) / embed_dim
    own = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    wanted = _types(model)
    for name in dict.fromkeys(filter(timm.is_model, [own or "", *BASES])):
        try:
            made = _make(name, args, config["num_classes"])
        except (TypeError, ValueError, RuntimeError, AssertionError):
            continue
        if _types(made) == wanted:
            return name, args, made
    raise ValueError(f"timm has no architecture with the norms and activations of this {type(model).__name__}; "
                     "open it with learngene.from_pretrained.")


def _make(name, args, num_classes):
    with torch.device("meta"):
        return timm.create_model(name, num_classes=num_classes, **with_tuples(args)).eval()


def _types(model):
    "Name all modules with weights or a function, with their types; cut heads as timm's."
    return {name: part[0] for name, part in parts_of(model).items() if name.endswith("(module)")}


def timm_arguments(
    model,  # a vision transformer
):  # (architecture, arguments), or None where timm's arguments cannot say it
    "State a model as timm's arguments, where that is possible."
    try:
        name, args, made = nearest_of_timm(model)
    except ValueError:
        return None
    is_same = parts_of(model) == parts_of(made) and not _changed_settings(model, made)
    return (name, args) if is_same else None


def _changed_settings(model, made):
    "Plain attributes in which modules differ from timm's, by path; how weights are drawn does not matter."
    of_timm, changed = settings_of(made), {}
    for path, values in settings_of(model).items():
        known = of_timm.get(path, {})
        differing = {k: v for k, v in values.items() if known.get(k, ...) != v and k not in ONLY_AT_FIRST}
        changed |= {path: differing} if differing else {}
    return changed


def modeling_source(
    model,  # a vision transformer
    title="A vision transformer",  # the first line of the file
) -> str:  # Python
    "Write the file that builds a model from timm's architecture. ValueError without one."
    name, args, made = nearest_of_timm(model)
    paths, kept = block_paths(model), {}
    if len(block_paths(made)) != len(paths):
        all_paths, layers = block_paths(made), vit_config(model)["layers"]
        for layer in layers:
            container, _, index = all_paths[layer].rpartition(".")
            kept.setdefault(container, []).append(int(index))
        for container, indices in kept.items():
            blocks, old = made.get_submodule(container), type(made.get_submodule(container))
            chosen = [blocks[i] for i in indices]
            made.set_submodule(container, old(*chosen) if issubclass(old, torch.nn.Sequential) else old(chosen))
    classes = {path: type(m).__name__ for path, m in model.named_modules() if type(m).__module__ == attention.__name__}
    settings = _changed_settings(model, made)
    zeros = _zero_buffers(model, made)
    source = ""
    if classes:
        source = inspect.getsource(attention).split('"\n', 1)[1]
    imports, _, source = source.rpartition("from torch.nn import functional as F\n")
    show = lambda value: pprint.pformat(value, width=110, compact=True, sort_dicts=False)
    texts = dict(
        TITLE=json.dumps(title)[1:-1], ARCHITECTURE=repr(name),
        IMPORTS=imports and f"{imports}from torch.nn import functional as F\n",
        ARGUMENTS=show(args), CLASSES_HERE=source.strip() + "\n" * bool(source),
        NUM_CLASSES=repr(model.num_classes), KEPT=show(kept), SETTINGS=show(settings),
        ZEROS=show(zeros),
        CLASSES="{" + ", ".join(f"{path!r}: {cls}" for path, cls in classes.items()) + "}")
    text = TEMPLATE
    for key, value in texts.items():
        text = text.replace(f"<{key}>", value)
    return text


def _zero_buffers(model, made):
    "Return lengths of unsaved buffers that differ from timm's; ValueError unless all are zero."
    of_timm, saved, zeros = dict(made.named_buffers()), model.state_dict(), {}
    for name, buffer in model.named_buffers():
        if name not in saved and (name not in of_timm or of_timm[name].shape != buffer.shape):
            if buffer.ndim != 1 or buffer.any():
                raise ValueError(f"its buffer {name} is not saved with the weights; open it with learngene.")
            zeros[name] = len(buffer)
    return zeros


TEMPLATE = '''"""<TITLE>

Opens with torch, timm and safetensors; nothing else is needed:

    from modeling import load_model
    model = load_model()  # a timm model in eval mode
"""
import json
from pathlib import Path

<IMPORTS>import timm
import torch
from safetensors.torch import load_file
from torch import nn

<CLASSES_HERE>
ARCHITECTURE = <ARCHITECTURE>  # of timm
ARGUMENTS = <ARGUMENTS>
NUM_CLASSES = <NUM_CLASSES>
KEPT = <KEPT>  # blocks that stay, by their container; all others stay, too
SETTINGS = <SETTINGS>  # what differs from timm's modules, beside the shapes of weights
CLASSES = <CLASSES>
ZEROS = <ZEROS>  # buffers that the weights do not hold, and their length


def build_model(tensors):
    "Make timm's architecture, and give it the shapes of the weights."
    model = timm.create_model(ARCHITECTURE, num_classes=NUM_CLASSES, **_tuples(ARGUMENTS))
    for path, indices in KEPT.items():
        blocks = model.get_submodule(path)
        chosen = [blocks[i] for i in indices]
        kind = type(blocks)
        model.set_submodule(path, kind(*chosen) if issubclass(kind, nn.Sequential) else kind(chosen))
    for path, cls in CLASSES.items():
        model.get_submodule(path).__class__ = cls
    for path, settings in SETTINGS.items():
        for name, value in settings.items():
            setattr(model.get_submodule(path), name, _tuples(value))
    for name, length in ZEROS.items():
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._buffers[leaf] = torch.zeros(length)
    missing, unknown = model.state_dict().keys() - tensors.keys(), tensors.keys() - model.state_dict().keys()
    if missing or unknown:
        raise ValueError(f"the weights do not fit: missing {sorted(missing)[:3]}, unknown {sorted(unknown)[:3]}")
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(tensor)
        else:
            module._buffers[leaf] = tensor
    return model.eval()


def load_model(folder=Path(__file__).parent):
    "Load the weights of a folder, and note how images are prepared and what the classes are called."
    model = build_model(load_file(Path(folder) / "model.safetensors"))
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    model.pretrained_cfg = _tuples(config.get("pretrained_cfg", {}))
    return model


def _tuples(value):
    if isinstance(value, dict):
        return {name: _tuples(v) for name, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
'''
