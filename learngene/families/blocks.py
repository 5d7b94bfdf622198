"Where timm's families keep their blocks, their patches and their windows; names of tensors by layer."
import re

import torch
from timm.models import get_model_input_config
from timm.models.eva import EvaBlockPostNorm
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import ResPostBlock
from timm.models.vision_transformer_relpos import ResPostRelPosBlock
from torch import nn

POST_NORM = (ResPostBlock, EvaBlockPostNorm, ResPostRelPosBlock, SwinTransformerV2Block)  # these normalise after W^O


def has_stages(
    model,  # a vision transformer
) -> bool:
    "Whether patches are merged between stages, as in Swin."
    return not hasattr(model, "blocks") and hasattr(model, "layers")


def block_paths(
    model,  # a vision transformer
) -> list:  # name of each block within the model, in order
    "List where the blocks of a model lie."
    if has_stages(model):
        return [f"layers.{s}.blocks.{b}" for s, stage in enumerate(model.layers) for b in range(len(stage.blocks))]
    return [f"blocks.{i}" for i in range(len(model.blocks))]


def blocks_of(
    model,  # a vision transformer
) -> list:
    "List the blocks of a model, through all stages."
    return [model.get_submodule(path) for path in block_paths(model)]


def stages_of(
    model,  # a vision transformer
) -> list:  # stage of each block, from 0
    "List the stage of each block; all are in stage 0 where patches are never merged."
    if has_stages(model):
        return [s for s, stage in enumerate(model.layers) for _ in stage.blocks]
    return [0] * len(model.blocks)


def merges_of(
    model,  # a vision transformer
) -> list:  # a module or None for each block
    "List what merges patches before each block."
    paths = block_paths(model)
    if not has_stages(model):
        return [None] * len(paths)
    return [model.layers[int(p.split(".")[1])].downsample if p.endswith("blocks.0") and p[7] != "0" else None
            for p in paths]


def keep_layers(
    model,  # changed in place
    layers: list,  # ascending, from 0; at least one in each stage
) -> None:
    "Leave out all other blocks, and what belongs to them alone."
    blocks, stages = blocks_of(model), stages_of(model)
    if has_stages(model):
        for s, stage in enumerate(model.layers):
            stage.blocks = type(stage.blocks)(*_contents(stage.blocks, [blocks[i] for i in layers if stages[i] == s]))
            stage.depth = len(stage.blocks)
    else:
        model.blocks = type(model.blocks)(*_contents(model.blocks, [blocks[i] for i in layers]))
    if is_rope_mixed(model):
        freqs = model.rope.freqs
        model.rope.freqs = nn.Parameter(freqs.detach()[:, layers], requires_grad=freqs.requires_grad)
        model.rope.depth = len(layers)


def _contents(container, blocks):
    "Return the arguments of a container of blocks: a list for a ModuleList, else the blocks."
    return blocks if isinstance(container, nn.Sequential) else [blocks]


def is_rope_mixed(
    model,  # a vision transformer
) -> bool:
    "Whether every layer and head has rotary frequencies of its own, in one tensor for all."
    return bool(getattr(model, "rope_mixed", False) or getattr(model, "rope_is_mixed", False))


def shares_heads(
    model,  # a vision transformer
) -> bool:
    "Whether some tensor outside the blocks holds numbers of each head."
    shared = (getattr(model, name, None) for name in ("rel_pos_bias", "shared_rel_pos"))
    return is_rope_mixed(model) or any(isinstance(module, nn.Module) for module in shared)


def to_layers(
    model,  # whose names they are
    tensors: dict,  # name in the model -> anything
) -> dict:  # "blocks.LAYER.PART" for what belongs to a layer, counted through all stages
    "Rename what belongs to layers."
    if not has_stages(model):
        return tensors
    layer_of = {path: i for i, path in enumerate(block_paths(model))}

    def renamed(name):
        inside = re.match(r"(layers\.\d+\.blocks\.\d+)\.(.*)", name)
        return f"blocks.{layer_of[inside[1]]}.{inside[2]}" if inside else name

    return {renamed(name): value for name, value in tensors.items()}


def from_layers(
    model,  # whose names are wanted
    tensors: dict,  # from `to_layers`
) -> dict:
    "Undo `to_layers`."
    if not has_stages(model):
        return tensors
    paths = block_paths(model)

    def renamed(name):
        inside = re.match(r"blocks\.(\d+)\.(.*)", name)
        return f"{paths[int(inside[1])]}.{inside[2]}" if inside else name

    return {renamed(name): value for name, value in tensors.items()}


def patches_of(
    model,  # a vision transformer
    image_size,  # (height, width) in pixels
) -> tuple:  # ((rows, columns) of patches, (height, width) of one in pixels)
    "Return the patches that a model makes of an image, before any merging."
    embed = getattr(model, "patch_embed", None)
    if embed is None:  # naflexvit
        return tuple(-(-n // p) for n, p in zip(image_size, model.embeds.patch_size)), model.embeds.patch_size
    if hasattr(embed, "backbone"):  # a convolutional network makes the patches
        return embed.grid_size, tuple(n // g for n, g in zip(embed.img_size, embed.grid_size))
    return tuple(embed.grid_size if takes_one_size(model) else embed.dynamic_feat_size(image_size)), embed.patch_size


def image_size_of(
    model,  # a vision transformer
) -> tuple:  # (height, width) in pixels
    "Return the image size that a model is made for."
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return tuple(size or get_model_input_config(model)["input_size"][1:])


def takes_one_size(
    model,  # a vision transformer
) -> bool:
    "Whether images must have the size that a model is made for."
    embed = getattr(model, "patch_embed", None)
    return embed is not None and embed.strict_img_size and not getattr(model, "dynamic_img_size", False)


def windows_of(
    block,  # of a vision transformer
    grid,  # (rows, columns) of patches that enter it
    prefix: int,  # tokens without a place, which come first
) -> torch.Tensor:  # (windows, tokens): index of each token's patch, -1 for a token without a place
    "Say which patches attend to each other, with shifts undone; padding has no place."
    size, shift = getattr(block, "window_size", 0), getattr(block, "shift_size", (0, 0))
    index = torch.arange(grid[0] * grid[1]).view(grid)
    if not size:
        return torch.cat([torch.full((prefix,), -1), index.flatten()])[None]
    rows, columns = size if isinstance(size, tuple) else (size, size)
    index = index.roll((-shift[0], -shift[1]), (0, 1))
    index = nn.functional.pad(index, (0, -grid[1] % columns, 0, -grid[0] % rows), value=-1)
    return index.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).transpose(1, 2).flatten(2).flatten(0, 1)
