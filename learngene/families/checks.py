"Which families can be cut into heads, and why the others cannot."
from timm.layers import HybridEmbed, PatchEmbed
from timm.models.beit import Beit
from timm.models.beit import Block as BeitBlock
from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from timm.models.naflexvit import NaFlexVit
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from timm.models.vision_transformer_relpos import RelPosBlock, ResPostRelPosBlock, VisionTransformerRelPos
from timm.models.vision_transformer_sam import Block as SamBlock
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn

from .blocks import blocks_of
from .cuts import HEADS, UNITS

# class of the model -> classes that its blocks may have
FAMILIES = {
    VisionTransformer: (Block, ResPostBlock), Eva: (EvaBlock, EvaBlockPostNorm), Beit: (BeitBlock,),
    VisionTransformerRelPos: (RelPosBlock, ResPostRelPosBlock), SwinTransformer: (SwinTransformerBlock,),
    SwinTransformerV2: (SwinTransformerV2Block,), VisionTransformerSAM: (SamBlock,), NaFlexVit: (Block, EvaBlock),
}

REFUSED = {  # name of a class -> what is in the way, and what would be needed
    "Hiera": "its attention pools queries between stages and keeps tokens in an order of its own; needed: the places "
             "of pooled tokens, and cuts of the layers that pool.",
    "MultiScaleVit": "its keys and values are pooled by convolutions shared by all heads; needed: the places of pooled "
                     "tokens.",
    "ByobNet": "it is a convolutional network; its MobileViT form attends within unfolded feature maps; needed: "
               "blocks that keep a residual stream of tokens.",
    "Levit": "its queries, keys and values differ in width, are normalised by batch norms, and are downsampled by "
             "attention; needed: cuts of these.",
    "LevitDistilled": "as LeViT, its heads are normalised by batch norms and downsampled by attention; needed: cuts of "
                      "these.",
    "Cait": "its talking heads mix the maps of all heads before and after the softmax, so a head alone is nothing; "
            "needed: plain attention.",
    "Xcit": "its heads attend between channels, not between patches, so they look over no distance; needed: a measure "
            "of density for channels.",
    "DaVit": "half of its attention is between channels, which look over no distance; needed: a measure for these.",
    "SwinTransformerV2Cr": "its relative positions and blocks are no ones that can be cut yet; take timm's swinv2_*.",
    "VisionTransformerDiffusion": "its attention mixes pairs of heads.",
}


def check_family(
    model,  # any module
) -> None:
    """Raise TypeError unless `model` is a vision transformer of timm with separate heads.

    The error names the first part that is in the way; for a wrapped model (DataParallel, torch.compile) it says what
    to unwrap.
    """
    obstacle = _wrong_class(model) or _wrong_patches(model)
    for path, block in [] if obstacle else [(f"block {i} (from 0)", b) for i, b in enumerate(blocks_of(model))]:
        obstacle = obstacle or _wrong_block(block, FAMILIES[family_of(model)], path)
    if obstacle:
        raise TypeError(f"{type(model).__name__} cannot be cut into heads: {obstacle}")


def family_of(
    model,  # any module
):  # a class of FAMILIES, or None
    "Return the family that a model belongs to."
    return next((c for c in type(model).__mro__ if c in FAMILIES), None)


def why_refused(
    classes,  # that a model, or a module of timm, consists of
):  # a sentence, or None where one of them is a family that can be cut
    "Say why an architecture cannot be cut into heads."
    classes = list(classes)
    if any(issubclass(c, tuple(FAMILIES)) for c in classes):
        return None
    reason = next((REFUSED[c.__name__] for c in classes if c.__name__ in REFUSED), None)
    known = ", ".join(sorted(family.__name__ for family in FAMILIES))
    return reason or (f"it is of none of timm's families that can be cut ({known}); "
                      "try timm.create_model('deit_small_patch16_224').")


def _wrong_class(model):
    if family_of(model):
        return None
    if hasattr(model, "merge_and_unload"):  # of peft
        return "it is wrapped by an adapter; give `model.merge_and_unload()`."
    for name in ("module", "_orig_mod"):
        if isinstance(getattr(model, name, None), nn.Module):
            return f"it wraps the model (DataParallel, torch.compile, ...); give its `.{name}`."
    if type(model).__module__.startswith("transformers."):
        return ("it is a model of the transformers library; give timm's form of it, e.g. "
                "timm.create_model('vit_base_patch16_224').")
    named = {c.__name__ for c in type(model).__mro__} & REFUSED.keys()
    if not named and not any("attn" in name or "attention" in name for name, _ in model.named_modules()):
        return "it has no attention; give a vision transformer (try timm.create_model('deit_small_patch16_224'))."
    return why_refused(type(model).__mro__)


def _wrong_patches(model):
    embed = getattr(model, "patch_embed", None)
    if embed is None or type(embed) in (PatchEmbed, HybridEmbed):
        return None
    return f"it makes patches by {type(embed).__name__}, whose positions in the image are not known."


def _wrong_block(block, classes, name):
    if type(block) not in classes:
        wanted = " or ".join(c.__name__ for c in classes)
        return f"{name} is a {type(block).__name__}, not a {wanted} of one attention and one FFN."
    attn = block.attn
    if type(attn) not in HEADS:
        return f"{name} has {type(attn).__name__}, whose heads are not separate; give one with multi-head attention."
    if not isinstance(getattr(attn, "norm", None) or nn.Identity(), nn.Identity):
        return f"the attention of {name} normalises its output across heads, whose statistic would change with each."
    if getattr(attn, "num_kv_groups", 1) > 1:
        return f"groups of heads in {name} share keys and values, so one cannot be taken without the others."
    if type(block.mlp) not in UNITS:
        return f"the FFN of {name} is a {type(block.mlp).__name__}, not one of {', '.join(c.__name__ for c in UNITS)}."
    return None
