"""What models cost, and from how many models on an ancestry pays."""
import math

import pandas as pd
import pytest
from test_tables import record

from learngene import costs


def costly(method, seed, epochs_seconds, accuracies, images=130, batch=64, threads=1):
    "A cell and its record, whose validation accuracies are given from epoch 0 on."
    made = record(seed, accuracies[-1], epochs=len(accuracies) - 1)
    made["run_info"] |= dict(threads=threads, processes=1)
    made["train_info"] |= dict(seconds=epochs_seconds * (len(accuracies) - 1))
    for line, accuracy in zip(made["train_info"]["history"], accuracies, strict=True):
        line["val_accuracy"] = accuracy
    made["meta_info"] |= dict(data_sizes=dict(train=images, val=10, test=10), condense_seconds=2.0, expand_seconds=None)
    made["meta_info"]["recipe"]["train"]["batch_size"] = batch
    return (dict(method=method, images="all", seed=seed), None), made


def test_run_cost_counts_whole_batches_and_all_cores():
    _, made = costly("a", 0, 1.5, [0.1, 0.2, 0.3], threads=2)
    assert costs.run_cost(made) == dict(epochs=2, steps=4, core_seconds=6.0, condense_seconds=2.0, expand_seconds=0.0)
    _, few = costly("a", 0, 1.5, [0.1, 0.2, 0.3], images=20)
    assert costs.run_cost(few)["steps"] == 2, "a batch holds all images when they are fewer"
    made["run_info"]["device"] = "cuda"
    assert costs.run_cost(made)["core_seconds"] == 3.0, "seconds of the device"


def test_a_shipped_ancestry_has_its_cost():
    assert costs.ancestry_cost("vit_nano_p2_8.digits")["steps"] == 200 * (1222 // 64)
    assert costs.ancestry_cost("deit_small_patch16_224") is None


@pytest.mark.parametrize("once, each, other, n", [
    (300, 50, 300, 2), (300, 50, 100, 6), (0, 50, 100, 1), (0.3, 0.1, 0.2, 3), (300, 100, 100, None), (0, 2, 1, None)])
def test_break_even(once, each, other, n):
    assert costs.break_even(once, each, other) == n
    if n is not None:
        assert once + n * each <= n * other + 1e-9 and (n == 1 or once + (n - 1) * each > (n - 1) * other)


def test_cost_of_equal_accuracy():
    runs = [costly("from-scratch", 0, 3.0, [0.1, 0.2, 0.5]), costly("from-scratch", 1, 1.0, [0.1, 0.4, 0.5]),
            costly("ours", 0, 2.0, [0.2, 0.6, 0.7]), costly("ours", 1, 2.0, [0.2, 0.4, 0.9]),
            costly("poor", 0, 2.0, [0.1, 0.1, 0.2])]
    table = costs.cost_of_equal_accuracy(*zip(*runs), ancestry_seconds=5.0, starts=("ours", "poor", "absent"))
    assert list(table.start) == ["ours", "poor"]
    ours, poor = table.to_dict("records")
    assert (ours["target"], ours["reference_epochs"], ours["epochs"], ours["end"]) == (0.5, 2, 1, pytest.approx(0.8))
    assert (ours["once"], ours["each"], ours["reference_each"]) == (7.0, 1.0, 2.0), "the fastest run sets the rate"
    assert ours["break_even"] == 7
    assert all(math.isnan(poor[name]) for name in ("epochs", "each", "break_even")), "never reached"


def test_gain_at_equal_size_is_read_off_the_line():
    points = pd.DataFrame([("a", 10, 50.0), ("a", 20, 70.0), ("b", 15, 55.0), ("b", 20.2, 71.0), ("b", 30, 80.0)],
                          columns=["kind", "params", "accuracy"])
    gain = costs.gain_at_equal_size(points, "a", "b", "params")
    assert gain.to_dict() == {2: 5.0, 3: -1.0}, "30 lies outside the line's range"
    assert costs.gain_at_equal_size(points.iloc[[0, 1, 4]], "a", "b", "params").empty
