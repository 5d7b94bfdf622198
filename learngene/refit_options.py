"Options of a refit, and what they accept."

import warnings

import torch
from timm.layers import Mlp
from torch import nn

from .checks import check_choices
from .model_input import number_type
from .stream import check_adds_last
from .vit_checks import check_vit

WEIGHTS = ("equal", "norm")  # `weight` of `refit`
NEURONS = ("qr", "variance", "random")  # `neurons` of `refit`


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
    if values and not attention:
        raise ValueError(
            f"values is {values} with attention=False; values are solved together with W^O, so leave attention at True."
        )


def _check_separate(child, ancestry):
    "Raise ValueError when two layers, or both models, have a tensor in common: solving one would change the other."
    def key(p): return p.data_ptr() or id(p)  # on the meta device no tensor has an address
    other = ancestry.blocks.named_parameters() if child is not ancestry else ()  # itself: nothing is missing
    owners = {key(p): f"the ancestry's blocks.{name}" for name, p in other}
    for name, p in child.blocks.named_parameters(remove_duplicate=False):
        owner = owners.setdefault(key(p), f"blocks.{name}")
        if owner != f"blocks.{name}":
            raise ValueError(f"blocks.{name} of the descendant and {owner} are one tensor, and a refit changes each "
                             "layer for itself; save and load the descendant, which gives every layer its own.")


def match_layers(
    child,  # the descendant
    ancestry,  # the model it was inherited from
    sources,  # ancestry layer of each descendant layer, from 0, ascending; None = the first ones
) -> list:  # the same, from 0
    "List the ancestry layer of each descendant layer; ValueError when the models do not match."
    shapes = [
        dict(width=m.embed_dim, patches=m.patch_embed.num_patches, prefix_tokens=m.num_prefix_tokens)
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
    depth, n_layers = len(child.blocks), len(ancestry.blocks)
    matched = list(range(depth)) if sources is None else list(sources)
    ascending = matched == sorted(set(matched))
    if len(matched) != depth or not ascending or not 0 <= matched[0] <= matched[-1] < n_layers:
        raise ValueError(
            f"sources is {matched}; give {depth} ascending layers from 0 to {n_layers - 1}, "
            "one for each layer of the descendant."
        )
    return matched


def ffn_widths(
    child,  # the descendant
    ffn_width,  # hidden neurons to keep: a number, a share, a list with one a layer, or None = all
) -> list:  # neurons to keep in each layer; None = all
    "List how many neurons each FFN keeps; ValueError for FFNs that cannot be narrowed."
    if ffn_width is None:
        return [None] * len(child.blocks)
    mlps = [block.mlp for block in child.blocks]
    gated = {type(mlp).__name__ for mlp in mlps if type(mlp) is not Mlp or not isinstance(mlp.norm, nn.Identity)}
    if gated:
        raise ValueError(
            f"FFNs of type {', '.join(gated)} (gated or normalised) cannot be narrowed neuron by neuron; "
            "leave ffn_width out."
        )
    full = [mlp.fc1.out_features for mlp in mlps]
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


def warn_if_few(tokens, child, values):
    "Warn when there are fewer tokens than unknowns, so that the ridge decides."
    unknowns = 1 + max(
        max(
            block.attn.num_heads * child.embed_dim if values else block.attn.proj.in_features, block.mlp.fc2.in_features
        )
        for block in child.blocks
    )
    if tokens < unknowns:
        warnings.warn(
            f"{tokens} tokens for {unknowns} unknowns a channel: the solution leans on the ridge; give more images.",
            stacklevel=3,
        )
