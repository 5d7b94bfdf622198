"Algorithm 1 and eq. 6 against the published lists, scikit-learn's DBSCAN and plain searches."
import csv
import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN

import learngene as lg

PAPER = Path(__file__).parents[1] / "results" / "paper"


@pytest.fixture(scope="module")
def deit_b():
    d = [[None] * 12 for _ in range(12)]
    with open(PAPER / "deit_base_mean_attention_distance.csv") as f:
        for row in csv.DictReader(f):
            d[int(row["layer"])][int(row["head"])] = float(row["mean_attention_distance_px"])
    return d


def test_published_centroids_of_deit_b(deit_b):
    wanted = json.loads((PAPER / "released_head_centroids.json").read_text())["models"]["deit_base"]
    centroids = [[c.centroid for c in lg.cluster_heads(layer)] for layer in deit_b]
    assert centroids == wanted and sum(map(len, wanted)) == 43 and len(wanted) == 12


@pytest.mark.parametrize("form", [list, np.array, torch.tensor, lambda d: torch.tensor(d, dtype=torch.float32), tuple])
def test_any_form_of_distances(deit_b, form):
    wanted = [[c.centroid for c in lg.cluster_heads(layer)] for layer in deit_b]
    assert [[c.centroid for c in lg.cluster_heads(form(layer))] for layer in deit_b] == wanted


def draws(n=400, seed=0):
    "Random layers: spread out, crowded, on a grid (ties and gaps of exactly eps), all equal."
    r = random.Random(seed)
    for i in range(n):
        heads, eps = r.randint(1, 16), r.choice([0.5, 1.0, 2.0, 10.0])
        kind = i % 4
        if kind == 0:
            d = [r.uniform(0, 8 * eps) for _ in range(heads)]
        elif kind == 1:
            d = [eps * r.randint(0, 12) / 2 for _ in range(heads)]  # gaps of 0, eps/2, eps: exact in floating point
        elif kind == 2:
            d = [eps * r.randint(0, 30) for _ in range(heads)]
        else:
            d = [eps * r.choice([1, 1, 1, 4.5, 9]) for _ in range(heads)]
        yield d, eps


@pytest.mark.parametrize("min_heads", [1, 2, 3, 4, 5])
def test_core_heads_agree_with_dbscan(min_heads):
    several = borders = noise = 0
    for d, eps in draws():
        sk = DBSCAN(eps=eps, min_samples=min_heads).fit(np.array(d)[:, None])
        core, clusters = set(sk.core_sample_indices_.tolist()), lg.cluster_heads(d, eps, min_heads)
        by_head = {h: k for k, c in enumerate(clusters) for h in c.heads}
        wanted = {frozenset(h for h in core if sk.labels_[h] == k) for k in set(sk.labels_) - {-1}}
        core_groups = {frozenset(h for h in c.heads if h in core) for c in clusters}
        assert core_groups == wanted, (d, eps)
        left_out = {h for h in range(len(d)) if h not in by_head}
        assert left_out == {h for h in range(len(d)) if sk.labels_[h] == -1}, (d, eps)
        assert sum(c.size for c in clusters) == len(by_head)  # no head twice
        several += len(clusters) > 1
        borders += len(by_head) > len(core)
        noise += len(left_out) > 0
    assert several > 20 and (min_heads == 1 or noise > 50) and (min_heads < 3 or borders > 20)  # all cases occur


def bridges(min_heads):
    "Two clusters with one head in the middle, as far from the one as from the other, in any order."
    r = random.Random(6)
    for _ in range(50):
        side = [0.5] * (min_heads - 2) + [1.0]
        d = side + [2.0] + [4 - x for x in side]
        yield r.sample(d, len(d)), 1.0


@pytest.mark.parametrize("min_heads", [2, 3, 4, 5])
def test_border_heads_join_the_nearest_core_head_and_the_lower_of_two(min_heads):
    tied = 0
    for d, eps in [*draws(600, seed=1), *bridges(min_heads)]:
        core = [i for i in range(len(d)) if sum(abs(d[i] - x) <= eps for x in d) >= min_heads]
        where = {h: c for c in lg.cluster_heads(d, eps, min_heads) for h in c.heads}
        for i in set(range(len(d))) - set(core):
            reach = sorted((abs(d[i] - d[j]), d[j], j) for j in core if abs(d[i] - d[j]) <= eps)
            if reach:
                assert where[i] is where[reach[0][2]], (d, eps, i)
                tied += any(abs(a[0] - reach[0][0]) == 0 and where[a[2]] is not where[i] for a in reach)
    assert min_heads < 4 or tied > 3


