"Whether a model is a vision transformer whose attention heads can be told apart."
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Attention, Block, ResPostBlock, VisionTransformer
from torch import nn


def check_vit(
    model,  # any module
) -> None:
    """Raise TypeError unless `model` is a timm VisionTransformer with separate heads.

    The error names the first part that is in the way; for a wrapped model (DataParallel, torch.compile) it says what
    to unwrap.
    """
    obstacle = _wrong_class(model) or _wrong_patches(model)
    for index, block in enumerate(getattr(model, "blocks", [])):
        obstacle = obstacle or _wrong_block(block, f"blocks[{index}]")
    if obstacle:
        raise TypeError(f"{type(model).__name__} cannot be cut into heads: {obstacle}")


def _wrong_class(model):
    if isinstance(model, VisionTransformer):
        return None
    for name in ("module", "_orig_mod"):
        if isinstance(getattr(model, name, None), nn.Module):
            return f"it wraps the model (DataParallel, torch.compile, ...); give its `.{name}`."
    return "it is not a timm VisionTransformer (try timm.create_model('deit_small_patch16_224'))."


def _wrong_patches(model):
    if type(model.patch_embed) is PatchEmbed:
        return None
    return (f"it makes patches by {type(model.patch_embed).__name__}; "
            "give a model with plain patches, whose positions in the image are known.")


def _wrong_block(block, name):
    if type(block) not in (Block, ResPostBlock):
        return f"{name} is a {type(block).__name__}; give a model of Blocks, each with one attention and one FFN."
    attn = block.attn
    if type(attn) is not Attention:
        return (f"{name} has {type(attn).__name__}, whose heads are not separate; "
                "give a model with plain multi-head attention.")
    if getattr(attn, "gate", None) is not None or not isinstance(attn.norm, nn.Identity):
        return f"the attention of {name} gates or normalises its output across heads; give one that does not."
    return None
