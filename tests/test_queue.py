"The queue: its order, its clock, what it needs, and bringing its results together."

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import learngene as lg

import pytest
import torch
import yaml
from _ddp_worker import PLAIN, VIT
from records import make_record
from safetensors.torch import save_file

from learngene.app import cli, forecasting, merging, queue
from learngene.app.notebooks import notebooks, parameters_of
from learngene import running, train
from learngene import recipe as recipes
from learngene.checkpoints import CheckpointPolicy, read_checkpoint, save_checkpoint
from learngene.ledger import Ledger
from learngene.provenance import source_digest

ROOT = Path(__file__).parents[1]
SCRATCH, FINETUNING = dict(name="from-scratch"), dict(name="pretraining-finetuning")
TRAIN = dict(epochs=2, batch_size=32, lr=1e-3, lr_batch=None, warmup_epochs=1)
SHARED = dict(data=dict(fraction=0.12), augment=PLAIN, train=TRAIN)
TEACHER = dict(name="teacher", model=VIT, method=SCRATCH) | SHARED
BASE = dict(ancestry="mini/teacher") | SHARED
TABLE = dict(
    name="table2",
    seeds=[3, 4],
    base=BASE,
    vary=dict(method=dict(scratch=dict(method=SCRATCH), first=dict(method=FINETUNING))),
)
FIGURE = TABLE | dict(
    name="figure5",
    vary=dict(method=dict(scratch=dict(method=SCRATCH), deep=dict(shape=dict(depth=1), method=FINETUNING))),
)
CLEAN = dict(source="checkout", version="0.1.0", commit="c0ffee", clean=True)


def write_profile(folder):
    folder.mkdir(parents=True)
    for name, content in dict(teacher=TEACHER, table2=TABLE, figure5=FIGURE).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(autouse=True)
def mini(tmp_path, monkeypatch, one_thread):
    "A profile with an ancestry, a table and a figure, a cache of its own, and a tree that counts as clean."
    write_profile(tmp_path / "recipes" / "mini")
    monkeypatch.setattr(recipes, "recipes_folder", lambda: tmp_path / "recipes")
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    for module in (running, queue, merging):
        monkeypatch.setattr(module, "code_version", lambda: dict(CLEAN))


TABLES = dict(figure1c=[], figure5=["figure5"], table2=["table2"], table9=["table9"])
NO_END = 1e12


def work(folder, until=NO_END, **options):
    "Do the queue of the profile; (runs left, lines of the log)."
    jobs, _ = queue.plan_jobs("mini", TABLES)
    lines = []
    left = queue.run_jobs(jobs, Ledger(folder / "mini"), folder / "mini" / "local", until, log=lines.append, **options)
    return left, lines


def records(folder):
    return {r["run_info"]["key"]: r for r in Ledger(folder / "mini")}


def outcomes(folder):
    "key -> what a run came to"
    return {
        key: (record["meta_info"]["weights"], record["train_info"]["history"], record["train_info"]["test_accuracy"])
        for key, record in records(folder).items()
    }


# --- order


def test_order_of_value():
    jobs, lines = queue.plan_jobs("mini", TABLES)
    assert [str(job) for job in jobs] == [
        "ancestry: name teacher, seed 0",
        "table2: method scratch, seed 3",
        "table2: method first, seed 3",
        "figure5: method deep, seed 3",
        "table2: method scratch, seed 4",
        "table2: method first, seed 4",
        "figure5: method deep, seed 4",
    ]
    assert lines == [
        "table2: 4 runs",
        "figure5: 4 runs",
        "figure1c: no runs of its own",
        "table9: profile mini has no sweep 'table9', so no runs",
    ]
    assert len({job.recipe.key for job in jobs}) == 7


def test_one_table_brings_the_ancestry_it_names():
    jobs, _ = queue.plan_jobs("mini", dict(table2=["table2"]), all_ancestries=False)
    assert [job.table for job in jobs] == ["ancestry"] + ["table2"] * 4


def test_unranked_tables_come_last_and_narrow_ancestries_first(tmp_path):
    wide = TEACHER | dict(name="wide", model=VIT | dict(embed_dim=64))
    (tmp_path / "recipes/mini/a_wide.yaml").write_text(yaml.safe_dump(wide))
    jobs, _ = queue.plan_jobs("mini", dict(another=["figure5"], table2=["table2"]))
    assert list(dict.fromkeys(job.table for job in jobs)) == ["ancestry", "table2", "another"]
    assert [job.labels["name"] for job in jobs if job.table == "ancestry"] == ["teacher", "wide"]


