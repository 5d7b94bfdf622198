"Options of `condense`: their values, the paper's default for eps, and the warning about it."
import warnings

import torch

CENTROIDS = ("nearest", "averaged")  # `centroid` and `ffn_centroid` of `condense`
SIGNATURES = ("mean", "mean+spread")  # `signature` of `condense`


def paper_eps(
    image_size,  # (height, width) in pixels
) -> float:  # pixels
    "Scale the paper's Eps of 10 px, for images of 224 px, to an image size."
    return 10 / 224 * max(image_size)


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
                  f"eps={half:.2g} keeps about half, {kept} of {total} heads.", stacklevel=3)


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
