"""Every lesson runs from top to bottom, and so does every paper notebook, at the smoke profile, from runs and from records."""
import json
import os
from pathlib import Path

import pytest

from learngene.app.notebooks import notebooks, parameters_of, run_notebook
from learngene.app.queue import sweeps_of
from learngene.recipe import Sweep

nbformat = pytest.importorskip("nbformat", reason="the notebook tools are not installed")
NotebookClient = pytest.importorskip("nbclient").NotebookClient
ROOT = Path(__file__).parents[1]
LESSONS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if p.parent.name != "paper" and ".ipynb_checkpoints" not in p.parts)


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_lesson(path, tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path))
    nb = nbformat.read(path, as_version=4)
    NotebookClient(nb, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    if path.stem == "index":
        assert published(nb) == published(nbformat.read(path, as_version=4)), "README numbers differ from the committed records; run nbs/index.ipynb and `make sync`"


def published(nb):
    "The tables and sentences that the README shows, without pictures."
    outputs = [o for c in nb.cells if c.source.startswith("#| echo: false") for o in c.outputs if "data" in o]
    return [o["data"].get("text/markdown") or o["data"]["text/plain"] for o in outputs if "image/png" not in o["data"]]


@pytest.mark.parametrize("path", sorted((ROOT / "nbs").rglob("*.ipynb")), ids=lambda p: p.stem)
def test_committed_outputs(path):
    nb = nbformat.read(path, as_version=4)
    outputs = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"] and not [c for c in nb.cells if "execution" in c.metadata]
    assert outputs or path.parent.name in ("paper", "methods"), "a lesson shows what its cells give; run it"


@pytest.mark.parametrize("profile, sweep", [(profile, sweep) for profile in ("digits", "pico") for sweep in sweeps_of(profile)])
def test_every_run_of_a_profile_is_on_record(profile, sweep):
    there = {path.stem.rsplit("-", 1)[-1] for path in (ROOT / "results" / profile / "records").glob("*.json")}
    assert not [recipe.name for _, recipe in Sweep.load(f"{profile}/{sweep}").cells() if recipe.key not in there]


@pytest.mark.parametrize("profile", ["digits", "small", "paper"])
def test_a_profile_states_every_table(profile):
    sweeps = [v for path in notebooks().values() for k, v in parameters_of(path).items() if k.startswith("sweep")]
    assert len(sweeps) > 10
    for sweep in sweeps:
        stated = Sweep.load(f"{profile}/{sweep}")
        assert len(stated.seeds) >= (1 if stated.base["train"].get("epochs") == 0 or sweep == "figure6" else 3), f"{profile}/{sweep} has {len(stated.seeds)} seeds"
        if sweep.startswith(("table", "figure")):
            assert list(stated.vary["method"]) == list(Sweep.load(f"digits/{sweep}").vary["method"]), f"{profile}/{sweep}: the rows have other names than on digits"


@pytest.mark.xdist_group("paper")
def test_paper_notebooks_run_and_then_render_from_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    parameters = dict(profile="smoke", fresh=False, workers=1, results=str(tmp_path))
    for name, path in notebooks().items():
        run_notebook(path, tmp_path / "out" / f"{name}.ipynb", parameters)
    records = sorted((tmp_path / "smoke" / "local").rglob("*.json"))
    sweeps = {name: [v for k, v in parameters_of(path).items() if k.startswith("sweep")] for name, path in notebooks().items()}
    wanted = {recipe.key for sweep in sum(sweeps.values(), []) for _, recipe in Sweep.load(f"smoke/{sweep}").cells()}
    assert {record.stem.rsplit("-", 1)[-1] for record in records} == wanted
    for record in records:  # a modified tree sets its records aside; put them where tables look, to render from them
        for file in record.parent.glob(f"{record.stem}.*"):  # and what was looked at, beside it
            os.replace(file, tmp_path / "smoke" / "local" / file.name)
    cards = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "smoke" / "tables").glob("*.json")}
    assert set(cards) == set(notebooks())
    tables = {p.name: p.read_bytes() for p in (tmp_path / "smoke" / "tables").glob("*.csv")}
    capsys.readouterr()
    for name in (name for name, wants in sweeps.items() if wants):
        run_notebook(notebooks()[name], tmp_path / "again" / f"{name}.ipynb", parameters)
    assert "have no record yet" not in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in (tmp_path / "smoke" / "tables").glob("*.csv")} == tables, "tables from records differ from tables from runs"
