"The command line: what it lists, what it refuses in one line, and that parameters arrive."

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from _ddp_worker import recipe, saved_vit
from records import make_record

import learngene as lg
from learngene.app import cli
from learngene.app.notebooks import check_parameters, run_notebook
from learngene.files import write_atomic
from learngene.ledger import file_name

nbformat = pytest.importorskip("nbformat", reason="the notebook tools are not installed")
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))


def fails(capsys, *args):
    "Run a command that fails; return its one line."
    with pytest.raises(SystemExit) as e:
        cli.main([str(a) for a in args])
    text = str(e.value)
    assert text.startswith("learngene: ") and "\n" not in text.strip(), text
    assert "Traceback" not in capsys.readouterr().err
    return text


def works(capsys, *args):
    cli.main([str(a) for a in args])
    return capsys.readouterr().out


def notebook(path, cells, tags=("parameters",)):
    "Write a notebook of code cells; the first is tagged."
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c) for c in cells],
        metadata=dict(kernelspec=dict(name="python3", display_name="Python 3", language="python")),
    )
    if tags:
        nb.cells[0].metadata.tags = list(tags)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


PARAMETERS = 'profile = "digits"  # which\nfresh = False\nworkers = 0\nresults = ""\nlr = 0.5\nnames = []'


# publish a card of the given name and text, by hand: most kernels need not import the library
PUBLISH = """
import json
from pathlib import Path
tables = Path(results or '../../results', profile, 'tables')
tables.mkdir(parents=True, exist_ok=True)
card = dict(name='{0}', title='{0}: it', caption='c', text={1}, alt='', notes=[], table=None, figure=None, records={{}})
size = Path(tables, '{0}.json').write_text(json.dumps(card))
"""

PUBLISH_A_TABLE = """
from learngene.tables import Results
import pandas as pd
Results(profile, results, fresh).publish('{0}', '{0}: it', 'c', f'workers {{workers}}', pd.DataFrame(dict(a=[1])))
"""

WAIT = """
import os, time
from pathlib import Path
Path(results, 'ME').touch()
for _ in range(600):
    if Path(results, 'OTHER').exists(): break
    time.sleep(0.1)
else: raise TimeoutError
"""


# --- from outside


def test_from_outside(tmp_path):
    def command(*args, cwd=tmp_path):
        return subprocess.run(
            [sys.executable, "-m", "learngene", *args],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=os.environ | dict(COLUMNS="200"),
        )

    done = command("--help")
    assert (
        done.returncode == 0
        and all(word in done.stdout for word in ("run", "train", "report", "commit", "list"))
        and done.stderr == ""
    )
    done = command("run", "tabel2")
    assert (
        (done.returncode, done.stdout) == (1, "")
        and done.stderr.startswith("learngene: there is no table 'tabel2' (did you mean 'table2'?)")
        and done.stderr.count("\n") == 1
    )
    assert command().returncode == 2
    assert (Path(sys.executable).parent / "learngene").exists(), "the console script"


@pytest.mark.parametrize(
    "command",
    [[], ["run"], ["train"], ["sweep"], ["report"], ["commit"], ["ledger"], ["data"], ["distances"], ["list"]],
)
def test_help(capsys, command):
    assert "Usage: learngene" in works(capsys, *command, "--help")


def test_list(capsys):
    out = works(capsys, "list")
    for word in (
        "table2",
        "figure1c",
        "digits",
        "cluster-learngene",
        "from-scratch",
        "pretraining-finetuning",
        "cifar100",
        "vit_nano_p2_8.digits",
    ):
        assert word in out
    assert out.splitlines()[0].startswith("tables and figures: figure1c")


# --- what is refused


