"A model as its architecture's name, its arguments and its cuts; rebuilt by timm plus cuts."
import timm
import torch
from timm.layers import DropPath
from timm.models import get_model_args
from torch import nn
from torch.overrides import TorchFunctionMode

from .attention import CUT_CLASS
from .blocks import blocks_of, image_size_of, keep_layers, shares_heads, stages_of
from .cuts import ROWS_PER_UNIT, cut_heads, cut_units, hidden_units, rows_per_unit

TIMMS = {cut: timms for timms, cut in CUT_CLASS.items()}  # the same formulas for any number of heads
SIMPLE = (bool, int, float, str, type(None))
# settings that change what is computed only in training, or how; and notes of where a model comes from
PASSING = ("training", "fused_attn", "inplace", "grad_checkpointing", "kept_layers", "drop_rate", "ancestry_layers")


def describe_cuts(
    model,  # of a family with an adapter
) -> dict:  # JSON-able
    """Describe a model by timm's architecture, its arguments and the cuts.

    Raises TypeError for a model whose arguments timm does not know, or cannot be written down.
    """
    blocks = blocks_of(model)
    shared = [list(getattr(b.attn, "shared_heads", None) or range(b.attn.num_heads)) for b in blocks]
    return dict(
        family=type(model).__name__, architecture=_architecture(model), args=_arguments(model),
        layers=list(getattr(model, "kept_layers", range(len(blocks)))), stages=stages_of(model),
        heads=[b.attn.num_heads for b in blocks], shared_heads=shared if shares_heads(model) else None,
        ffn_width=[hidden_units(b.mlp) * rows_per_unit(b.mlp) for b in blocks],
        head_dim=[b.attn.proj.in_features // b.attn.num_heads for b in blocks],
        embed_dim=[b.attn.proj.out_features for b in blocks], img_size=list(image_size_of(model)),
        in_chans=model.in_chans, num_classes=model.num_classes, mlp=type(blocks[0].mlp).__name__,
        scale_mlp_norm=not isinstance(blocks[0].mlp.norm, nn.Identity))


def is_of_timm(
    model,  # any module
) -> bool:
    "Whether a model is known to be one of timm's architectures."
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    return bool(name) and timm.is_model(name)


def _architecture(model):
    if is_of_timm(model):
        return model.pretrained_cfg["architecture"]
    raise TypeError(f"this {type(model).__name__} was made by its class, so its arguments are not known; make it with "
                    "timm.create_model(name, ...), which takes the same arguments.")


def _arguments(model):
    "Return timm's arguments beside the architecture's name, without the classes."
    noted = getattr(model, "_model_args", {})
    model._model_args = dict(noted)  # what `build_vit` notes keeps timm from writing it down as it is
    try:
        args = get_model_args(model)
    finally:
        model._model_args = noted
    args = {k: v for k, v in args.items() if k not in ("num_classes", "pruned", "features_only")}
    return {name: _written(name, value) for name, value in args.items()}


def _written(name, value):
    if isinstance(value, SIMPLE):
        return value
    if isinstance(value, (list, tuple)):
        return [_written(name, v) for v in value]
    if isinstance(value, dict):
        return {k: _written(name, v) for k, v in value.items()}
    raise TypeError(f"the argument {name} of this model is {value!r}, which cannot be written down; "
                    "give it by name, e.g. norm_layer='layernorm'.")


def with_tuples(
    value,  # as JSON holds it
):
    "Turn lists into tuples, those inside too, as timm takes them."
    if isinstance(value, dict):
        return {name: with_tuples(v) for name, v in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


class WithoutValues(TorchFunctionMode):
    "Leave out what only fills tensors of the meta device: they have no values."
    filling = {f"{name}_" for name in ("uniform", "normal", "erfinv", "mul", "add", "div", "clamp", "fill", "zero")}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in self.filling and args and args[0].is_meta:
            return args[0]
        return func(*args, **kwargs or {})


def construct(
    config: dict,  # from `describe_cuts`
    device="meta",  # where the parameters go
) -> nn.Module:
    "Let timm build an architecture, and cut it."
    with torch.device(device), WithoutValues():
        model = timm.create_model(config["architecture"], num_classes=config["num_classes"],
                                  **with_tuples(config["args"]))
        if len(config["layers"]) < len(blocks_of(model)):
            keep_layers(model, config["layers"])
            model.kept_layers = list(config["layers"])
        blocks = blocks_of(model)
        for i, (block, heads, width) in enumerate(zip(blocks, config["heads"], config["ffn_width"], strict=True)):
            shared = config["shared_heads"] and config["shared_heads"][i]
            in_order = shared is None or list(shared) == list(range(block.attn.num_heads))
            if heads != block.attn.num_heads or not in_order:
                cut_heads(block.attn, [h % block.attn.num_heads for h in range(heads)], None if in_order else shared)
            units, full = width // rows_per_unit(block.mlp), hidden_units(block.mlp)
            if units != full:
                cut_units(block.mlp, [unit % full for unit in range(units)])
    return model


def parts_of(
    model,  # any module
) -> dict:  # name -> what can be compared
    "List tensor shapes, and the types and own descriptions of modules, by name."
    ignored = (nn.Dropout, DropPath, nn.Identity)  # without effect in eval mode
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    modules = {name: m for name, m in model.named_modules(remove_duplicate=False)
               if name and not isinstance(m, ignored)}
    return shapes | {
        f"{name} (module)": (TIMMS.get(type(m), type(m)).__name__, m.extra_repr().replace("approximate='none'", ""),
                             getattr(m, "eps", None), getattr(m, "scale", None)) for name, m in modules.items()}


def settings_of(
    model,  # any module
) -> dict:  # name of a module -> its attributes that are plain values
    "List settings of modules that no tensor shows, such as a temperature."
    def plain(value):
        return isinstance(value, SIMPLE) or isinstance(value, (tuple, list)) and all(plain(v) for v in value)

    def values(module):
        own = {k: v for k, v in vars(module).items() if not k.startswith("_") and k not in PASSING and plain(v)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}

    return {name: values(m) for name, m in model.named_modules() if not isinstance(m, (nn.Dropout, DropPath))}


def first_difference(
    model,  # that was described
    rebuilt,  # from the description
    settings=True,  # compare plain attributes of modules, too
):  # (name, what it is, what it was rebuilt as); None when all is equal
    "Find the first part in which a rebuilt model differs."
    for list_parts in (parts_of, settings_of) if settings else (parts_of,):
        parts, others = list_parts(model), list_parts(rebuilt)
        for name in sorted(parts.keys() | others.keys()):
            if parts.get(name) != others.get(name):
                return name, parts.get(name, "not in the model"), others.get(name, "nothing")
    return None


def fill_buffers(
    model,  # with weights on a real device; buffers that are not saved may still be on the meta device
) -> None:
    "Compute what timm computes when a model is made: indices, masks, frequencies."
    device = next(model.parameters()).device
    unfilled = [m for m in model.modules() if any(b is not None and b.is_meta for b in m._buffers.values())]
    for module in unfilled:
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device=device)
    for module in unfilled:
        module.init_non_persistent_buffers()


def cut_config(
    config: dict,  # of an ancestry, from `vit_config`
    sources,  # its layers that stay, from 0
    heads,  # for each of them which heads it gets, from 0; they may repeat
    ffn_width,  # for each of them the rows of its first FFN matrix
    num_classes=None,  # None = as they are
) -> dict:
    "Describe what is left of an architecture after cuts."
    cut = config | dict(heads=[len(chosen) for chosen in heads], ffn_width=list(ffn_width))
    if num_classes is not None:
        cut["num_classes"] = num_classes
    if "family" in config:
        for name in ("layers", "stages", "head_dim", "embed_dim"):
            cut[name] = [config[name][s] for s in sources]
        if config["shared_heads"]:
            cut["shared_heads"] = [[config["shared_heads"][s][h] for h in chosen] for s, chosen in zip(sources, heads)]
    return cut


def per_layer(
    config: dict,  # from `vit_config`
    name: str,  # "head_dim" or "embed_dim"
) -> list:
    "List a number that layers of some families differ in, one for each layer."
    return config[name] if isinstance(config[name], list) else [config[name]] * len(config["heads"])


def units_per_layer(
    config: dict,  # from `vit_config`
) -> list:
    "List the hidden units of each FFN; packed gates and values take two rows for one."
    return [width // _rows_of_a_unit(config) for width in config["ffn_width"]]


def rows_of_units(
    config: dict,  # from `vit_config`
    units,  # hidden units of each FFN
) -> list:
    "List the rows of the first FFN matrix for numbers of hidden units."
    return [_rows_of_a_unit(config) * n for n in units]


def _rows_of_a_unit(config):
    return ROWS_PER_UNIT.get(config["mlp"], 1)
