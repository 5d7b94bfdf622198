"The heads of one layer on a line, as Algorithm 1 sees them."
from itertools import pairwise

MARKERS = "os^Dv*"  # by cluster, so that colours are not needed


def draw_number_line(
    values,  # (H,) mean attention distances of one layer, pixels
    eps,  # largest gap between neighbours, pixels
    clusters=None,  # of HeadCluster, from `cluster_heads`; None = heads alone
    ax=None,  # matplotlib axes; None = the current figure's
):  # the axes
    """Draw one layer's heads on a line, numbered from 1, with the gaps between them.

    The thick bar is `eps`. A gap of at most `eps` is a solid line, a wider one is dotted. With `clusters`, each has a
    marker of its own, its centroid a ring, and heads in no cluster (noise) a cross.
    """
    import matplotlib.pyplot as plt

    ax = ax or plt.gca()
    cluster_of = {head: k for k, cluster in enumerate(clusters or []) for head in cluster.heads}
    for head, value in enumerate(map(float, values)):
        k = cluster_of.get(head)
        if k is not None:
            marker, colour = MARKERS[k % len(MARKERS)], f"C{k % 10}"
        else:
            marker, colour = ("o", "k") if clusters is None else ("x", "0.4")  # not clustered yet, or noise
        ax.plot(value, 0, marker, color=colour, ms=7)
        ax.annotate(f"{head + 1}", (value, 0), (0, -12), textcoords="offset points", ha="center", va="top", fontsize=9)
    for cluster in clusters or []:
        ax.plot(float(values[cluster.centroid]), 0, "o", ms=14, mfc="none", mec="k")
    for left, right in pairwise(sorted(map(float, values))):
        ax.plot([left, right], [0.4, 0.4], "|-" if right - left <= eps else "|:", color="0.3")
        ax.text((left + right) / 2, 0.5, f"{right - left:.3g}", ha="center", va="bottom", fontsize=8)
    start = min(map(float, values))
    ax.plot([start, start + eps], [1.4, 1.4], "|-", color="k", lw=2)
    ax.text(start + eps, 1.4, f"  Eps = {eps:g} px", va="center", fontsize=9)
    ax.set(ylim=(-0.9, 1.8), yticks=[], xlabel="mean attention distance (px)")
    ax.spines[["left", "right", "top"]].set_visible(False)
    return ax