def test_an_ancestrys_own_ancestry_is_first(tmp_path):
    child, table = BASE | dict(name="child", method=FINETUNING), TABLE | dict(base=BASE | dict(ancestry="mini/child"))
    (tmp_path / "recipes/mini/child.yaml").write_text(yaml.safe_dump(child))
    (tmp_path / "recipes/mini/table2.yaml").write_text(yaml.safe_dump(table))
    jobs, _ = queue.plan_jobs("mini", dict(table2=["table2"]), all_ancestries=False)
    assert [str(j) for j in jobs[:2]] == ["ancestry: name teacher, seed 0", "ancestry: name child, seed 0"]
    assert queue._is_chained(jobs[:2]) and not queue._is_chained(jobs[:1])


def test_a_wrong_method_is_refused_before_anything_runs(tmp_path):
    wrong = TABLE | dict(vary=dict(method=dict(first=dict(method=dict(name="pretraining-finetunning")))))
    (tmp_path / "recipes/mini/table2.yaml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(ValueError, match="did you mean 'pretraining-finetuning'"):
        queue.plan_jobs("mini", TABLES)


def test_the_base_of_a_profile_is_no_job(tmp_path):
    (tmp_path / "recipes/mini/base.yaml").write_text(yaml.safe_dump(dict(train=dict(epochs=1))))
    assert set(queue.sweeps_of("mini")) == {"table2", "figure5"}
    jobs, _ = queue.plan_jobs("mini", TABLES)
    assert len(jobs) == 7 and [job.labels["name"] for job in jobs if job.table == "ancestry"] == ["teacher"]


def test_shipped_ancestries_are_not_trained_again():
    jobs, _ = queue.plan_jobs("digits", {})
    assert jobs == []


def test_every_profile_has_a_plan(monkeypatch):
    monkeypatch.undo()
    for profile in recipes.profiles():
        tables = {
            name: [value for key, value in parameters_of(path).items() if key.startswith("sweep")]
            for name, path in notebooks().items()
        }
        jobs, lines = queue.plan_jobs(profile, tables)
        assert lines and (jobs or profile == "none")
        if profile == "small":
            names = [job.labels["name"] for job in jobs if job.table == "ancestry"]
            assert names == ["vit_tiny_p8_64.tin100", "vit_small_p8_64.tin100"], "the one that is done first"


# --- work


def test_everything_once_and_then_nothing(tmp_path):
    left, lines = work(tmp_path / "out")
    assert left == 0 and lines[0] == "7 of 7 runs are left" and lines[-1] == "nothing is left" and len(lines) == 9
    assert len(records(tmp_path / "out")) == 7
    folders = [path.name for path in (tmp_path / "out/mini/local/ancestries").iterdir() if path.name != "ledger"]
    assert [name.rpartition("-")[0] for name in folders] == ["teacher"]
    assert not (tmp_path / "home").exists(), "everything lies in the one folder"
    assert work(tmp_path / "out") == (0, ["0 of 7 runs are left", "nothing is left"])
    shutil.rmtree(tmp_path / "out/mini/local/ancestries")
    assert work(tmp_path / "out") == (0, ["0 of 7 runs are left", "nothing is left"])
    next((tmp_path / "out/mini/local").glob("table2-first-s3*.json")).unlink()
    assert work(tmp_path / "out")[1][0] == "2 of 7 runs are left", "the ancestry's weights are needed again"


def test_stopped_again_and_again(tmp_path, monkeypatch):
    "By a clock that advances a second at every reading; all calls together make the same records."
    work(tmp_path / "whole")
    now, real = [0.0], time.monotonic
    calls, pauses = 0, []
    while True:
        with monkeypatch.context() as m:
            m.setattr(time, "monotonic", lambda: now.__setitem__(0, now[0] + 1.0) or now[0])
            left, lines = work(tmp_path / "parts", until=now[0] + 8 + calls % 4)
        pauses += [line for line in lines if "stopped" in line]
        calls += 1
        assert calls < 60
        if not left:
            break
        assert lines[-1].endswith("the same command resumes")
    assert calls > 7 and any("at step" in line for line in pauses)
    assert outcomes(tmp_path / "parts") == outcomes(tmp_path / "whole")
    assert any(r["run_info"]["resumed_at"] for r in records(tmp_path / "parts").values())
    assert not list((tmp_path / "parts/mini/local/checkpoints").iterdir())
    assert real is time.monotonic


def test_no_time_at_all(tmp_path):
    left, lines = work(tmp_path / "out", until=0.0)
    assert left == 7 and lines == ["7 of 7 runs are left", "7 runs are left; the same command resumes"]
    assert not (tmp_path / "out").exists()


def test_a_failing_run_does_not_stop_the_others_but_its_descendants(tmp_path):
    teacher = tmp_path / "recipes/mini/teacher.yaml"
    table = tmp_path / "recipes/mini/table2.yaml"
    table.write_text(yaml.safe_dump(TABLE | dict(base=BASE | dict(ancestry="vit_nano_p2_8.digits"))))
    teacher.write_text(yaml.safe_dump(TEACHER | dict(train=TEACHER["train"] | dict(lr=1e30, warmup_epochs=0))))
    lines = []
    jobs, _ = queue.plan_jobs("mini", TABLES)
    with pytest.raises(RuntimeError, match="1 runs failed, the first: ancestry: name teacher"):
        queue.run_jobs(jobs, Ledger(tmp_path / "out/mini"), tmp_path / "out/mini/local", NO_END, log=lines.append)
    assert sum("of test images" in line for line in lines) == 4 and sum("lower train.lr" in line for line in lines) == 1


def test_a_tree_that_is_not_clean_runs_nothing_twice(tmp_path, monkeypatch):
    for module in (running, queue):
        monkeypatch.setattr(module, "code_version", lambda: CLEAN | dict(commit=None, clean=False))
    assert work(tmp_path / "out")[0] == 0 and records(tmp_path / "out") == {}
    assert work(tmp_path / "out")[1][0] == "0 of 7 runs are left"
    monkeypatch.setattr(queue, "source_digest", lambda: "other code")
    assert work(tmp_path / "out", until=0.0)[1][0] == "7 of 7 runs are left"


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes(tmp_path, minutes):
    with pytest.raises(SystemExit, match="--minutes is .*wanted more than 0"):
        cli.main(["run", "all", "--profile", "mini", "--minutes", minutes, "--results", str(tmp_path / "out")])


def test_run_options_reach_every_run(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "notebooks", lambda: (_ for _ in ()).throw(FileNotFoundError))
    command = ["run", "all", "--profile", "mini", "--engine", "device", "--deterministic"]
    command += ["--results", str(tmp_path / "out")]
    cli.main([*command, "--workers", "1", "--minutes", "5"])
    infos = [record["run_info"] for record in records(tmp_path / "out").values()]
    assert {(info["engine"], info["deterministic"]) for info in infos} == {("device", True)} and len(infos) == 7
    with pytest.raises(SystemExit, match="give --minutes, too"):
        cli.main(command)


# --- forecasts


def forecast(folder, workers=1):
    jobs, _ = queue.plan_jobs("mini", TABLES)
    ledger = Ledger(folder / "mini")
    return forecasting.forecast(jobs, ledger, [ledger], folder / "mini/local", workers)


def test_only_ancestries_are_compiled(monkeypatch):
    "Compiling takes longer than a short run saves."
    calls = []

    def run(recipe, ledger, **options):
        calls.append(("run", options.get("compile"), options["engine"]))

    def ensure_trained(resolved, **options):
        calls.append(("ensure_trained", options["compile"], options["engine"]))
        return Path("nowhere")

    monkeypatch.setattr(running, "run", run)
    monkeypatch.setattr(running, "ensure_trained", ensure_trained)
    for table in ("table2", "ancestry"):
        job, until = queue.Job(table, {}, None), time.monotonic() + 1e6
        queue.attempt_job(job, None, "home", until, False, compile=True, engine="device")
    assert calls == [("run", None, "device"), ("ensure_trained", True, "device")]


def test_forecast(tmp_path):
    out = tmp_path / "out"
    lines = forecast(out)
    assert len(lines) == 8 and "7 runs of unknown time" in lines[7]
    assert all("would run" in line and "time unknown" in line for line in lines[:7])
    work(out)
    lines = forecast(out)
    assert all("has a record" in line for line in lines[:7])
    assert lines[7].startswith("about 0 s of training would run, at the speeds")
    for path in (out / "mini/local").glob("*.json"):
        record = json.loads(path.read_text())
        record["train_info"] |= dict(images_per_second=2.0, seconds=500)
        path.write_text(json.dumps(record))
    next((out / "mini/local").glob("table2-first-s4*.json")).unlink()
    images = len(lg.load_data(recipes.DataSpec(fraction=0.12)).train) // 32 * 32
    (line,) = [line for line in forecast(out) if "would run  " in line]
    assert "table2: method first, seed 4" in line
    assert f"{2 * images / 2:.0f} s" in line, "by the speed of the same architecture"
    jobs, _ = queue.plan_jobs("mini", TABLES)
    key = next(job.recipe.key for job in jobs if str(job) == "table2: method first, seed 4")
    checkpoints = out / "mini/local/checkpoints" / f"{key}-x"
    checkpoints.mkdir(parents=True)
    (checkpoints / "epoch-00001.pt").touch()
    assert "50% done" in next(line for line in forecast(out) if "would run  " in line)
    expected = f"about {images / 2:.0f} s of training would run; 0 minutes with 4 side by side"
    assert forecast(out, 4)[-1].startswith(expected)
    for path in (out / "mini/local").glob("*.json"):
        record = json.loads(path.read_text())
        record["run_info"]["device"] = "another"
        path.write_text(json.dumps(record))
    assert "1 runs of unknown time" in forecast(out)[-1], "another device says nothing about this one"


def test_the_usual_speed_of_the_same_work():
    "The median over runs of the same architecture, image size and precision on this device; whole batches count."

    def record(speed, device="cpu", recipe=None, **change):
        recipe = recipe or recipes.Recipe.from_dict(BASE | dict(name="other", seed=9) | change)
        return dict(
            run_info=dict(key=recipe.key, device=device),
            train_info=dict(images_per_second=speed, seconds=7.0),
            meta_info=dict(recipe=recipe.to_dict(), data_sizes=dict(train=100)),
        )

    r = recipes.Recipe.from_dict(BASE | dict(name="this"))
    others = [
        record(1e6, **change)
        for change in (
            dict(device="another"),
            dict(shape=dict(depth=1)),
            dict(shape=dict(heads=1)),
            dict(ancestry="mini/other"),
            dict(data=dict(image_size=16)),
            dict(augment=PLAIN | dict(rand_augment="rand-m9")),
            dict(train=BASE["train"] | dict(precision="bf16")),
            dict(train=BASE["train"] | dict(workers=2)),
        )
    ]

    def estimate(recipe, records):
        return forecasting.KnownSpeeds(records, "cpu").estimate(recipe)

    assert estimate(r, others) is None
    assert estimate(r, [*others, record(1.0), record(2.0), record(50.0)]) == 2 * 96 / 2
    assert estimate(r, [record(1.0), record(1.0, recipe=r)]) == 7.0
    no_epochs = recipes.Recipe.from_dict(BASE | dict(name="none", train=dict(epochs=0)))
    assert estimate(no_epochs, []) == 0


# --- from a plain copy, without the notebook tools

BLOCKED = "papermill nbdev execnb fastcore datasets kornia IPython ipykernel nbformat nbclient nbconvert".split()
BLOCKED += ["seaborn", "ghapi", "pytest"]


def run_plain(folder, *args):
    "Run the command in a folder, in a process where some packages cannot be imported."
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r})); import runpy; sys.argv = ['learngene', *{args!r}]"
    )
    code += "; runpy.run_module('learngene', run_name='__main__')"
    env = os.environ | dict(LEARNGENE_HOME=str(folder / "home"), COLUMNS="200")
    env.pop("PYTHONPATH", None)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=env, timeout=300
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The library's folder and settings.ini, without git and notebooks, and what the queue left there."
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "learngene", folder / "learngene", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "settings.ini", folder)
    write_profile(folder / "learngene/recipes/mini")
    return folder, run_plain(folder, "run", "all", "--profile", "mini", "--minutes", "5", "--workers", "2")


