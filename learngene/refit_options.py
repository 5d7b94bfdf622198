"Options of a refit, and what they accept."

import math
import warnings

import torch
from torch import nn

from .anatomy import blocks_of, image_size_of, layers_of, patches_of
from .checks import check_choices
from .model_input import number_type
from .families.blocks import block_paths
from .families.cuts import hidden_units
from .gradients import check_token_weights
from .stream import check_adds_last
from .vit_checks import check_vit, has_plain_attention

WEIGHTS = ("equal", "norm")  # `weight` of `refit`
NEURONS = ("obs", "qr", "variance", "random")  # `neurons` of `refit`


def check_refit(
    child,  # the descendant
    ancestry,  # the model it was inherited from
    ridge,  # above 0
    attention,  # whether W^O is solved
    values,  # rounds, at least 0
    weight,  # one of WEIGHTS
    damping,  # 0 to 1
    sweeps,  # at least 1
    neurons,  # one of NEURONS
    token_weights=None,  # as in `Judge`, or one
) -> None:
    "Raise ValueError for models that a refit does not fit, and for options out of range."
    for name, count, least in [("values", values, 0), ("sweeps", sweeps, 1)]:
        if type(count) is not int or count < least:
            raise ValueError(f"{name} is {count!r}; give a whole number of at least {least}.")
    for model in (child, ancestry):
        check_vit(model)
        check_adds_last(model, "leave the refit out, and train")
    if any(nn.utils.parametrize.is_parametrized(module) for module in child.modules()):
        raise ValueError("the descendant's FFNs still share weights; call `merge` first, or inherit with ffn='copy'.")
    _check_separate(child, ancestry)
    if not ridge > 0:
        raise ValueError(f"ridge is {ridge}; give a number above 0.")
    if not 0 <= damping <= 1:
        raise ValueError(f"damping is {damping}; give a number from 0 to 1.")
    check_choices(weight=(weight, WEIGHTS), neurons=(neurons, NEURONS))
    check_token_weights(token_weights)
    if values and not has_plain_attention(child):
        raise ValueError(f"values is {values}, but values are solved for plain attention alone, and this is a "
                         f"{type(child).__name__}; leave values at 0.")
    if values and not attention:
        raise ValueError(
            f"values is {values} with attention=False; values are solved together with W^O, so leave attention at True."
        )


def _parameters_of_layers(model):
    "Yield (name in the model, parameter) of all layers, also twice."
    for path, block in zip(block_paths(model), blocks_of(model)):
        for name, p in block.named_parameters(remove_duplicate=False):
            yield f"{path}.{name}", p


def _check_separate(child, ancestry):
    "Raise ValueError when two layers, or both models, have a tensor in common: solving one would change the other."
    def key(p): return p.data_ptr() or id(p)  # on the meta device no tensor has an address
    other = _parameters_of_layers(ancestry) if child is not ancestry else ()  # itself: nothing is missing
    owners = {key(p): f"the ancestry's {name}" for name, p in other}
    for name, p in _parameters_of_layers(child):
        owner = owners.setdefault(key(p), name)
        if owner != name:
            raise ValueError(f"{name} of the descendant and {owner} are one tensor, and a refit changes each "
                             "layer for itself; save and load the descendant, which gives every layer its own.")


def match_layers(
    child,  # the descendant
    ancestry,  # the model it was inherited from
    sources,  # ancestry layer of each descendant layer, from 0, ascending; None = the first ones
) -> list:  # the same, from 0
    "List the ancestry layer of each descendant layer; ValueError when the models do not match."
    layers = [layers_of(m) for m in (child, ancestry)]
    shapes = [
        dict(width=m.embed_dim, patches=math.prod(patches_of(m, image_size_of(m))[0]),
             prefix_tokens=getattr(m, "num_prefix_tokens", 0))
        for m in (child, ancestry)
    ]
    if shapes[0] != shapes[1]:
        child_shape, ancestry_shape = (", ".join(f"{k} {v}" for k, v in shape.items()) for shape in shapes)
        raise ValueError(
            f"descendant ({child_shape}) and ancestry ({ancestry_shape}) do not match; "
            "give the model that the descendant was inherited from."
        )
    devices = [next(m.parameters()).device for m in (child, ancestry)]
    if devices[0] != devices[1]:
        raise ValueError(f"the descendant is on {devices[0]}, the ancestry on {devices[1]}; move both to one device.")
    stages = [[layer.stage for layer in of_model] for of_model in layers]
    depth, n_layers = len(stages[0]), len(stages[1])
    matched = first_of_stages(*stages) if sources is None else list(sources)
    ascending = matched == sorted(set(matched))
    if len(matched) != depth or not ascending or not 0 <= matched[0] <= matched[-1] < n_layers:
        raise ValueError(
            f"sources is {matched}; give {depth} ascending layers from 0 to {n_layers - 1}, "
            "one for each layer of the descendant."
        )
    if stages[0] != [stages[1][source] for source in matched]:
        raise ValueError(f"sources is {matched}, which are layers of stages {[stages[1][s] for s in matched]}; those "
                         f"of the descendant are of stages {stages[0]}.")
    return matched


