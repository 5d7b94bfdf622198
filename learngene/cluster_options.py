"Options of head and FFN clustering (Algorithm 1, eq. 6), and what they accept."
import torch

from .files import near

CLUSTERINGS = ("dbscan", "kmeans", "complete")  # `cluster_by` of `cluster_heads`
RULES = ("printed", "stated")  # `rule` of `cluster_ffns`


def check_distances(
    distances,  # (H,) mean attention distances of one layer, pixels
) -> torch.Tensor:  # (H,), float64
    "Return one layer's distances as a tensor; ValueError when empty, negative or not finite."
    d = torch.as_tensor(distances, dtype=torch.float64)
    if d.ndim != 1 or len(d) == 0:
        raise ValueError(f"distances have shape {tuple(d.shape)}; give one number for each head of one layer.")
    if not d.isfinite().all():
        raise ValueError(f"the distances of heads {_indices(~d.isfinite())} (from 0) are not finite; "
                         "measure them again.")
    if (d < 0).any():
        raise ValueError(f"the distances of heads {_indices(d < 0)} (from 0) are negative; measure them again.")
    return d


def check_layers(
    distances,  # (L, H) mean attention distances, pixels
    clusters,  # for each layer the clusters of its heads
) -> None:
    "Raise ValueError unless every layer has clusters, and their heads finite distances."
    if len(distances) != len(clusters):
        raise ValueError(f"there are distances for {len(distances)} layers and clusters for {len(clusters)}; "
                         "give both for the same layers.")
    if len(distances) == 0:
        raise ValueError("there are no layers to group; give at least one.")
    for d, layer in zip(distances, clusters):
        heads = [head for cluster in layer for head in cluster.heads]
        if heads:
            check_distances([float(d[head]) for head in heads])


def check_spread(
    spread,  # (H,) standard deviations of the attention distances of one layer, pixels
    n_heads: int,  # heads of the layer
) -> torch.Tensor:  # (H,), float64
    "Return one layer's spreads as a tensor; ValueError unless all are finite and >= 0."
    s = torch.as_tensor(spread, dtype=torch.float64)
    if s.shape != (n_heads,) or not (s >= 0).all() or not s.isfinite().all():
        raise ValueError(f"spread has shape {tuple(s.shape)} for {n_heads} heads, or holds negative or non-finite "
                         "values; measure it with attention_distance_signature.")
    return s


def check_eps(
    **limits,  # name -> pixels
) -> None:
    "Raise ValueError unless every given limit is a number above 0."
    for name, eps in limits.items():
        if isinstance(eps, (str, bool)) or eps is None or not eps > 0:
            raise ValueError(f"{name} is {eps!r}; give more than 0 pixels, or to `condense` a share such as '8%'.")


def check_min_heads(min_heads) -> None:
    "Raise ValueError unless MinHds is a whole number of at least 1."
    if min_heads < 1 or min_heads != int(min_heads):
        raise ValueError(f"min_heads is {min_heads}; give a whole number of at least 1.")


def check_rule(rule) -> None:
    "Raise ValueError unless `rule` is one of RULES."
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}{near(rule, RULES)}; give one of {', '.join(RULES)}.")


def check_clustering(
    cluster_by,  # one of CLUSTERINGS
    k,  # clusters for "kmeans"; None for the others
    min_heads,  # MinHds for "dbscan"; 1 for the others
    n_heads=None,  # heads of the smallest layer, where known
) -> None:
    "Raise ValueError unless the options name a way to cluster and go together."
    if cluster_by not in CLUSTERINGS:
        raise ValueError(f"cluster_by is {cluster_by!r}{near(cluster_by, CLUSTERINGS)}; "
                         f"give one of {', '.join(CLUSTERINGS)}.")
    if cluster_by == "kmeans" and (type(k) is not int or k < 1 or n_heads and k > n_heads):
        most = f", at most the layer's {n_heads} heads" if n_heads else ""
        raise ValueError(f"k is {k!r}; give the number of clusters for k-means: a whole number of at least 1{most}.")
    if cluster_by != "kmeans" and k is not None:
        raise ValueError(f"k is for cluster_by='kmeans'; {cluster_by!r} finds the number of clusters itself. "
                         "Leave k out.")
    if cluster_by != "dbscan" and min_heads != 1:
        raise ValueError(f"min_heads is for cluster_by='dbscan'; {cluster_by!r} has no core heads. Leave it at 1.")


def _indices(mask):
    return mask.nonzero().flatten().tolist()