def test_border_head_between_two_clusters():
    d = [0, 1, 2, 10, 18, 19, 20]  # 10 is 8 from both
    assert {c.heads for c in lg.cluster_heads(d, 8, 4)} == {(0, 1, 2, 3), (4, 5, 6)}
    d[3] = 10.2
    assert {c.heads for c in lg.cluster_heads(d, 8.3, 4)} == {(0, 1, 2), (3, 4, 5, 6)}


@pytest.mark.parametrize("min_heads", [1, 2, 3, 4])
def test_order_of_heads_does_not_matter(min_heads):
    r = random.Random(3)
    for d, eps in [*draws(60, seed=2), *bridges(max(2, min_heads))]:
        in_order = lg.cluster_heads(d, eps, min_heads)
        wanted = sorted(tuple(sorted(d[h] for h in c.heads)) for c in in_order)
        means = sorted(c.mean for c in in_order)
        for _ in range(3):
            shuffled = r.sample(d, len(d))
            clusters = lg.cluster_heads(shuffled, eps, min_heads)
            assert sorted(tuple(sorted(shuffled[h] for h in c.heads)) for c in clusters) == wanted, (d, eps)
            assert sorted(c.mean for c in clusters) == pytest.approx(means)


@pytest.mark.parametrize("min_heads", [1, 3])
def test_centroid_mean_size_and_priority(min_heads):
    same_size = 0
    for d, eps in draws(300, seed=4):
        clusters = lg.cluster_heads(d, eps, min_heads)
        for c in clusters:
            mean = math.fsum(d[h] for h in c.heads) / len(c.heads)
            assert c.mean == pytest.approx(mean) and c.size == len(c.heads) and list(c.heads) == sorted(c.heads)
            off = {h: abs(d[h] - mean) for h in c.heads}
            nearest = [h for h in c.heads if off[h] <= min(off.values()) + 1e-7]
            assert c.centroid == nearest[0], (d, eps, c)
        for a, b in itertools.pairwise(clusters):
            assert a.size > b.size or (a.size == b.size and a.heads[0] < b.heads[0])
            same_size += a.size == b.size
    assert same_size > 20


def test_neighbourhood_includes_its_edge():
    assert len(lg.cluster_heads([0.0, 10.0], 10)) == 1
    assert len(lg.cluster_heads([0.0, 10.000001], 10)) == 2
    assert len(lg.cluster_heads([1, 2, 3, 4, 5], 1)) == 1  # chaining, as DBSCAN does


def test_tie_goes_to_the_lowest_head():
    assert lg.cluster_heads([3.0, 1.0])[0].centroid == 0 and lg.cluster_heads([1.0, 3.0])[0].centroid == 0
    assert lg.cluster_heads([0.3, 0.1, 0.2 + 0.1, 0.1], 1)[0].centroid == 0  # equal but for rounding


def test_all_noise_is_no_cluster():
    assert lg.cluster_heads([0, 50, 100], 10, 2) == []


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [1.0, float("inf")], [1.0, -0.5], [[1.0, 2.0]], 3.0])
def test_bad_distances(bad):
    with pytest.raises(ValueError, match="distances|shape"):
        lg.cluster_heads(bad)


def test_bad_distance_names_the_head():
    with pytest.raises(ValueError, match=r"\[1\].*not finite"):
        lg.cluster_heads([1.0, float("nan"), 2.0])
    with pytest.raises(ValueError, match=r"\[2\].*negative"):
        lg.cluster_heads([1.0, 1.0, -2.0])


@pytest.mark.parametrize("eps", [0, -1, float("nan")])
def test_bad_eps(eps, deit_b):
    with pytest.raises(ValueError, match="eps"):
        lg.cluster_heads([1.0], eps)
    with pytest.raises(ValueError, match="eps"):
        lg.cluster_ffns(deit_b, [lg.cluster_heads(d) for d in deit_b], eps)


@pytest.mark.parametrize("min_heads", [0, -1, 1.5])
def test_bad_min_heads(min_heads):
    with pytest.raises(ValueError, match="min_heads"):
        lg.cluster_heads([1.0], 1, min_heads)