def first_of_stages(
    stages,  # stage of each descendant layer
    ancestry_stages,  # likewise of the ancestry
) -> list:  # ancestry layers, from 0
    "Match the first layers of each stage; without stages the first layers."
    start = {s: ancestry_stages.index(s) for s in set(ancestry_stages)}
    return [start[s] + stages[:i].count(s) for i, s in enumerate(stages) if s in start]


def ffn_widths(
    child,  # the descendant
    ffn_width,  # hidden neurons to keep: a number, a share, a list with one per layer, or None = all
) -> list:  # neurons to keep in each layer; None = all
    "List how many neurons each FFN keeps; ValueError for FFNs that cannot be narrowed."
    if ffn_width is None:
        return [None] * len(blocks_of(child))
    mlps = [block.mlp for block in blocks_of(child)]
    normalised = {type(mlp).__name__ for mlp in mlps if not isinstance(mlp.norm, nn.Identity)}
    if normalised:
        raise ValueError(
            f"FFNs of type {', '.join(normalised)} with a norm over their neurons cannot be narrowed one by one; "
            "leave ffn_width out."
        )
    full = [hidden_units(mlp) for mlp in mlps]
    wanted = list(ffn_width) if isinstance(ffn_width, (list, tuple)) else [ffn_width] * len(full)
    if len(wanted) == len(full):
        wanted = [round(w * n) if isinstance(w, float) else w for w, n in zip(wanted, full)]
    if len(wanted) != len(full) or any(not 1 <= w <= n for w, n in zip(wanted, full)):
        raise ValueError(
            f"ffn_width is {ffn_width}; give 1 to {full[0]} neurons, a share above 0 and up to 1.0, "
            f"or a list of {len(full)} such numbers."
        )
    return wanted


def warn_if_worse(
    before: list,  # relative error of the stream after each layer, as inherited
    after: list,  # refitted
    child,  # the descendant
    ffn_width,  # as in `refit`; where a list says how wide each layer is to be, the error may grow
) -> None:
    "Warn when a refit ends with a larger error than it began with, but for rounding."
    rounding = 1e-5 + 4 * torch.finfo(number_type(child)).eps
    if after[-1] > before[-1] + rounding and not isinstance(ffn_width, (list, tuple)):
        narrowed, remedy = "", "leave the options at their defaults, or give more images"
        if ffn_width is not None:
            narrowed, remedy = " with FFNs in full width", "keep more neurons (ffn_width)"
        warnings.warn(f"the refit ends with a larger error than it began with: {after[-1]:.4f}, and {before[-1]:.4f} "
                      f"as inherited{narrowed} (relative error of the last stream); {remedy}.", stacklevel=3)


def warn_if_few(
    tokens,  # of all images together
    images,  # their number
    child,  # the descendant
    values,  # rounds
    judge,  # a Judge, by which class tokens may weigh most
) -> None:
    "Warn when there are fewer tokens, or images, than unknowns, so that the ridge decides."
    inputs = max(
        max(
            block.attn.num_heads * child.embed_dim if values else block.attn.proj.in_features, block.mlp.fc2.in_features
        )
        for block in blocks_of(child)
    )
    if tokens < inputs + 1:
        warnings.warn(
            f"{tokens} tokens for {inputs + 1} unknowns a channel: the solution leans on the ridge; give more images.",
            stacklevel=3,
        )
    elif judge.weighs and images < inputs:
        warnings.warn(f"{images} images for a layer of {inputs} inputs: class tokens weigh most, and an image has one; "
                      f"give {inputs} images or more, or token_weights=None.", stacklevel=3)