def test_the_queue_in_a_plain_copy(copy):
    folder, process = copy
    assert process.returncode == 0, process.stderr[-3000:]
    assert "the paper notebooks are not here: the tables are the sweeps of profile mini" in process.stdout
    assert process.stdout.count("of test images") == 7 and "nothing is left" in process.stdout
    assert not (folder / "home").exists()
    uncounted = [json.loads(path.read_text()) for path in (folder / "results/mini/local/dirty").glob("*.json")]
    assert {record["run_info"]["source"] for record in uncounted} == {source_digest(folder / "learngene")}
    assert len(uncounted) == 7


def test_one_sweep_in_a_plain_copy(copy):
    folder, _ = copy
    process = run_plain(folder, "run", "figure5", "--profile", "mini", "--dry-run")
    assert process.returncode == 0 and process.stdout.count("has a record") == 5
    assert "about 0 s of training" in process.stdout


def test_without_notebooks(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "project_root", lambda: None)
    cli.main(["run", "all", "--profile", "mini", "--dry-run", "--results", str(tmp_path)])
    assert capsys.readouterr().out.count("would run  ") == 7
    with pytest.raises(SystemExit, match="there is no table 'figur5' .did you mean 'figure5'.*"):
        cli.main(["run", "figur5", "--profile", "mini", "--minutes", "1"])


