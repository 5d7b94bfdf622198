"Whether heads at nearly one distance do nearly one thing: the premise of clustering heads, tested on measured pairs."
import numpy as np
import pandas as pd
from scipy import stats


def pair_frame(
    known: dict,  # from `known_pairs`
) -> pd.DataFrame:  # one row a pair of heads: layer (from 1), apart (px), cka, stand_in (mean of both ways)
    "Tabulate all pairs of heads of a layer."
    rows = []
    for number, layer in enumerate(known["layers"], 1):
        d, cka, error = np.array(layer["distances"]), np.array(layer["cka"]), _symmetric(layer["stand_in"])
        i, j = np.triu_indices(len(d), 1)
        rows.append(pd.DataFrame(dict(layer=number, apart=abs(d[i] - d[j]), cka=cka[i, j], stand_in=error[i, j])))
    return pd.concat(rows, ignore_index=True)


def rank_correlation(
    known: dict,  # from `known_pairs`
    measure: str,  # "cka" or "stand_in"
    permutations=2000,
) -> dict:  # rho, the mean over layers, its p-value, and `layers`, that of each
    """Correlate how far apart two heads look with how alike they are (Spearman, within layers).

    Pairs that share a head are not independent, so p is that of Mantel's test: distances are dealt anew to the heads
    of each layer.
    """
    rng = np.random.default_rng(0)
    layers = [(np.array(layer["distances"]), _symmetric(layer[measure])) for layer in known["layers"]]
    measured = [_rho(d, m) for d, m in layers]
    dealt = [np.mean([_rho(rng.permutation(d), m) for d, m in layers]) for _ in range(permutations)]
    rho = float(np.mean(measured))
    p = (1 + np.sum(np.abs(dealt) >= abs(rho) - 1e-12)) / (1 + permutations)
    return dict(rho=rho, p=float(p), layers=measured)


def choice_frame(
    known: dict,  # from `known_pairs`
) -> pd.DataFrame:  # one row a layer and Eps: eps, layer (from 1), heads, error, mean, best, beats, span (px)
    "Tabulate the centroids of each layer beside all choices of as many heads."
    return pd.DataFrame([
        dict(eps=eps, layer=number, heads=len(c["kept"]), span=max(layer["distances"]) - min(layer["distances"]))
        | {name: c[name] for name in ("error", "mean", "best", "beats")}
        for number, layer in enumerate(known["layers"], 1) for eps, c in layer["choices"].items()])


def above_chance(
    beats,  # for each layer the share of choices that lose more
) -> dict:  # mean, low, high, p
    """Compare the mean share of choices that lose more with one half.

    Heads drawn at random reach one half. A random choice's share is uniform, of variance 1/12 at most (ties have less),
    so the interval is never too narrow.
    """
    mean, error = float(np.mean(beats)), (12 * len(beats)) ** -0.5
    half = stats.norm.ppf(0.975) * error
    return dict(mean=mean, low=mean - half, high=mean + half, p=float(2 * stats.norm.sf(abs(mean - 0.5) / error)))


def gain_against_span(
    choices,  # from `choice_frame`, of one Eps
) -> dict:  # rho and p
    "Correlate what centroids gain with how far a layer's heads span (Spearman, over layers)."
    result = stats.spearmanr(choices.span, 1 - choices.error / choices["mean"])
    return dict(rho=float(result.statistic), p=float(result.pvalue))


def _symmetric(errors):
    matrix = np.array(errors)
    return (matrix + matrix.T) / 2


def _rho(d, matrix):
    i, j = np.triu_indices(len(d), 1)
    return stats.spearmanr(abs(d[i] - d[j]), matrix[i, j]).statistic


def draw_pairs(
    frame,  # from `pair_frame`
    ax,  # axes
    measure="stand_in",  # or "cka"
    title="",
) -> None:
    "Draw how alike heads are over how far apart they look; a line joins medians of fifths."
    ax.plot(frame.apart, frame[measure], ".", color="0.65", ms=3)
    fifths = frame.groupby(pd.qcut(frame.apart, 5), observed=True)
    ax.plot(fifths.apart.median(), fifths[measure].median(), "k-o", ms=4)
    ax.set(title=title, xlabel="difference of distances (px)", ylim=(0, 1))

