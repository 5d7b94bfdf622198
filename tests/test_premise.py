"Whether near heads are alike: found where it was put in, not found where it was not."
import numpy as np
import pytest
from scipy import stats

from learngene import premise as P
from learngene.ancestry import shipped
from learngene.distances import SHARES, known_distances, known_pairs


def made(rng, slope, layers=12, heads=8):
    "Pairs whose CKA falls with the difference of distances, by a slope, under noise."
    made_layers = []
    for _ in range(layers):
        d = rng.uniform(0, 10, heads)
        noise = np.triu(rng.uniform(0, 0.5, (heads, heads)), 1)
        cka = 0.5 - slope * abs(d[:, None] - d) / 20 + noise + noise.T
        made_layers.append(dict(distances=d.tolist(), cka=cka.tolist(), stand_in=(1 - cka).tolist(), choices={}))
    return dict(layers=made_layers)


def test_a_relation_is_found_where_there_is_one():
    found = P.rank_correlation(made(np.random.default_rng(0), 1.0), "cka", 300)
    assert found["rho"] < -0.5 and found["p"] < 0.01 and len(found["layers"]) == 12
    assert P.rank_correlation(made(np.random.default_rng(0), 1.0), "stand_in", 300)["rho"] > 0.5


def test_none_is_found_where_there_is_none():
    "Of 40 made-up ancestries without a relation about 5 % have a p below 0.05."
    ps = [P.rank_correlation(made(np.random.default_rng(seed), 0.0, 4), "cka", 100)["p"] for seed in range(40)]
    assert sum(p < 0.05 for p in ps) <= 7 and np.mean(ps) > 0.35


def test_choices_at_random_are_at_chance():
    rng = np.random.default_rng(1)
    inside = [P.above_chance(rng.random(12)) for _ in range(400)]
    assert 0.92 < np.mean([c["low"] <= 0.5 <= c["high"] for c in inside]) < 0.98
    assert P.above_chance([0.9] * 12)["p"] < 0.001


@pytest.mark.parametrize("name", list(shipped()))
def test_measured_pairs_are_those_of_the_shipped_ancestries(name):
    known = known_pairs(name)
    distances = np.array(known_distances(name)["distances"])
    assert np.allclose([layer["distances"] for layer in known["layers"]], distances, atol=1e-3)
    frame, choices = P.pair_frame(known), P.choice_frame(known)
    n_layers, n_heads = distances.shape
    assert len(frame) == n_layers * n_heads * (n_heads - 1) // 2 and len(choices) == n_layers * len(SHARES)
    assert frame.cka.between(0, 1).all() and frame.stand_in.between(-1e-6, 1).all()
    assert (choices.best <= choices.error + 1e-9).all() and choices.beats.between(0, 1).all()
    row = choices[(choices.eps == "8%") & (choices.layer == 1)].iloc[0]
    assert row.heads == len(known["layers"][0]["choices"]["8%"]["kept"])
    gain = P.gain_against_span(choices[choices.eps == "8%"])
    part = choices[choices.eps == "8%"]
    expected = stats.spearmanr(np.ptp(distances, 1), 1 - part.error / part["mean"]).statistic
    assert gain["rho"] == pytest.approx(expected, abs=0.02)
