"Whether a model is a vision transformer whose attention heads can be told apart."
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import nn

from .families.checks import check_family


def check_vit(
    model,  # any module
) -> None:
    """Raise TypeError unless `model` is one of timm's vision transformers with separate heads.

    The error names the first part that is in the way; for a wrapped model (DataParallel, torch.compile) it says what
    to unwrap.
    """
    check_family(model)


def has_plain_attention(
    model,  # a model that `check_vit` accepts
) -> bool:
    "Whether a model is a VisionTransformer of plain patches and plain multi-head attention."
    return (isinstance(model, VisionTransformer) and type(model.patch_embed) is PatchEmbed
            and isinstance(model.patch_embed.norm, nn.Identity) and all(
                type(b.attn) is Attention and b.attn.gate is None for b in model.blocks))


def check_plain_attention(
    model,  # any module
    purpose: str,  # what needs it, for the error
) -> None:
    "Raise TypeError unless `model` is a VisionTransformer with plain attention."
    check_vit(model)
    if not has_plain_attention(model):
        raise TypeError(f"{purpose} cuts plain vision transformers alone, and this is a {type(model).__name__}; give "
                        "a VisionTransformer with plain attention (try timm.create_model('deit_small_patch16_224')).")
