"""The rows of related.csv: each has its source, and each method of the library its row."""
from pathlib import Path

import pandas as pd

import learngene as lg

ROOT = Path(__file__).parents[1]
ROWS = pd.read_csv(ROOT / "results/paper/related.csv", dtype=str, keep_default_na=False)


def test_no_cell_is_empty_but_where_nothing_can_stand_in_it():
    assert (ROWS.drop(columns=["year", "notebook"]) != "").all(axis=None)
    assert list(ROWS.system[ROWS.year == ""]) == ["From-Scratch", "Pretraining-Finetuning"]
    assert ROWS.system.is_unique


def test_every_row_says_what_it_rests_on():
    assert set(ROWS.rests_on) <= {"code", "text and code", "abstract", "notes", "inferred"}
    assert ROWS.year[ROWS.year != ""].str.fullmatch(r"20\d\d").all()


def test_a_system_that_is_here_names_registered_methods_and_their_notebook():
    here = ROWS[ROWS.here != "not yet"]
    assert set(here.here.str.split("; ").explode()) == set(lg.methods.names())
    assert all((ROOT / "nbs" / f"{name}.ipynb").is_file() for name in here.notebook)
    assert (ROWS.notebook[ROWS.here == "not yet"] == "").all()
