"Every notebook runs from top to bottom; paper notebooks at the smoke profile, from runs and then from records."

import json
import os
from pathlib import Path

import pytest

from learngene.app.notebooks import check_parameters, notebooks, parameters_of, run_notebook
from learngene.app.queue import sweeps_of
from learngene.recipe import Sweep

pytest.importorskip("nbformat", reason="the notebook tools are not installed")
warm = pytest.importorskip("warm")
ROOT = Path(__file__).parents[1]
ALL = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
TEACHING = [p for p in ALL if p.parent.name != "paper"]
PAPER = [p for p in ALL if p.parent.name == "paper"]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", TEACHING, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path):
    executed = warm.execute(path, environment={"LEARNGENE_HOME": str(tmp_path)})
    if path.stem == "index":
        assert shown(executed) == shown(read(path)), "README's numbers differ; run nbs/index.ipynb and `make sync`"


def shown(notebook):
    "The tables and sentences that the README shows, without pictures."
    outputs = [o for c in notebook["cells"] if "".join(c["source"]).startswith("#| echo: false") for o in c["outputs"]]
    texts = [o["data"].get("text/markdown") or o["data"]["text/plain"] for o in outputs if "data" in o]
    pictures = ["image/png" in o["data"] for o in outputs if "data" in o]
    return ["".join(text) for text, is_picture in zip(texts, pictures) if not is_picture]


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_committed_outputs(path):
    cells = [c for c in read(path)["cells"] if c["cell_type"] == "code"]
    outputs = [o for c in cells for o in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"], "a warning names files of the machine that ran it"
    assert not [c for c in cells if "execution" in c["metadata"]]
    assert outputs or path.parent.name in ("paper", "methods"), "a notebook shows what its cells give; run it"


@pytest.mark.parametrize("profile, sweep", [(p, sweep) for p in ("digits", "pico") for sweep in sweeps_of(p)])
def test_every_run_of_a_profile_is_on_record(profile, sweep):
    records = (ROOT / "results" / profile / "records").glob("*.json")
    keys = {path.stem.rsplit("-", 1)[-1] for path in records}
    assert not [recipe.name for _, recipe in Sweep.load(f"{profile}/{sweep}").cells() if recipe.key not in keys]


def sweeps_by_notebook():
    return {
        name: [value for key, value in parameters_of(path).items() if key.startswith("sweep")]
        for name, path in notebooks().items()
    }


@pytest.mark.parametrize("profile", ["digits", "small", "paper"])
def test_a_profile_states_every_table(profile):
    sweeps = sum(sweeps_by_notebook().values(), [])
    assert len(sweeps) > 10
    for sweep in sweeps:
        stated = Sweep.load(f"{profile}/{sweep}")
        seeds = 1 if stated.base["train"].get("epochs") == 0 or sweep == "figure6" else 3
        assert len(stated.seeds) >= seeds, f"{profile}/{sweep} has {len(stated.seeds)} seeds"
        if sweep.startswith(("table", "figure")):
            methods = list(Sweep.load(f"digits/{sweep}").vary["method"])
            assert list(stated.vary["method"]) == methods, (
                f"{profile}/{sweep}: the rows have other names than on digits"
            )


@pytest.mark.xdist_group("paper")
def test_paper_notebooks_run_and_then_render_from_records(tmp_path):
    parameters = dict(profile="smoke", fresh=False, workers=1, results=str(tmp_path))
    results, environment = tmp_path / "smoke", {"LEARNGENE_HOME": str(tmp_path / "home")}
    for path in notebooks().values():
        check_parameters(path, parameters)
        warm.execute(path, parameters, environment)

    records, sweeps = sorted((results / "local").rglob("*.json")), sweeps_by_notebook()
    cells = [cell for sweep in sum(sweeps.values(), []) for cell in Sweep.load(f"smoke/{sweep}").cells()]
    assert {record.stem.rsplit("-", 1)[-1] for record in records} == {recipe.key for _, recipe in cells}
    for record in records:  # a modified tree sets its records aside: let them count, where tables look
        values = read(record)
        values["run_info"]["code"]["clean"] = True
        record.write_text(json.dumps(values))
        for file in record.parent.glob(f"{record.stem}.*"):  # with what was observed of the trained model
            os.replace(file, results / "local" / file.name)
    assert {p.stem for p in (results / "tables").glob("*.json")} == set(notebooks())

    tables = {p.name: p.read_bytes() for p in (results / "tables").glob("*.csv")}
    for name in (name for name, shown_sweeps in sweeps.items() if shown_sweeps):
        executed = warm.execute(notebooks()[name], parameters, environment)
        assert "have no record yet" not in json.dumps([c.get("outputs") for c in executed["cells"]])
    again = {p.name: p.read_bytes() for p in (results / "tables").glob("*.csv")}
    assert again == tables, "tables from records differ from tables from runs"


def test_a_paper_notebook_runs_with_papermill(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    parameters = dict(profile="smoke", fresh=False, workers=1, results=str(tmp_path))
    run_notebook(notebooks()["figure2"], tmp_path / "out.ipynb", parameters)
    assert (tmp_path / "smoke/tables/figure2.json").is_file()
    assert any("injected-parameters" in c["metadata"].get("tags", []) for c in read(tmp_path / "out.ipynb")["cells"])


# --- parameters that papermill injects


@pytest.mark.parametrize("path", PAPER, ids=lambda p: p.stem)
def test_a_paper_notebook_checks_what_papermill_injects(path):
    "Papermill warns of a parameter that it does not find, runs the defaults, and exits with 0."
    code = [c for c in read(path)["cells"] if c["cell_type"] == "code"]
    tagged = next(i for i, c in enumerate(code) if "parameters" in c["metadata"].get("tags", []))
    assert "".join(code[tagged + 1]["source"]).splitlines()[-1] == "check_injected()"


DECLARED = 'profile = "digits"  # folder\nfresh = False\nworkers = 0\nresults = ""'


@pytest.mark.parametrize(
    "cells, says",
    [
        (["", DECLARED, "check"], None),  # interactive
        (["", "1 + 1", DECLARED, "import x", "check"], None),
        (["check"], None),
        (["", DECLARED, '# Parameters\nprofile = "pico"\nworkers = 2\n', "check"], None),
        (["", DECLARED, '# Parameters\nprofil = "pico"\n', "check"], "no parameter 'profil' .did you mean 'profile'"),
        (["", DECLARED, '# Parameters\nnonsense = 1\n', "check"], "has no parameter 'nonsense'; it has profile, fresh"),
        (["", DECLARED, '# Parameters\nworkers = "2"\n', "check"], "workers is '2', wanted int, as in workers=0"),
        (["", DECLARED, "# Parameters\nfresh = 1\n", "check"], "fresh is 1, wanted bool"),
        (["", DECLARED, "# Parameters\nfresh = None\n", "check"], "fresh is None, wanted bool"),
        (["", DECLARED, "# Parameters\nfresh = float('nan')\n", "check"], "nothing but NAME = literal"),
    ],
)
def test_injected_parameters(monkeypatch, cells, says):
    import builtins
    from types import SimpleNamespace

    from learngene.parameters import check_injected

    check_injected()  # no IPython at all
    monkeypatch.setattr(builtins, "get_ipython", lambda: SimpleNamespace(user_ns=dict(In=cells)), raising=False)
    if says is None:
        return check_injected()
    with pytest.raises(ValueError, match=says):
        check_injected()


def test_papermill_itself_does_not_make_another_table(tmp_path):
    import subprocess
    import sys

    path = notebooks()["figure2"]
    command = [sys.executable, "-m", "papermill", path, tmp_path / "out.ipynb", "-p", "profil", "pico"]
    done = subprocess.run([*command, "--cwd", path.parent], capture_output=True, text=True)
    assert done.returncode != 0 and "this notebook has no parameter 'profil' (did you mean 'profile'?)" in done.stderr
