"""What is on record: all runs of a sweep or none, in a profile or in the first that has them."""
import pytest

from learngene.evidence import describe_effect, first_on_record, mean_effect, runs_on_record, stores_of
from learngene.tables import Results, against, to_frame


def test_runs_on_record_are_all_or_none(tmp_path):
    cells, records = runs_on_record(Results("digits"), "table8")
    assert len(cells) == len(records) > 0
    assert runs_on_record(Results("pico"), "table8") == ([], []), "pico has no such sweep"
    assert runs_on_record(Results("digits", tmp_path, fresh=True), "table8") == ([], []), "its runs are not made yet"


def test_the_first_profile_that_has_all_runs(tmp_path):
    stores = stores_of("smoke", tmp_path)
    assert list(stores) == ["smoke", "digits", "pico"] and list(stores_of("pico")) == ["pico", "digits"]
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
    assert (effect["profile"], effect["verdict"]) == ("pico", "better")
    shapes = mean_effect(stores, "table1", "cluster-learngene", ["from-scratch"])
    assert (shapes["profile"], shapes["comparisons"]) == ("digits", 12), "a column is a shape there"
    assert mean_effect(stores, "table2", "cluster-learngene", ["no such row"]) is None


def test_describe_effect():
    effect = dict(difference=1.25, low=-0.5, high=3.0, n=5, comparisons=1, profile="digits")
    effect["verdict"] = "no clear difference"
    assert describe_effect(effect) == "no clear difference, +1.2 points [-0.5, +3.0] (digits: 5 seeds, 1 comparison)"
    assert describe_effect(None).startswith("not measured")
