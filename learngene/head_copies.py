"""What becomes of heads that start as copies of one: their maps, and how far training moves them apart (Figure 6)."""

import pandas as pd
import torch

from .density import attention_maps, head_differences

STAGES = {"ancestry": "ancestry's own", "start": "just inherited", "trained": "trained"}
LAYERS = ("first", "last")


def look_at_heads(
    model,  # a timm VisionTransformer
    images,  # (B, C, H, W)
) -> dict:  # "first.map": (8, N, N) of one image; "first.differences": (H, H) over all images; the same for "last"
    "Look at the heads of a model's first and last layer; for `watch`."
    seen = {}
    for layer, A in zip(LAYERS, attention_maps(model, images, [0, -1])):
        seen[f"{layer}.map"], seen[f"{layer}.differences"] = A[0, :8].half(), head_differences(A)
    return seen


def copies_apart(
    seen: dict,  # from `watch` with `look_at_heads`
) -> pd.DataFrame:  # index: layer, stage; percent of a token's attention
    """Measure how differently two heads attend: copies of one head, and of two origins.

    Copies are those that are equal when just inherited. AssertionError when a layer has none, or nothing else."""
    rows = {}
    for layer in LAYERS:
        before = seen[f"start.{layer}.differences"]
        copies = (before < 1e-5) & ~torch.eye(len(before), dtype=torch.bool)
        assert copies.any() and (before >= 1e-5).any(), f"the {layer} layer has no copies, or no different heads"
        own = seen[f"ancestry.{layer}.differences"]
        pairs = ~torch.eye(len(own), dtype=torch.bool)
        rows[layer, STAGES["ancestry"]] = {"different heads": own[pairs].mean()}
        for stage in ("start", "trained"):
            d = seen[f"{stage}.{layer}.differences"]
            rows[layer, STAGES[stage]] = {
                "different heads": d[before >= 1e-5].mean(),
                "copies of one head": d[copies].mean(),
            }
    index = pd.MultiIndex.from_tuples(rows, names=["layer", "heads are"])
    return pd.DataFrame(rows.values(), index=index).astype(float) * 100


def describe_copies(
    apart,  # from `copies_apart`
) -> str:  # one sentence a layer
    "Say how far training moves copies of one head apart, beside heads of different origin."
    lines = []
    for layer in LAYERS:
        copies, (started, trained) = apart["copies of one head"], apart["different heads"].loc[layer].iloc[1:]
        moved = copies[layer, STAGES["trained"]]
        lines.append(
            f"In the {layer} layer training moves copies of one head apart from 0 to {moved:.1f} % of their attention, "
            f"{moved / trained:.0%} of what separates heads of two origins ({trained:.1f} %; {started:.1f} % before)."
        )
    return "\n".join(lines)
