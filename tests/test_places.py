"Where a command or a function writes is tested before it works, not after."

import learngene as lg

import pytest
from _ddp_worker import PLAIN, VIT, recipe, saved_vit, vit

from learngene import running, train
from learngene.app import cli, queue
from learngene.ledger import Ledger
from learngene.running import run, run_all
from learngene.vit import save_vit

IMPOSSIBLE = ["/dev/null/out", "/proc/out", "{tmp}/file", "{tmp}/" + "x" * 300]


@pytest.fixture(autouse=True)
def nothing_is_trained(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))

    def work(*args, **kwargs):
        raise AssertionError("it began to work")

    for module, name in ((train, "train_epochs"), (running, "load_data"), (running, "condense_seeded")):
        monkeypatch.setattr(module, name, work)
    monkeypatch.setattr("learngene.app.notebooks.run_notebook", work)
    monkeypatch.setattr(cli, "run_notebook", work)
    monkeypatch.setattr(cli, "replay_notebooks", work)
    monkeypatch.setattr("learngene.distances.measure_distances", work)
    monkeypatch.setattr("learngene.packing.read_splits", work)


def recipe_file(tmp_path):
    return recipe(saved_vit(tmp_path / "anc"), train=dict(epochs=1)).save(tmp_path / "r.yaml")


def sweep_file(tmp_path):
    import yaml

    base = dict(model=VIT, method=dict(name="from-scratch"), augment=PLAIN)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(dict(name="s", base=base, vary=dict(a=dict(x={})))))
    return tmp_path / "s.yaml"


COMMANDS = {
    "train": lambda tmp, place: ["train", recipe_file(tmp), "--results", place],
    "train and save": lambda tmp, place: ["train", recipe_file(tmp), "--save", place, "--results", tmp / "led"],
    "sweep": lambda tmp, place: ["sweep", sweep_file(tmp), "--results", place],
    "run": lambda tmp, place: ["run", "table2", "--profile", "smoke", "--results", place],
    "run for minutes": lambda tmp, place: ["run", "table2", "--profile", "smoke", "--minutes", 1, "--results", place],
    "report": lambda tmp, place: ["report", "--profile", "smoke", "--results", place],
    "commit": lambda tmp, place: ["commit", "--profile", "smoke", "--results", place],
    "pack": lambda tmp, place: ["data", "pack", "cifar10", "--to", place],
    "merge": lambda tmp, place: ["ledger", "merge", saved_results(tmp), "--results", place],
}


def saved_results(tmp_path):
    from records import make_record

    Ledger(tmp_path / "elsewhere/mini").add(make_record())
    return tmp_path / "elsewhere"


@pytest.mark.parametrize("place", IMPOSSIBLE)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_could_not_write(tmp_path, command, place):
    place = place.format(tmp=tmp_path)
    with pytest.raises(SystemExit) as e:
        cli.main([str(a) for a in COMMANDS[command](tmp_path, place)])
    message = str(e.value)
    assert message.startswith("learngene: ") and "began to work" not in message, message
    assert place[:20] in message and any(word in message for word in ("give", "no folder")), message


@pytest.mark.parametrize("place", IMPOSSIBLE)
def test_functions_that_could_not_write(tmp_path, place):
    place, one = place.format(tmp=tmp_path), recipe(saved_vit(tmp_path / "anc"))
    ledger = Ledger(tmp_path / "led")
    learngene = lg.Learngene.load(_saved_learngene(tmp_path))
    for do in (
        lambda: run(one, Ledger(place)),
        lambda: run(one, ledger, save=place),
        lambda: run(one, ledger, home=place),
        lambda: run_all([one], Ledger(place), log=lambda line: None),
        lambda: queue.run_jobs([queue.Job("t", {}, one)], Ledger(place), tmp_path, 1e12, log=lambda line: None),
        lambda: queue.run_jobs([queue.Job("t", {}, one)], ledger, place, 1e12, log=lambda line: None),
        lambda: save_vit(vit(), place),
        lambda: lg.save_descendant(vit(), place),
        lambda: learngene.save(place),
        lambda: one.save(f"{place}/r.yaml" if len(place) < 200 else place),
    ):
        with pytest.raises((ValueError, OSError), match="give (a|the)|give another"):
            do()
    assert not (tmp_path / "led").exists()


def _saved_learngene(tmp_path):
    import torch

    model = vit()
    return lg.condense(model, torch.randn(4, 1, 8, 8), eps=1.0).save(tmp_path / "learngene")