def test_published_ffn_groups(deit_b):
    clusters = [lg.cluster_heads(d) for d in deit_b]

    def shared(rule):  # counted from 1, as the paper does
        return [[layer + 1 for layer in g] for g in lg.cluster_ffns(deit_b, clusters, rule=rule) if len(g) > 1]

    assert shared("stated") == [[7, 8], [10, 11, 12]]
    assert shared("printed") == [[7, 8]]


def test_published_distance_of_layers_7_and_8(deit_b):
    clusters = [lg.cluster_heads(d) for d in deit_b]
    assert [6, 7] in lg.cluster_ffns(deit_b, clusters, 4.99) and [6, 7] not in lg.cluster_ffns(deit_b, clusters, 4.97)


@pytest.mark.parametrize("rule", ["printed", "stated"])
def test_ffn_groups_are_the_transitive_runs(rule):
    r = random.Random(5)
    longest = 0
    for _ in range(100):
        sizes = [r.randint(2, 4) for _ in range(r.randint(1, 8))]
        d = [[r.choice([0, 1, 2, 30, 31, 60]) + r.choice([0.0, 0.5]) for _ in range(n)] for n in sizes]
        clusters = [lg.cluster_heads(x, 5) for x in d]
        groups = lg.cluster_ffns(d, clusters, 2, rule)
        assert [layer for g in groups for layer in g] == list(range(len(d)))
        for layer in range(1, len(d)):
            sides = []
            for side in (layer - 1, layer):
                picked = [c for c in clusters[side] if rule == "printed" or len(c.heads) > 1]
                sides.append(sorted(d[side][c.centroid] for c in picked))
            a, b = sides
            together = any(layer in g and layer - 1 in g for g in groups)
            close = len(a) == len(b) > 0 and np.mean([abs(x - y) for x, y in zip(a, b)]) < 2
            assert together == close, (a, b)
        longest = max(longest, *map(len, groups))
    assert longest > 2


def test_ffn_limit_is_strict_and_sorted_by_distance():
    d = [[0.0, 1, 50], [49.0, 51, 3]]  # by priority the pairs would be (0, 49) and (50, 3)
    clusters = [lg.cluster_heads(x, 5) for x in d]
    assert [[x[c.centroid] for c in layer] for x, layer in zip(d, clusters)] == [[0.0, 50], [49.0, 3]]
    assert lg.cluster_ffns(d, clusters, 2.001) == [[0, 1]]  # (|0 - 3| + |50 - 49|) / 2
    assert lg.cluster_ffns(d, clusters, 2.0) == [[0], [1]]


def test_ffn_errors(deit_b):
    clusters = [lg.cluster_heads(d) for d in deit_b]
    with pytest.raises(ValueError, match="did you mean 'printed'"):
        lg.cluster_ffns(deit_b, clusters, rule="print")
    with pytest.raises(ValueError, match="12.*11"):
        lg.cluster_ffns(deit_b, clusters[:-1])


@pytest.mark.parametrize("distances", [[], [[float("nan")], [1.0]], [[-1.0], [1.0]]])
def test_ffn_bad_distances(distances):
    with pytest.raises(ValueError):
        lg.cluster_ffns(distances, [lg.cluster_heads([1.0])] * len(distances))


def test_drawing(deit_b):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    from learngene.cluster import draw_clusters

    clusters = [lg.cluster_heads(d, 10, 2) for d in deit_b]
    ax = draw_clusters(deit_b, clusters, plt.figure().gca())
    drawn = sum(len(line.get_xdata()) for line in ax.lines)
    assert drawn == 144 + sum(map(len, clusters))  # every head once, every centroid ringed
    noise = 144 - sum(c.size for layer in clusters for c in layer)
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == noise > 0
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["noise"]
    assert list(ax.get_xticks()) == list(range(1, 13))
    plt.close("all")


def test_number_line():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    from learngene.number_line import draw_number_line

    values = [24.0, 100, 28, 31, 37, 95, 60]
    ax = draw_number_line(values, 10, lg.cluster_heads(values, 10, min_heads=2), plt.figure().gca())
    numbers = [text.get_text() for text in ax.texts if hasattr(text, "xy")]
    assert numbers == ["1", "2", "3", "4", "5", "6", "7"]  # heads from 1
    assert {text.get_text() for text in ax.texts} >= {"4", "3", "6", "23", "35", "5"}  # the gaps
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "x"] == [60]  # noise
    assert sum(line.get_linestyle() == ":" for line in ax.lines) == 2  # gaps wider than eps
    plt.close("all")