def test_what_a_copy_made_counts_in_a_clean_checkout_of_the_same_code(copy, tmp_path, capsys, monkeypatch):
    folder, _ = copy
    monkeypatch.setattr(merging, "source_digest", lambda: source_digest(folder / "learngene"))
    cli.main(["ledger", "merge", str(folder / "results"), "--results", str(tmp_path / "target")])
    assert "7 records" in capsys.readouterr().out and len(records(tmp_path / "target")) == 7
    for record in records(tmp_path / "target").values():
        assert record["run_info"]["code"] == CLEAN | dict(source="copy")
    assert work(tmp_path / "target") == (0, ["0 of 7 runs are left", "nothing is left"])
    line = merging.merge_results(folder / "results", tmp_path / "target")
    assert "9 already here" in line, "seven records, the ancestry, and its ledger"


def test_what_other_code_made_does_not_count(copy, tmp_path, monkeypatch):
    folder, _ = copy
    monkeypatch.setattr(merging, "source_digest", lambda: "other")
    assert "7 uncounted records" in merging.merge_results(folder / "results", tmp_path / "target")
    assert records(tmp_path / "target") == {} and len(list((tmp_path / "target/mini/local/dirty").glob("*.json"))) == 7


# --- merging


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    return tmp_path_factory.mktemp("started") / "results"


