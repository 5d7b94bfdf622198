"Options of `condense`: their values, the paper's default for eps, and the warning about it."
import warnings

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
    warnings.warn(f"Eps = {eps:.2f} px, the paper's 10 px at this image size, leaves one head in every layer: "
                  f"the heads of a layer differ by at most {span:.2f} px; give a smaller eps.", stacklevel=3)
