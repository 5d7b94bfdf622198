"""What is on record: all runs of a sweep or none, in a profile or in the first that has them."""
import pandas as pd
import pytest

from learngene.evidence import (
    compare_pairs, describe_effect, describe_pairs, first_on_record, mean_effect, runs_on_record, short_effect,
    stores_of)
from learngene.tables import Results, against, to_frame


def test_runs_on_record_are_all_or_none(tmp_path):
    cells, records = runs_on_record(Results("digits"), "table8")
    assert len(cells) == len(records) > 0
    assert runs_on_record(Results("pico"), "table8") == ([], []), "pico has no such sweep"
    assert runs_on_record(Results("digits", tmp_path, fresh=True), "table8") == ([], []), "its runs are not made yet"


def test_the_first_profile_that_has_all_runs(tmp_path):
    stores = stores_of("smoke", tmp_path)
    assert list(stores) == ["smoke", "digits", "pico"] and list(stores_of("pico")) == ["pico", "digits"]
    assert list(stores_of("pico", fresh=True)) == ["pico", "digits", "pico (committed)"]
    assert stores["smoke"].folder == tmp_path / "smoke" and stores["pico"].folder == Results("pico").folder
    assert first_on_record(stores, "table8")[0] == "digits"
    assert first_on_record({"pico": stores["pico"]}, "table8") == (None, [], [])
    assert first_on_record(stores, "table8", ["cluster-learngene"]) == (None, [], []), "the sweep has no such row"


def test_mean_effect_is_the_mean_over_columns():
    stores = stores_of("pico")
    effect = mean_effect(stores, "table2", "cluster-learngene", ["from-scratch"])
    rows = against(to_frame(*runs_on_record(stores["pico"], "table2")), "cluster-learngene")
    rows = rows[rows.method == "from-scratch"]
    assert effect["difference"] == pytest.approx(rows.difference.mean()) and effect["comparisons"] == len(rows) == 3
    assert effect["profile"] == "pico" and effect["low"] > 0 and "verdict" not in effect
    shapes = mean_effect(stores, "table1", "cluster-learngene", ["from-scratch"])
    assert (shapes["profile"], shapes["comparisons"]) == ("digits", 12), "a column is a shape there"
    assert mean_effect(stores, "table2", "cluster-learngene", ["no such row"]) is None


def test_describe_effect():
    effect = dict(difference=1.25, low=-0.5, high=3.0, p=0.125, n=5, comparisons=1, profile="digits")
    assert describe_effect(effect) == "+1.2 points [-0.5, +3.0], p = 0.12 (digits: 5 seeds, 1 comparison)"
    assert describe_effect(None).startswith("not measured")
    assert describe_effect(effect | dict(low=1.25, high=1.25)).startswith("+1.2 points (digits")


def test_pairs_are_compared_at_every_moment():
    late = pd.DataFrame(dict(method=["a", "a", "b", "b"], seed=[0, 1, 0, 1], accuracy=[0.5, 0.6, 0.4, 0.4]))
    early = late.assign(accuracy=[0.5, 0.5, 0.4, 0.4])
    pairs = [(1, "a minus b", "a", "b"), ("all", "b minus a", "b", "a")]
    effects = compare_pairs({"early": early, "late": late}, pairs)
    assert list(effects.when) == ["early", "early", "late", "late"] and list(effects.group) == [1, "all", 1, "all"]
    assert effects.difference.tolist() == pytest.approx([10, -10, 15, -15])
    assert short_effect(effects.iloc[0]) == "+10.0", "the same difference at every seed has no interval"
    assert describe_pairs(effects, 1) == f"a minus b: +10.0 early, {short_effect(effects.iloc[2])} late"