@pytest.fixture
def elsewhere(tmp_path, started):
    "Results with an ancestry, some records, and one run that has started."
    if not started.exists():
        start_runs(started)
    return Path(shutil.copytree(started, tmp_path / "elsewhere"))


def start_runs(out):
    jobs, _ = queue.plan_jobs("mini", TABLES)
    ledger, home = Ledger(out / "mini"), out / "mini/local"
    queue.run_jobs(jobs[:3], ledger, home, NO_END, log=lambda line: None)
    step, steps = train.train_step, []

    def fail_at_second(*args):
        steps.append(args)
        return step(*args) if len(steps) < 2 else 1 / 0

    with pytest.MonkeyPatch.context() as m:
        m.setattr(train, "train_step", fail_at_second)
        with pytest.raises(ZeroDivisionError):
            running.run(jobs[3].recipe, ledger, on_epoch=False, home=home, policy=CheckpointPolicy(steps=1))


@pytest.mark.parametrize("part, profile", [("", None), ("mini", None), ("mini/local", None), ("mini/local", "mini")])
def test_merge_and_resume(elsewhere, tmp_path, part, profile):
    target = tmp_path / "target"
    seen = next((elsewhere / "mini" / "local").glob("*.json")).with_suffix(".safetensors")
    save_file(dict(seen=torch.zeros(3)), seen)
    line = merging.merge_results(elsewhere / part, target, profile)
    assert "3 records" in line and "1 ancestry," in line and "1 checkpoint" in line and "\n" not in line
    assert files(target) == files(elsewhere)
    again = merging.merge_results(elsewhere, target)
    assert "5 already here" in again and files(target) == files(elsewhere)
    if part:
        return
    left, lines = work(target)
    assert left == 0 and lines[0] == "4 of 7 runs are left"
    assert [r["run_info"]["resumed_at"] for r in records(target).values()].count(0.25) == 1
    before = files(target)
    line = merging.merge_results(elsewhere, target)
    assert "checkpoint" not in line and files(target) == before, "a checkpoint of a finished run is of no use"


