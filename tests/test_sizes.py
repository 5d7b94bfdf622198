"Parameters and multiply-adds of DeiT and of the paper's descendants (Table 1, Figure 3), against arithmetic on paper."
import json
from pathlib import Path

import pytest
import torch
import timm

import learngene as lg
from learngene.cluster import HeadCluster
from learngene.condensing import gather
from learngene.inheriting import heads_by_depth
from learngene.vit import count_flops, count_params

WIDTH = dict(tiny=192, small=384, base=768)
TOKENS, PATCHES, CLASSES = 197, 196, 1000
CENTROIDS = Path(__file__).parents[1] / "results/paper/released_head_centroids.json"
PUBLISHED = json.loads(CENTROIDS.read_text())["models"]


def params(d, heads):
    "Count the parameters of a descendant of width d with `heads[i]` heads in layer i."
    stem = 3 * 16 * 16 * d + d + TOKENS * d + d
    layers = sum(3 * 64 * h * (d + 1) + 64 * h * d + d + 8 * d * d + 5 * d + 4 * d for h in heads)
    return stem + layers + 2 * d + CLASSES * (d + 1)


def multiply_adds(d, heads):
    "Count its multiply-adds."
    layers = sum(TOKENS * (4 * 64 * h * d + 8 * d * d) + 2 * TOKENS**2 * 64 * h for h in heads)
    return PATCHES * 768 * d + layers + CLASSES * d


@pytest.fixture(scope="module")
def learngenes():
    "The three DeiTs without weights, condensed to the published head centroids, no FFN shared."
    condensed = {}
    for size in WIDTH:
        with torch.device("meta"):
            model = timm.create_model(f"deit_{size}_patch16_224")
        clusters = [[HeadCluster((h,), h, 0.0) for h in layer] for layer in PUBLISHED[f"deit_{size}"]]
        condensed[size] = model, gather(model, clusters, [[i] for i in range(12)])
    return condensed


@pytest.mark.parametrize("size, millions, giga", [
    ("tiny", 5.717, 1.25), ("small", 22.051, 4.60), ("base", 86.568, 17.56),
])
def test_deit(learngenes, size, millions, giga):
    model, d = learngenes[size][0], WIDTH[size]
    heads = [d // 64] * 12
    assert count_params(model) == params(d, heads) and count_flops(model) == 2 * multiply_adds(d, heads)
    assert round(count_params(model) / 1e6, 3) == millions
    assert count_flops(model) / 2e9 == pytest.approx(giga, abs=0.02)


@pytest.mark.parametrize("depth", [6, 9, 12])
@pytest.mark.parametrize("heads", [3, 6, 12, 24])
@pytest.mark.parametrize("size", WIDTH)
def test_descendants(learngenes, size, heads, depth):
    "All head counts of Figure 3 at all depths; Table 1 lists 22 of them."
    child = lg.inherit(learngenes[size][1], depth=depth, heads=heads, ffn="copy")
    assert count_params(child) == params(WIDTH[size], [heads] * depth)
    assert count_flops(child) == 2 * multiply_adds(WIDTH[size], [heads] * depth)


@pytest.mark.parametrize("more", ["later", "earlier"])
def test_heads_that_vary_with_depth(learngenes, more):
    counts = heads_by_depth(12, 12, more)
    child = lg.inherit(learngenes["base"][1], heads=counts, ffn="copy")
    assert (count_params(child), count_flops(child)) == (params(768, counts), 2 * multiply_adds(768, counts))
    assert sum(counts) == 4 * (6 + 9 + 12)
