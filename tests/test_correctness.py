"Which test images are right: packed, read, checked against the accuracy, and compared over seeds and images."
import copy

import numpy as np
import pytest
from scipy import stats

from learngene.correctness import bits_of, check_bits, compare_bits, compare_records, pack_bits, unpack_bits


@pytest.mark.parametrize("images", [1, 7, 8, 9, 500])
def test_bits_come_back(images):
    correct = np.random.default_rng(images).random(images) < 0.5
    assert (unpack_bits(pack_bits(correct), images) == correct).all()
    assert pack_bits([True] + [False] * 7) == "gA=="


@pytest.mark.parametrize("text, images", [("gA==", 9), ("gA==", 17), ("gAAA", 8), ("/w==", 7), ("no!", 8)])
def test_bits_of_other_images_are_refused(text, images):
    with pytest.raises(ValueError, match="images, wanted|no base64"):
        unpack_bits(text, images)


def record(correct, seed=0, data="one"):
    return dict(run_info=dict(name="a", seed=seed),
                train_info=dict(test_accuracy=float(np.mean(correct)), test_correct=pack_bits(correct)),
                meta_info=dict(data_sizes=dict(test=len(correct)), data_fingerprint=data))


def test_bits_must_give_the_accuracy():
    good = record([True, False, True])
    check_bits(good, "a file")
    for change in (dict(test_accuracy=1 / 3), dict(test_correct="AA=="), dict(test_correct="AAAA")):
        bad = copy.deepcopy(good)
        bad["train_info"] |= change
        with pytest.raises(ValueError, match="a file: train_info.test_correct has .*run again"):
            check_bits(bad, "a file")
    good["train_info"]["test_correct"] = None  # a record from before
    check_bits(good, "a file")
    with pytest.raises(ValueError, match="older than that field"):
        bits_of([good])


def test_one_seed_is_the_t_test_over_images():
    rng = np.random.default_rng(0)
    a, b = rng.random((1, 400)) < 0.7, rng.random((1, 400)) < 0.6
    c, d = compare_bits(a, b), 100 * (a[0].astype(float) - b[0])
    expected = stats.ttest_1samp(d, 0)
    low, high = expected.confidence_interval()
    assert np.allclose([c["difference"], c["low"], c["high"], c["p"]], [d.mean(), low, high, expected.pvalue])


def test_the_interval_covers_seeds_and_images():
    "Of 400 simulated comparisons about 95 % of the intervals hold the true difference, whatever dominates."
    rng = np.random.default_rng(1)
    for seed_sd, image_sd in [(3, 0.1), (0.1, 30), (2, 30)]:
        hits = 0
        for _ in range(400):
            d = rng.normal(0, seed_sd, (4, 1)) + rng.normal(0, image_sd, 200) + rng.normal(0, 20, (4, 200))
            c = compare_bits(d / 100, np.zeros_like(d))
            hits += c["low"] <= 0 <= c["high"]
        assert 0.92 < hits / 400 < 0.985, (seed_sd, image_sd, hits)


def test_equal_models_do_not_differ():
    a = np.random.default_rng(2).random((3, 50)) < 0.5
    assert compare_bits(a, a)["p"] == 1.0
    assert compare_bits(np.ones((3, 50)), np.zeros((3, 50)))["p"] == 0.0


def test_records_are_paired_by_seed():
    rng = np.random.default_rng(3)
    rows = {seed: (rng.random(60) < 0.8, rng.random(60) < 0.5) for seed in (0, 1, 2)}
    a = [record(rows[seed][0], seed) for seed in (2, 0, 1)]
    b = [record(rows[seed][1], seed) for seed in (0, 1, 2)]
    c = compare_records(a, b)
    assert c == compare_bits([rows[s][0] for s in (0, 1, 2)], [rows[s][1] for s in (0, 1, 2)]) and c["n"] == 3
    with pytest.raises(ValueError, match="same ones"):
        compare_records(a[:2], b)
    with pytest.raises(ValueError, match="different images"):
        compare_records(a, [record(rows[seed][1], seed, "two") for seed in (0, 1, 2)])
