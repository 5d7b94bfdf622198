"What Figures 6 and 7 say of heads: how far they look, early and late, and what becomes of copies."

import pandas as pd
import pytest
import torch

from learngene.head_copies import copies_apart, describe_copies, look_at_heads
from learngene.head_distances import describe_early_and_late, early_and_late, layer_span


def test_span_is_the_mean_over_layers_of_farthest_less_nearest():
    assert layer_span([[1.0, 4.0, 2.0], [5.0, 5.0, 6.0]]) == 2.0


def test_early_and_late_are_thirds_in_percent_of_the_side():
    d = torch.tensor([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0]])
    table = early_and_late({"a": (10, d)}, {"a": 2.0})
    assert table.loc["a"].tolist() == [20.0, 25.0, 20.0, 10.0, 20.0, 50.0]
    text = describe_early_and_late(table)
    assert "or more, in a; they do not in none" in text and "50 % in a" in text


def seen():
    "Four heads, of which the first two are copies, that training moves apart by a quarter of their attention."
    before = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0.5], [1, 1, 0.5, 0]]) * 0.8
    after = before.clone()
    after[0, 1] = after[1, 0] = 0.25
    own = torch.tensor([[0, 0.6], [0.6, 0]])
    differences = dict(ancestry=own, start=before, trained=after)
    return {f"{stage}.{layer}.differences": d for stage, d in differences.items() for layer in ("first", "last")}


def test_copies_are_what_was_equal_at_the_start():
    apart = copies_apart(seen())
    copies = apart["copies of one head"].loc["first"]
    assert (
        copies["just inherited"] == 0 and copies["trained"] == pytest.approx(25) and pd.isna(copies["ancestry's own"])
    )
    assert apart["different heads"].loc["last", "ancestry's own"] == pytest.approx(60)
    assert "from 0 to 25.0 % of their attention" in describe_copies(apart)


def test_a_layer_without_copies_is_an_error():
    broken = seen()
    broken["start.last.differences"] = broken["start.last.differences"] + 1
    with pytest.raises(AssertionError, match="the last layer has no copies"):
        copies_apart(broken)


def test_heads_of_a_model():
    from learngene import load_ancestry

    seen = look_at_heads(load_ancestry("vit_nano_p2_8.digits"), torch.randn(2, 1, 8, 8))
    assert {name: tuple(t.shape) for name, t in seen.items()} == {
        "first.map": (8, 17, 17),
        "first.differences": (8, 8),
        "last.map": (8, 17, 17),
        "last.differences": (8, 8),
    }