@pytest.mark.parametrize("store", ["local", "records"])
def test_another_record_of_the_same_run_is_refused(elsewhere, tmp_path, store):
    target = tmp_path / "target"
    (path, *_) = sorted((elsewhere / "mini/local").glob("table2-scratch*.json"))
    other = json.loads(path.read_text())
    other["train_info"]["test_loss"] = 1.0
    (target / "mini" / store).mkdir(parents=True)
    (target / "mini" / store / path.name).write_text(json.dumps(other))
    before = files(target)
    with pytest.raises(ValueError, match="different records of the same run; keep one of them.*Nothing was merged"):
        merging.merge_results(elsewhere, target)
    assert files(target) == before


def test_a_damaged_record_merges_nothing(elsewhere, tmp_path):
    (path, *_) = sorted((elsewhere / "mini/local").glob("*.json"), reverse=True)
    path.write_text(path.read_text()[:200])
    with pytest.raises(ValueError, match="truncated"):
        merging.merge_results(elsewhere, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_several_profiles_are_merged_all_or_none(tmp_path):
    "A damaged last profile stops the first, too; hidden files and checkpoints of finished runs are left out."
    for profile in "ab":
        Ledger(tmp_path / "out" / profile).add(make_record(profile, run_info=dict(code=CLEAN)))
    keys = [make_record(of)["run_info"]["key"] for of in "abc"]
    for key in (keys[0], keys[2]):
        folder = tmp_path / "out/a/local/checkpoints" / f"{key}-abcdef123456"
        save_checkpoint(folder, dict(key=key, epoch=1))
        (folder / ".writing-1").write_text("state")
    (damaged,) = (tmp_path / "out/b/local").glob("*.json")
    text = damaged.read_text()
    damaged.write_text(text[:40])
    with pytest.raises(ValueError, match="truncated"):
        merging.merge_results(tmp_path / "out", tmp_path / "target")
    assert not (tmp_path / "target").exists()
    damaged.write_text(text)
    merging.merge_results(tmp_path / "out", tmp_path / "target")
    assert sorted(files(tmp_path / "target")) == [
        f"a/local/checkpoints/{keys[2]}-abcdef123456/epoch-00001.pt",
        f"a/local/demo-s0-{keys[0]}.json",
        f"b/local/demo-s0-{keys[1]}.json",
    ]


def test_another_model_of_the_same_ancestry_is_refused(elsewhere, tmp_path):
    merging.merge_results(elsewhere, tmp_path / "target")
    (file,) = (tmp_path / "target").rglob("teacher-*/model.safetensors")
    file.write_bytes(file.read_bytes()[:-4] + b"\1\2\3\4")
    before = files(tmp_path / "target")
    with pytest.raises(ValueError, match="different models of the same ancestry"):
        merging.merge_results(elsewhere, tmp_path / "target")
    assert files(tmp_path / "target") == before


def test_the_checkpoint_further_on_is_kept(elsewhere, tmp_path):
    merging.merge_results(elsewhere, tmp_path / "target")
    (folder,) = (tmp_path / "target/mini/local/checkpoints").iterdir()
    state = read_checkpoint(folder / "epoch-00000-step-000001.pt")
    (folder / "epoch-00000-step-000001.pt").unlink()
    save_checkpoint(folder, state | dict(epoch=1, step=0))
    before = files(tmp_path / "target")
    merging.merge_results(elsewhere, tmp_path / "target")
    assert files(tmp_path / "target") == before
    merging.merge_results(tmp_path / "target", elsewhere)
    assert files(elsewhere) == before


def test_nothing_to_merge(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "holds no records"), ("absent", "there is no folder")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            merging.merge_results(tmp_path / folder, tmp_path / "target")


def test_merging_a_folder_into_itself(elsewhere):
    with pytest.raises(ValueError, match="this results folder itself"):
        merging.merge_results(elsewhere, elsewhere)