@pytest.mark.parametrize(
    "args, message",
    [
        (["run", "tabel2"], "did you mean 'table2'"),
        (["run", "zzzzzzzz"], "there are figure1c"),
        (["run", "al"], "did you mean 'all'"),
        (["run", "table2", "--profile", "digit"], "there is no profile 'digit' (did you mean 'digits'?)"),
        (["run", "table2", "--set", "epohcs=1"], "no parameter 'epohcs'"),
        (["run", "table2", "--set", "frech=true"], "did you mean 'fresh'"),
        (["run", "table2", "--set", "workers=2"], "workers has an option of its own: --workers"),
        (["run", "table2", "--set", "fresh"], "--set wants NAME=VALUE, not 'fresh'"),
        (["train", "digits/ancestri"], "did you mean 'digits/ancestry'"),
        (["train", "absent.yaml"], "there is no recipe 'absent.yaml'"),
    ],
)
def test_refused_in_one_line(capsys, args, message):
    assert message in fails(capsys, *args)


def test_refused_before_anything_is_written(capsys, tmp_path):
    fails(capsys, "run", "all", "--results", tmp_path / "out", "--set", "nope=1")
    assert not (tmp_path / "out").exists()


def test_report_without_results(capsys, tmp_path):
    assert "has no tables or figures yet" in fails(capsys, "report", "--page-only", "--results", tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("name: x\nancestry: y\ntrian: {}\n", "did you mean 'train'"),
        ("- a\n", "wanted a mapping"),
        pytest.param("a: [1\n", "is not YAML"),
    ],
)
def test_bad_recipe_files(capsys, tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    assert message in fails(capsys, "train", tmp_path / "r.yaml")


def test_a_diverging_run(capsys, tmp_path):
    file = recipe(train=dict(lr=1e30, warmup_epochs=0)).save(tmp_path / "r.yaml")
    assert "lower train.lr" in fails(capsys, "train", file, "--results", tmp_path / "led")
    assert not (tmp_path / "led").exists()


def test_a_value_that_is_no_yaml(capsys):
    fails(capsys, "run", "table2", "--set", "profile=[1")


def test_a_parameter_with_an_option_of_its_own(capsys, tmp_path):
    "--set profile=smoke would run one profile and report another."
    fails(capsys, "run", "table2", "--dry-run", "--set", "profile=smoke", "--results", tmp_path)


def test_commit_of_an_unknown_profile(capsys, tmp_path):
    assert "did you mean 'digits'" in fails(capsys, "commit", "--profile", "digitz", "--results", tmp_path)
    assert not list(tmp_path.glob("digitz"))


def raises(error):
    "A function that raises an error."

    def function(*args, **kwargs):
        raise error

    return function


def test_interruption(monkeypatch, capsys):
    monkeypatch.setattr(lg.methods, "names", raises(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as e:
        cli.main(["list"])
    message = capsys.readouterr().err
    assert e.value.code == 130 and "interrupted" in message and "resumes" in message


def test_version(capsys):
    assert works(capsys, "--version") == f"learngene {lg.__version__}\n"


def test_wrong_calls_exit_with_2(capsys):
    for call in (
        [],
        ["run"],
        ["nonsense"],
        ["run", "table2", "--workers", "many"],
        ["train", "x", "--engine", "steam"],
    ):
        with pytest.raises(SystemExit) as e:
            cli.main(call)
        assert e.value.code == 2, call


# --- parameters


def test_parameters_are_checked(tmp_path):
    path = notebook(tmp_path / "n.ipynb", [PARAMETERS, "profile"])
    check_parameters(path, {})
    check_parameters(path, dict(profile="x", fresh=True, workers=-1, lr=1.5, names=[1]))
    for given, message in [
        (dict(worker=1), "no parameter 'worker' (did you mean 'workers'?); it has profile, fresh"),
        (dict(fresh=1), "fresh is 1, wanted bool, as in fresh=False"),
        (dict(workers=True), "wanted int"),
        (dict(workers="1"), "wanted int"),
        (dict(profile=None), "wanted str"),
        (dict(lr=1), "wanted float"),
        (dict(names=()), "wanted list"),
    ]:
        with pytest.raises(ValueError) as e:
            check_parameters(path, given)
        assert message in str(e.value)


def test_exactly_one_tagged_cell(tmp_path):
    with pytest.raises(ValueError, match="0 cells tagged 'parameters'"):
        check_parameters(notebook(tmp_path / "none.ipynb", [PARAMETERS], tags=()), {})
    path = notebook(tmp_path / "two.ipynb", [PARAMETERS, "x = 1"])
    nb = nbformat.read(path, 4)
    nb.cells[1].metadata.tags = ["parameters"]
    nbformat.write(nb, path)
    with pytest.raises(ValueError, match="2 cells tagged 'parameters'"):
        check_parameters(path, {})


@pytest.mark.parametrize(
    "source", ["import os", "a = 1 + x", "a = len([])", "a =", "a.b = 1", "print(1)", "a, b = 1, 2"]
)
def test_parameters_are_literals(tmp_path, source):
    with pytest.raises(ValueError, match="nothing but NAME = literal"):
        check_parameters(notebook(tmp_path / "n.ipynb", [source]), {})


def test_run_notebook_passes_parameters(tmp_path, capsys):
    path = notebook(
        tmp_path / "in" / "n.ipynb",
        [
            PARAMETERS,
            "print('got', profile, fresh, workers, results, lr)",
            "from pathlib import Path\nassert Path('n.ipynb').exists()",
        ],
    )
    before = path.read_bytes()
    with pytest.raises(ValueError, match="did you mean 'workers'"):
        run_notebook(path, tmp_path / "out" / "n.ipynb", dict(workerz=3))
    assert not (tmp_path / "out").exists()
    run_notebook(path, tmp_path / "out" / "n.ipynb", dict(profile="other", fresh=True, workers=3, results="a b'c"))
    out = capsys.readouterr().out
    assert "got other True 3 a b'c 0.5" in out
    assert path.read_bytes() == before
    executed = nbformat.read(tmp_path / "out" / "n.ipynb", 4)
    assert any("injected-parameters" in c.metadata.get("tags", []) for c in executed.cells)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "A folder that looks like a checkout, with two quick notebooks."
    root = tmp_path / "checkout"
    four = PARAMETERS.split("\nlr")[0]
    root.mkdir()
    shutil.copy(ROOT / "settings.ini", root)
    for name in ("figure1c", "table2"):
        notebook(root / "nbs" / "paper" / f"{name}.ipynb", [four, PUBLISH.format(name, "f'workers {workers}'")])
    monkeypatch.chdir(root)
    return root


def test_run_all_in_a_checkout(checkout, capsys):
    four = PARAMETERS.split("\nlr")[0]
    notebook(checkout / "nbs" / "paper" / "table2.ipynb", [four, PUBLISH_A_TABLE.format("table2")])
    out = works(capsys, "run", "all", "--workers", "3")
    assert "(1/2) figure1c" in out and "(2/2) table2" in out and "report.html" in out
    made = sorted(
        p.relative_to(checkout / "results/digits").as_posix() for p in (checkout / "results").rglob("*") if p.is_file()
    )
    assert made == [
        "notebooks/figure1c.ipynb",
        "notebooks/table2.ipynb",
        "report.html",
        "tables/figure1c.json",
        "tables/table2.csv",
        "tables/table2.json",
    ]
    assert "workers 3" in (checkout / "results/digits/report.html").read_text()


@pytest.mark.parametrize(
    "given, fresh", [([], []), (["--fresh"], ["figure1c", "table2"]), (["--fresh", "table2"], ["table2"])], ids=str
)
def test_fresh_for_some_tables(checkout, capsys, given, fresh):
    for name in ("figure1c", "table2"):
        notebook(
            checkout / "nbs" / "paper" / f"{name}.ipynb",
            [
                PARAMETERS.split("\nlr")[0],
                PUBLISH.format(name, "f'fresh is {fresh}'"),
            ],
        )
    works(capsys, "run", "all", *given)
    said = {p.stem: json.loads(p.read_text())["text"] for p in (checkout / "results/digits/tables").glob("*.json")}
    assert said == {name: f"fresh is {name in fresh}" for name in ("figure1c", "table2")}


def test_fresh_for_a_table_that_is_not_there(checkout, capsys):
    assert "no table 'tabel2' (did you mean 'table2'?)" in fails(capsys, "run", "all", "--fresh", "tabel2")
    assert "it stands alone" in fails(capsys, "run", "all", "--dry-run", "--fresh", "table2")


def test_complete_notebooks_run_side_by_side_and_keep_their_output_together(checkout, capsys):
    four = PARAMETERS.split("\nlr")[0]
    for name, other in (("figure1c", "table2"), ("table2", "figure1c")):  # each waits for a sign of the other
        wait = WAIT.replace("ME", name).replace("OTHER", other)
        say = f"for i in range(3): print('{name} says', i, os.environ.get('LEARNGENE_REPLAY'))\n"
        say += PUBLISH.format(name, "''")
        notebook(checkout / "nbs" / "paper" / f"{name}.ipynb", [four, wait, say])
    (checkout / "out").mkdir()
    out = works(capsys, "run", "all", "--workers", "2", "--results", "out")
    words = [line.strip() for line in out.splitlines()[:8]]
    assert words == [
        f"{said}"
        for i, name in enumerate(("figure1c", "table2"), 1)
        for said in (f"({i}/2) {name}", *(f"{name} says {k} 1" for k in range(3)))
    ]


TRAINS = """
import os
from learngene.running import NotRun, replay
from learngene.tables import Results
if replay(): raise NotRun('1 of 2 runs have records; missing: b, seed 0.')
Results(profile, results).publish('table2', 'Table 2', 'c')
print('trained')
"""


def test_a_notebook_that_lacks_records_runs_after_the_replay(checkout, capsys):
    lacks = "import os\nclass NotRun(RuntimeError): pass\nif os.environ.get('LEARNGENE_REPLAY'): raise NotRun('b')\n"
    trains = lacks + PUBLISH.format("table2", "''") + "print('trained')"
    notebook(checkout / "nbs" / "paper" / "table2.ipynb", [PARAMETERS.split("\nlr")[0], trains])
    out = works(capsys, "run", "all")
    assert out.index("(1/2) figure1c") < out.index("(2/2) table2") < out.index("trained") < out.index("report.html")


def test_one_failing_notebook_of_several(checkout, capsys):
    notebook(
        checkout / "nbs" / "paper" / "figure1c.ipynb", [PARAMETERS.split("\nlr")[0], "raise KeyError('the reason')"]
    )
    assert "the reason" in fails(capsys, "run", "all")
    assert (checkout / "results/digits/tables/table2.json").is_file(), "the others are made all the same"


def test_a_report_is_made_from_records_alone(checkout, capsys):
    nb = notebook(checkout / "nbs" / "paper" / "table2.ipynb", [PARAMETERS.split("\nlr")[0], TRAINS])
    text = json.loads(nb.read_text())
    text["cells"].insert(
        0, dict(cell_type="markdown", id="title", metadata={}, source=["# Table 2: three ways\n", "\n", "more"])
    )
    nb.write_text(json.dumps(text))
    out = works(capsys, "report")
    assert "figure1c" in out and "table2: not yet run" in out and "trained" not in out
    page = (checkout / "results/digits/report.html").read_text()
    assert (
        "not yet run: 1 of 2 runs have records; missing: b, seed 0." in page
        and "Table 2: three ways" in page
        and "figure1c: it" in page
    )
    (checkout / "results/digits/report.html").unlink()
    works(capsys, "report", "--page-only")
    assert (checkout / "results/digits/report.html").read_text().count("not yet run") == 1


def test_a_report_lists_missing_recipes(checkout, capsys):
    notebook(
        checkout / "nbs" / "paper" / "table2.ipynb",
        [PARAMETERS.split("\nlr")[0], "import learngene as lg\nlg.Sweep.load('small/absent')"],
    )
    works(capsys, "report", "--profile", "small")
    assert ": no recipe in this profile." in (checkout / "results/small/report.html").read_text()


def test_a_report_shows_the_error_of_a_notebook(checkout, capsys):
    notebook(checkout / "nbs" / "paper" / "table2.ipynb", [PARAMETERS.split("\nlr")[0], "1 / 0"])
    assert "ZeroDivisionError" in fails(capsys, "report")
    assert "figure1c: it" in (checkout / "results/digits/report.html").read_text()


def test_distances(capsys, tmp_path):
    works(
        capsys,
        "train",
        recipe(train=dict(epochs=1), data=dict(val_fraction=0.3)).save(tmp_path / "r.yaml"),
        "--results",
        tmp_path / "led",
        "--save",
        tmp_path / "model",
    )
    assert "20 validation images of digits" in works(capsys, "distances", tmp_path / "model", "--images", "20")
    assert json.loads((tmp_path / "model" / "distances.json").read_text())["images"] == 20
    assert "does not say which data" in fails(capsys, "distances", saved_vit(tmp_path / "anc"))


def test_a_relative_results_folder(checkout, capsys):
    works(capsys, "run", "figure1c", "--results", "mine")
    assert (checkout / "mine/digits/report.html").is_file() and (
        checkout / "mine/digits/tables/figure1c.json"
    ).is_file()
    assert [p.name for p in (checkout / "nbs/paper").iterdir() if p.is_dir() and not p.name.startswith(".")] == []


def test_a_failing_notebook_is_one_line(checkout, capsys):
    notebook(checkout / "nbs" / "paper" / "figure1c.ipynb", [PARAMETERS, "raise KeyError('the reason')"])
    assert "the reason" in fails(capsys, "run", "figure1c")


def test_outside_a_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "project_root", lambda: None)
    monkeypatch.setattr("learngene.app.notebooks.project_root", lambda: None)
    assert "run this in a checkout" in fails(capsys, "run", "table2")
    assert "tables and figures" not in works(capsys, "list")


# --- dry runs and single recipes


def test_dry_run_lists_runs_and_writes_nothing(capsys, tmp_path):
    from learngene.recipe import Sweep

    cells = Sweep.load("smoke/table2").cells()
    out = works(capsys, "run", "table2", "--profile", "smoke", "--dry-run", "--results", tmp_path)
    assert (
        f"table2: {len(cells)} runs" in out and out.count("would run") == len(cells) + 1 and "has a record" not in out
    )
    assert not list(tmp_path.iterdir())
    cell, seed = cells[3][1], cells[3][1].seed
    meta_info = dict(ancestry=lg.vit.fingerprint(lg.load_ancestry(cell.ancestry)))
    record = make_record(
        name="x", seed=seed, recipe=cell.to_dict(), train_info=dict(seconds=7), meta_info=meta_info
    )
    write_atomic(tmp_path / "smoke/records" / file_name(record), json.dumps(record))
    lines = works(capsys, "run", "table2", "--profile", "smoke", "--dry-run", "--results", tmp_path).splitlines()
    (done,) = [line for line in lines if "has a record" in line]
    assert (
        "7 s" in done
        and f"images {cells[3][0]['images']}, seed {seed}" in done
        and sum("has a record" in line for line in lines) == 1
    )
    fresh = works(capsys, "run", "table2", "--profile", "smoke", "--dry-run", "--fresh", "--results", tmp_path)
    assert "has a record" not in fresh and "about 7 s of training would run" in fresh


def test_dry_run_of_a_figure_that_runs_a_tables_cells(capsys, tmp_path):
    "Figure 5 runs the cells of Table 2 that use all images, when they have no records."
    out = works(capsys, "run", "figure5", "--profile", "smoke", "--dry-run", "--results", tmp_path)
    assert out.count("would run   ") >= 6


def test_dry_run_of_all(capsys, tmp_path):
    out = works(capsys, "run", "all", "--dry-run", "--results", tmp_path)
    assert "figure2: no runs of its own" in out and "would run" in out and not list(tmp_path.iterdir())


def test_train_a_recipe_file(capsys, tmp_path):
    file = recipe(saved_vit(tmp_path / "anc"), train=dict(epochs=1)).save(tmp_path / "r.yaml")
    out = works(capsys, "train", file, "--results", tmp_path / "led", "--save", tmp_path / "model")
    assert "epoch   1" in out and "tiny: " in out and "test images" in out
    (path,) = (tmp_path / "led").rglob("*.json")
    accuracy = json.loads(path.read_text())["train_info"]["test_accuracy"]
    assert f"{accuracy:.2%} of 358 test images" in out or f"{accuracy:.2%} of " in out
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert "epoch" in works(capsys, "train", file, "--results", tmp_path / "led", "--again")


def test_train_names_the_existing_record(capsys, tmp_path, monkeypatch):
    file = recipe(saved_vit(tmp_path / "anc"), train=dict(epochs=0)).save(tmp_path / "r.yaml")
    assert "on record" not in works(capsys, "train", file, "--results", tmp_path / "led")
    (path,) = (tmp_path / "led").rglob("*.json")
    if path.parent.name == "dirty":  # what a changed tree ran counts for nothing
        path = path.rename(path.parents[1] / path.name)
    out = works(capsys, "train", file, "--results", tmp_path / "led")
    assert out.splitlines()[-1] == f"on record: {path} (--again runs it anew)" and "epoch" not in out


def test_a_sweep_of_your_own(capsys, tmp_path, monkeypatch):
    "Wherever its file lies, its records go to a folder by its name."
    import yaml

    base = {
        k: v
        for k, v in recipe(saved_vit(tmp_path / "anc"), train=dict(epochs=0)).to_dict().items()
        if k not in ("name", "seed")
    }
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump(
            dict(name="my sweep", base=base, vary=dict(size=dict(whole={}, half=dict(shape=dict(depth=2)))), seeds=[0])
        )
    )
    monkeypatch.chdir(tmp_path)
    args = ["sweep", "s.yaml", "--results", "out", "--workers", "1"]
    assert works(capsys, *args).splitlines()[-1] == "the records are in out/my_sweep"
    found = sorted((tmp_path / "out/my_sweep/local").rglob("*.json"))
    assert len(found) == 2
    for path in found:
        if path.parent.name == "dirty":
            path.rename(path.parents[1] / path.name)
    assert works(capsys, *args) == "all 2 runs are on record in out/my_sweep\n"
    ignored = subprocess.run(["git", "-C", str(ROOT), "check-ignore", "-q", "results/my_sweep/local/x.json"])
    assert ignored.returncode in (0, 128), "128: no repository"


def test_a_recipe_is_no_sweep(capsys):
    assert "digits/ancestry is a recipe, of one run; run it by `learngene train digits/ancestry`" in fails(
        capsys, "sweep", "digits/ancestry"
    )


@pytest.mark.parametrize(
    "error, message",
    [
        (
            ModuleNotFoundError("No module named 'papermill.x'", name="papermill.x"),
            "learngene: No module named 'papermill.x': pip install 'learngene[notebooks]'",
        ),
        (ModuleNotFoundError("No module named 'datasets'", name="datasets"), "pip install 'learngene[hub]'"),
        (ModuleNotFoundError("No module named 'psutil'", name="psutil"), "'psutil': pip install psutil"),
        (
            ImportError("it needs x: pip install 'learngene[hub]'."),
            "learngene: it needs x: pip install 'learngene[hub]'.",
        ),
        (AssertionError(), "learngene: AssertionError"),
        (AssertionError("so\nit is"), "learngene: so it is"),
    ],
)
def test_other_errors_in_one_line(monkeypatch, capsys, error, message):
    monkeypatch.setattr(lg.methods, "names", raises(error))
    assert fails(capsys, "list").endswith(message)


def test_a_closed_pipe_ends_quietly():
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read(); from learngene.app import cli; cli.main(['list'])"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child.stdout.close()
    child.stdin.close()
    assert child.stderr.read() == "" and child.wait() == 0
