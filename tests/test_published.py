"What the README shows: committed records only, and sentences that count what the table says."

import matplotlib.figure
import pandas as pd
import pytest

from learngene.published import committed, describe_rows, draw_sizes, judge_rows, records_of, sizes, to_markdown


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


def test_rows_are_judged_together():
    def frame(**accuracies):
        rows = [dict(method=m, seed=s, images="all", accuracy=a) for m, values in accuracies.items()
                for s, a in enumerate(values)]
        return pd.DataFrame(rows)

    clear = frame(learngene=[0.90, 0.91, 0.92, 0.93], scratch=[0.80, 0.81, 0.82, 0.8301])
    small = frame(learngene=[0.90, 0.91, 0.92, 0.93], scratch=[0.90, 0.90, 0.90, 0.90])  # p = 0.06
    judged = judge_rows({"x": clear, "y": small}, "learngene")
    assert {pair: c["verdict"] for pair, c in judged.items()} == {
        ("x", "scratch"): "holds",
        ("y", "scratch"): "undecided",
    }
    border = frame(learngene=[0.90, 0.91, 0.92, 0.93], scratch=[0.89, 0.89, 0.89, 0.89])  # p = 0.03: clear when alone
    assert judge_rows({"x": border}, "learngene")["x", "scratch"]["verdict"] == "holds"
    assert judge_rows({"x": border, "y": small}, "learngene")["x", "scratch"]["verdict"] == "undecided"
    assert describe_rows(judged, "learngene") == (
        "That learngene beats a row, seed by seed and corrected for all 2 verdicts together "
        "(mean difference in points). x: holds for scratch (+10.0). y: undecided for scratch (+1.5)."
    )


def test_markdown():
    assert (
        to_markdown(pd.DataFrame({"x": ["1"], "y": ["2"]}, index=["r"]))
        == "|  | x | y |\n| --- | --- | --- |\n| r | 1 | 2 |"
    )
