"Whether a model is a vision transformer whose attention heads can be told apart, with plain weights."
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import nn
from torch.nn.utils import parametrize

from .families.blocks import blocks_of
from .families.checks import check_family
from .ffn_sharing import is_shared
from .model_input import number_type

MATRICES = ("qkv", "q_proj", "k_proj", "v_proj", "proj", "gate", "fc1", "fc1_g", "fc1_x", "fc2")
PLAIN = (nn.Parameter,)  # types of weights that are numbers and no more


def check_vit(
    model,  # any module
) -> None:
    """Raise TypeError unless `model` is a vision transformer of timm with separate heads.

    Its weights have to be plain: none quantised, none computed from others.

    The error names the first part that is in the way; for a wrapped model (DataParallel, torch.compile, an adapter) it
    says what to unwrap. FFNs that still share weights pass. ValueError for weights of several number types.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{model!r:.60} is no model; give one, e.g. learngene.load_ancestry(name).")
    check_family(model)
    obstacle = _wrong_matrix(model) or _wrong_weight(model)
    if obstacle:
        raise TypeError(f"{type(model).__name__} cannot be cut into heads: {obstacle}")
    number_type(model)


def _wrong_matrix(model):
    for index, block in enumerate(blocks_of(model)):
        for part in ("attn", "mlp"):
            for name, module in getattr(block, part).named_children():
                plain = type(module) is nn.Linear or is_shared(module) or _computed(module)
                if name in MATRICES and not plain and not isinstance(module, nn.Identity):
                    return (f"{part}.{name} of block {index} (from 0) is of type {type(module).__name__}, no plain "
                            "Linear (an adapter, or quantised); merge the adapter (`merge_and_unload()` in peft), or "
                            "give the model before that.")
    return None


def _wrong_weight(model):
    for name, module in model.named_modules():
        if tensor := _computed(module):
            return (f"{name}.{tensor} is computed from other tensors (pruning, weight norm, an adapter); make it plain "
                    "by `prune.remove` or `parametrize.remove_parametrizations` of torch.nn.utils.")
    for name, p in model.named_parameters():
        if type(p) not in PLAIN:
            return f"{name} is of type {type(p).__name__}, no plain parameter (quantised?); give the model before that."
    return None


def _computed(module):
    "Name of the first tensor that is computed whenever it is read, but for shared FFNs; None without any."
    if parametrize.is_parametrized(module) and not is_shared(module):
        return next(iter(module.parametrizations))
    replaced = [name for name in ("weight", "bias") if f"{name}_orig" in module._parameters]  # by torch's prune
    replaced += ["weight"] * ("weight_g" in module._parameters)  # by its former weight norm
    return next(iter(replaced), None)


def check_head(
    model,  # a vision transformer that `check_vit` accepts
) -> None:
    "Raise ValueError unless its classifiers, DeiT's second one too, are as `num_classes` says."
    width, classes = getattr(model, "head_hidden_size", model.num_features), model.num_classes
    for name in ("head", "head_dist"):
        head = getattr(model, name, None)
        if type(head).__module__.startswith("timm."):
            head = getattr(head, "fc", head)  # what pools before it classifies
        plain = isinstance(head, nn.Linear) and not _computed(head)
        size = (head.in_features, head.out_features) if plain else None
        if head is None or (isinstance(head, nn.Identity) if classes == 0 else size == (width, classes)):
            continue
        what = f"a Linear from {size[0]} to {size[1]}" if size else f"of type {type(head).__name__}"
        wanted = f"a Linear from {width} to {classes}" if classes else "an Identity"
        n = size[1] if size and size[0] == width else "n"
        raise ValueError(f"model.{name} is {what}, but model.num_classes is {classes}, wanted {wanted}; call "
                         f"`model.reset_classifier({n})` in place of setting model.{name}.")


def has_plain_attention(
    model,  # a model that `check_vit` accepts
) -> bool:
    "Whether a model is a VisionTransformer of plain patches and plain multi-head attention."
    return (isinstance(model, VisionTransformer) and type(model.patch_embed) is PatchEmbed
            and isinstance(model.patch_embed.norm, nn.Identity) and all(
                type(b.attn) is Attention and b.attn.gate is None and b.attn.qkv.in_features == model.embed_dim
                for b in model.blocks))


def check_plain_attention(
    model,  # any module
    purpose: str,  # what needs it, for the error
) -> None:
    "Raise TypeError unless `model` is a VisionTransformer with plain attention."
    check_vit(model)
    if not has_plain_attention(model):
        raise TypeError(f"{purpose} cuts plain vision transformers alone, and this is a {type(model).__name__}; give "
                        "a VisionTransformer with plain attention (try timm.create_model('deit_small_patch16_224')).")
