"What the README shows: committed records only, and sentences that count what the table says."

import matplotlib.figure
import pandas as pd
import pytest

from learngene.published import committed, count_verdicts, draw_sizes, records_of, sizes, to_markdown


def test_your_own_records_are_left_out(tmp_path, monkeypatch):
    folder = tmp_path / "digits"
    (folder / "local").mkdir(parents=True)
    (folder / "local" / "x-s0-abc.json").write_text("not read")
    monkeypatch.setattr("learngene.published.Results", lambda profile: type("R", (), {"folder": tmp_path / profile}))
    assert committed("digits").find("abc") is None


def test_every_cell_has_its_record():
    cells, records = records_of("pico", "table2")
    assert [recipe.key for _, recipe in cells] == [record["run_info"]["key"] for record in records]


@pytest.mark.parametrize("profile", ["digits", "small"])
def test_sizes_are_shares_of_the_ancestry(profile):
    frame = sizes(profile)
    assert frame.kind[0] == "ancestry" and frame.params_share[0] == frame.accuracy_share[0] == 1
    assert set(frame.kind) == {"ancestry", "budget", "first layers"} and (frame.params_share <= 1).all()
    half = next(r for (labels, _), r in zip(*records_of(profile, "pareto")) if labels["point"] == "budget, params 0.5")
    row = frame[frame.params == half["meta_info"]["params"]].iloc[0]
    assert row.accuracy == half["train_info"]["history"][0]["val_accuracy"] and 0.49 < row.params_share <= 0.5


def test_the_picture_names_every_line():
    ax = draw_sizes({"digits": "digits"}, matplotlib.figure.Figure().subplots())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["digits, budget", "digits, first layers"]


def test_verdicts_are_counted():
    def effect(method, difference, p):
        return dict(images="x", method=method, difference=difference, low=0, high=0, p=p, n=3)

    effects = pd.DataFrame([effect("a", 1, 0.01), effect("a", 2, 0.5), effect("a", 1, 0.02), effect("b", -1, 0.01)])
    assert count_verdicts(effects, "ours") == (
        "ours, compared seed by seed (95 % intervals) with a: better in 2, "
        "no clear difference in 1 of 3; b: worse in 1 of 1."
    )


def test_markdown():
    assert (
        to_markdown(pd.DataFrame({"x": ["1"], "y": ["2"]}, index=["r"]))
        == "|  | x | y |\n| --- | --- | --- |\n| r | 1 | 2 |"
    )
