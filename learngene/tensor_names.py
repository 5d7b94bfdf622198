"Reading the names of a vision transformer's tensors, as timm gives them."


def layer_of(
    name: str,  # e.g. "blocks.7.attn.qkv.weight"
):  # int from 0; None for a tensor outside the layers
    "Return the layer that a tensor belongs to."
    return int(name.split(".")[1]) if name.startswith("blocks.") else None


def part_of(
    name: str,  # e.g. "blocks.7.attn.qkv.weight"
) -> str:  # e.g. "attn.qkv.weight"; outside the layers the name itself
    "Return the name of a tensor within its layer."
    return name.split(".", 2)[2] if name.startswith("blocks.") else name


def is_classifier(
    name: str,  # of a tensor of a whole model
) -> bool:
    "Whether a tensor belongs to a classifier, DeiT's second one included."
    return name.startswith(("head.", "head_dist.")) and not name.startswith(("head.norm.", "head.pre_logits."))
