"Options of `condense`: their values, Eps in pixels or as a share, the paper's default and the warning about it."
import re
import warnings

import torch

from .cluster_options import check_eps

CENTROIDS = ("nearest", "averaged")  # `centroid` and `ffn_centroid` of `condense`
SIGNATURES = ("mean", "mean+spread")  # `signature` of `condense`


def paper_eps(
    image_size,  # (height, width) in pixels
) -> float:  # pixels
    "Scale the paper's Eps of 10 px, for images of 224 px, to an image size."
    return 10 / 224 * max(image_size)


def share_of(
    limit,  # pixels, or a share of the span as text: "8%"
):  # a number from 0 to 1, or None for pixels
    "Read a share of the span."
    share = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*%", limit.strip()) if isinstance(limit, str) else None
    return float(share[1]) / 100 if share else None


def check_radii(
    **limits,  # name -> pixels, or a share of the span as text: "8%"
) -> None:
    "Raise ValueError unless every limit is a number of pixels above 0, or a share above 0."
    for name, limit in limits.items():
        share = share_of(limit)
        if share is None:
            check_eps(**{name: limit})
        elif not 0 < share <= 1:
            raise ValueError(f"{name} is {limit!r}; give a share of more than 0% and at most 100%.")


def in_pixels(
    limit,  # pixels, or a share of the span as text: "8%"
    distances,  # (L, H) mean attention distances, pixels; NaN where a layer has no more heads
) -> float:  # pixels
    """Turn a limit into pixels.

    The span is the difference between an ancestry's farthest and nearest head, over all layers. The paper's 10 px are
    7.9 % of it in DeiT-B, so "8%" asks for the paper's resolution whatever images and patches an ancestry takes.
    """
    share = share_of(limit)
    if share is None:
        return limit
    measured = distances[~distances.isnan()]
    return max(share * float(measured.max() - measured.min()), 1e-6)  # heads that are all alike make one cluster


def warn_of_single_clusters(
    clusters,  # for each layer its HeadClusters
    distances,  # (L, H) mean attention distances, pixels
    eps: float,  # pixels
) -> None:
    "Warn the caller of `condense` when the default eps leaves one head in every layer."
    if distances.shape[1] == 1 or any(len(layer) > 1 for layer in clusters):
        return
    measured = [row[~row.isnan()] for row in distances]  # NaN where a layer has no more heads
    span = max(float(row.max() - row.min()) for row in measured)
    half = half_eps(measured)
    kept, total = _count(measured, half), sum(map(len, measured))
    warnings.warn(f"Eps = {eps:.2f} px, the paper's 10 px at this image size, leaves one head in every layer: "
                  f"the heads of a layer differ by at most {span:.2f} px; give a smaller eps. "
                  f"eps={half:.2g} keeps about half, {kept} of {total} heads, and eps=\"8%\" is the paper's 10 px as a "
                  "share of what the heads span.", stacklevel=3)


def half_eps(
    distances,  # for each layer the mean attention distances of its heads, pixels
) -> float:  # pixels, two significant digits
    "Find an Eps at which about half of all heads become centroids."
    gaps = torch.cat([row.sort().values.diff() for row in distances])
    total, candidates = sum(map(len, distances)), {float(f"{gap:.2g}") for gap in gaps.tolist() if gap > 0}
    return min(candidates or {1e-6}, key=lambda eps: (abs(_count(distances, eps) - total / 2), eps))


def _count(distances, eps):
    "Head centroids at an Eps: in each layer, a cluster ends wherever neighbours are further apart."
    return sum(1 + int((row.sort().values.diff() > eps).sum()) for row in distances)
