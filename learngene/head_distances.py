"""How far an ancestry's heads look: beside attention to all tokens alike, and early layers beside late ones."""

import pandas as pd
import torch

from .density import patch_distances

DEIT_B_PATCHES = ((14, 14), (16, 16), 1)  # grid, pixels a patch, class token


def uniform_distance(
    grid_size,  # patches, (rows, columns)
    patch_size,  # pixels, (height, width)
    prefix_tokens=0,  # tokens that are no patches, as the class token
) -> float:  # pixels
    """Compute the mean attention distance of a head that attends to all tokens alike (eq. 4).

    What it gives to other tokens goes nowhere: with N patches it is N / (N + prefix) of the mean distance.
    """
    T = patch_distances(grid_size, patch_size)
    return float(T.sum() / len(T) / (len(T) + prefix_tokens))


def uniform_distance_of(
    model,  # a timm VisionTransformer
) -> float:  # pixels
    "Compute the mean attention distance of heads that attend to all tokens alike, in pixels."
    return uniform_distance(model.patch_embed.grid_size, model.patch_embed.patch_size, model.num_prefix_tokens)


def against_uniform(
    distances,  # (L, H) pixels
    uniform: float,  # pixels, from `uniform_distance`
) -> tuple:  # (mean distance as a share of the uniform one, greatest deviation of a head from it as a share)
    "Measure how near an ancestry's heads are to attending to all tokens alike."
    share = torch.as_tensor(distances) / uniform
    return float(share.mean()), float((share - 1).abs().max())


def layer_span(
    distances,  # (L, H) pixels, of some layers
) -> float:  # pixels
    """Average over layers the distance of the farthest head less that of the nearest."""
    distances = torch.as_tensor(distances)
    return float((distances.max(1).values - distances.min(1).values).mean())


def early_and_late(
    distances: dict,  # name -> (side of the image in pixels, (L, H) pixels)
    uniform: dict,  # name -> pixels, from `uniform_distance`
) -> pd.DataFrame:  # one row a name; percent of the image's side, so that images of all sizes compare
    """Compare how far heads look, and how much they differ, in early and late layers.

    Early and late are the first and the last third.
    """
    rows = {}
    for name, (side, d) in distances.items():
        third, share = len(d) // 3, 100 * torch.as_tensor(d) / side
        early, late = share[:third], share[-third:]
        rows[name] = {
            "look, early": float(early.mean()),
            "look, late": float(late.mean()),
            "span, early": layer_span(early),
            "span, late": layer_span(late),
            "all tokens alike": 100 * uniform[name] / side,
            "farthest from alike (%)": 100 * against_uniform(d, uniform[name])[1],
        }
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="ancestry")).round(1)


def describe_early_and_late(
    table,  # from `early_and_late`
    factor=1.5,  # how much more the heads of early layers have to differ
) -> str:
    """Say how early and late layers differ, and how far heads are from attending to all alike."""
    varied = [name for name, r in table.iterrows() if r["span, early"] >= factor * r["span, late"]]
    rest = [name for name in table.index if name not in varied]
    far = ", ".join(f"{r['farthest from alike (%)']:.0f} % in {name}" for name, r in table.iterrows())
    return (
        f"Heads differ {factor} times as much in early layers as in late ones, or more, "
        f"in {', '.join(varied) or 'none'}; "
        f"they do not in {', '.join(rest) or 'none'}.\n"
        f"From the distance of attention to all tokens alike the farthest head differs by {far}."
    )
