"Runs on other machines: records come back once, and are those of a run here."
import concurrent.futures
import os
import signal
import time
from pathlib import Path

import pytest

import learngene as lg
from learngene import remote
from learngene.app import queue
from learngene.app.cli import main
from learngene.ledger import Ledger
from learngene.recipe import Recipe
from learngene.running import ResolvedRun, run_all

TIMES = ("seconds", "images_per_second", "latency_ms", "peak_memory_mb")


def recipe(seed, **settings):
    off = dict(crop="none", hflip=0, rand_augment=None, erasing=0, mixup=0, cutmix=0)
    return Recipe.from_dict(dict(
        name="away", seed=seed, ancestry="vit_nano_p2_8.digits", shape=dict(depth=1), augment=off,
        method=dict(name="cluster-learngene", options=dict(eps=0.07), images=8), data=dict(fraction=0.05),
        train=dict(epochs=1, batch_size=32, warmup_epochs=0)) | settings)


def comparable(record):
    "What two runs of a recipe share to the last bit."
    train = {name: value for name, value in record["train_info"].items() if name not in TIMES}
    meta = {name: value for name, value in record["meta_info"].items() if not name.endswith("_seconds")}
    return train, meta


class Job:
    "What submitit hands out: no future of Python's, but `done` and `result`."

    def __init__(self, function, *arguments, **options):
        self.looks, self.do = 0, lambda: function(*arguments, **options)

    def done(self):
        self.looks += 1
        return self.looks > 2

    def result(self):
        return self.do()

    def cancel(self):
        pass


class Jobs:
    submit = staticmethod(Job)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    "Records of two seeds, made in this process."
    return run_all([recipe(0), recipe(1)], Ledger(tmp_path_factory.mktemp("here")), 1, log=lambda line: None)


@pytest.mark.parametrize("executor", [concurrent.futures.ThreadPoolExecutor(2), Jobs()], ids=["threads", "jobs"])
def test_records_are_those_of_a_run_here(here, executor, tmp_path, monkeypatch):
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    ledger, lines = Ledger(tmp_path / "away"), []
    away = run_all([recipe(0), recipe(1)], ledger, log=lines.append, executor=executor)
    assert [comparable(r) for r in away] == [comparable(r) for r in here]
    assert len(list(ledger.folder.rglob("away-*.json"))) == 2 and len(lines) == 3
    assert run_all([recipe(1)], ledger, log=lines.append, executor=None) and len(lines) in (3, 5)


def test_a_run_that_fails_is_named_and_the_others_are_kept(tmp_path):
    ledger, deep = Ledger(tmp_path), recipe(0, name="deep", shape=dict(depth=99))
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        with pytest.raises(RuntimeError, match="1 of 2 runs failed, the first: deep"):
            run_all([deep, recipe(0)], ledger, log=lambda line: None, executor=executor)
    assert len(list(tmp_path.rglob("away-*.json"))) == 1


def test_a_worker_of_another_version_is_refused(tmp_path):
    result = remote.run_away(None, recipe(0), {}, source="0" * 16)
    assert isinstance(result, RuntimeError) and "another version of learngene" in str(result)


def test_a_worker_that_is_lost_is_one_failed_run(tmp_path):
    class Lost(Jobs):
        @staticmethod
        def submit(function, *arguments, **options):
            future = concurrent.futures.Future()
            future.set_exception(OSError("the node went down"))
            return future

    with pytest.raises(RuntimeError, match="the node went down"):
        run_all([recipe(0)], Ledger(tmp_path), log=lambda line: None, executor=Lost())


def test_trained_ancestries_travel_with_a_run(tmp_path, monkeypatch):
    tiny = dict(img_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=16, depth=2, num_heads=2)
    file = recipe(0, name="tiny", ancestry=None, model=tiny, method=dict(name="from-scratch"), shape={}).save(
        tmp_path / "tiny.yaml")
    student, ledger = recipe(0, ancestry=str(file)), Ledger(tmp_path / "results")
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    unpacked = []

    class Elsewhere(Jobs):
        "A worker that has no ancestry in its cache."

        @staticmethod
        def submit(function, run, recipe, parents, *rest, **options):
            unpacked.extend(parents)
            monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "other home"))
            return Job(function, run, recipe, parents, *rest, **options)

    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    record, = run_all([student], ledger, log=lambda line: None, executor=Elsewhere())
    assert record["meta_info"]["ancestry_recipe"] == ResolvedRun(student).ancestry_run.recipe.key
    assert len(unpacked) == 1 and not (tmp_path / "other home" / "ancestries").exists()


def test_the_queue_takes_an_executor(tmp_path, here):
    jobs = [queue.Job("table", dict(seed=seed), recipe(seed)) for seed in (0, 1)]
    lines, ledger = [], Ledger(tmp_path / "away")
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        left = queue.run_jobs(jobs, ledger, tmp_path / "home", time.monotonic() + 600, log=lines.append,
                              executor=executor)
    assert left == 0 and len(lines) == 4
    assert [comparable(ledger.find(r.key) or queue.find_job_record(job, ledger, lg.provenance.source_digest()))
            for job, r in zip(jobs, (recipe(0), recipe(1)))] == [comparable(r) for r in here]


def test_bad_executors(monkeypatch):
    with pytest.raises(ValueError, match="give --dask or --submitit, not both"):
        remote.start_executor("tcp://a:1", "logs")
    assert remote.start_executor() is None
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    with pytest.raises(ImportError, match=r"--submitit needs submitit: pip install 'learngene\[cluster\]'"):
        remote.start_executor(submitit="logs")


def test_no_scheduler_answers():
    pytest.importorskip("distributed")
    with pytest.raises(OSError, match="no dask scheduler answers at tcp://127.0.0.1:9"):
        remote.start_executor(dask="tcp://127.0.0.1:9", timeout=1)


def slow_then_right(run, recipe, parents, source, marker, **options):
    "Die as a killed worker does, the first time; then do the run."
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return remote.run_away(run, recipe, parents, source, **options)


def test_a_dask_cluster_gives_a_killed_workers_run_to_another(here, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path / "dask")
    ) as cluster, distributed.Client(cluster) as client:
        executor = client.get_executor(pure=False)

        class KillsOnce:
            @staticmethod
            def submit(function, *arguments, **options):
                assert function is remote.run_away
                return executor.submit(slow_then_right, *arguments, str(tmp_path / "killed"), **options)

        ledger = Ledger(tmp_path / "away")
        away = run_all([recipe(0), recipe(1)], ledger, log=lambda line: None, executor=KillsOnce())
    assert (tmp_path / "killed").exists()
    assert [comparable(r) for r in away] == [comparable(r) for r in here]
    assert len(list(ledger.folder.rglob("away-*.json"))) == 2


def test_the_command_refuses_both():
    with pytest.raises(SystemExit, match="not both"):
        main(["sweep", "digits/shapes", "--dask", "tcp://a:1", "--submitit", "logs"])
