"Checkpoints: what is not whole falls back to the one before, whatever is wrong with it."

import copy
import random
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import learngene as lg

import pytest
import torch
from _ddp_worker import RICH, recipe, vit

from learngene import checkpoints as C
from learngene import processes
from learngene.checkpoints import CheckpointPolicy, Paused, check_state, deadline, load_checkpoint, save_checkpoint
from learngene.train import fit

RECIPE = recipe(augment=RICH, train=dict(epochs=2, ema=0.9))
CHECK = partial(check_state, model=vit(), parts=["ema"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    "A folder of two checkpoints, of one step and of one epoch."
    folder, data = tmp_path_factory.mktemp("run"), lg.load_data(RECIPE.data, RECIPE.augment)
    with pytest.raises(Paused):
        fit(vit(), data, RECIPE, folder, on_epoch=False, policy=CheckpointPolicy(until=0.0))
    fit(vit(), data, RECIPE, folder, on_epoch=False, stop_after=1)
    first, second = sorted(path.name for path in folder.iterdir())
    assert (first, second) == ("epoch-00000-step-000001.pt", "epoch-00001.pt")
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "run"))


def resumed_from(folder):
    "Position of the checkpoint that a run would resume from, and what was said."
    said = []
    state = load_checkpoint(folder, RECIPE.key, said.append, None, CHECK)
    return state and (state["epoch"], state["step"]), said


def test_both_are_whole(folder):
    assert resumed_from(folder) == ((1, 0), [])
    (folder / "epoch-00001.pt").unlink()
    assert resumed_from(folder) == ((0, 1), [])


def test_a_flipped_bit_is_noticed_wherever_it_is(folder):
    "Also in the weights themselves, whose checksums torch does not compare."
    newest = folder / "epoch-00001.pt"
    raw, rng, noticed = newest.read_bytes(), random.Random(0), 0
    whole = load_checkpoint(folder, RECIPE.key, print)
    for _ in range(40):
        position = rng.randrange(len(raw))
        newest.write_bytes(raw[:position] + bytes([raw[position] ^ 1 << rng.randrange(8)]) + raw[position + 1:])
        position, said = resumed_from(folder)
        noticed += bool(said)
        if said:
            assert position == (0, 1) and "epoch-00001.pt is damaged" in said[0] and "\n" not in said[0]
        else:  # between the parts of the zip file, where nothing lies
            assert torch.equal(load_checkpoint(folder, RECIPE.key)["model"]["cls_token"],
                               whole["model"]["cls_token"])
    assert noticed > 20


PATHS = [
    ("key",), ("data",), ("epoch",), ("step",), ("processes",), ("result",), ("model",), ("optimizer",), ("ema",),
    ("result", "history"), ("result", "seconds"), ("result", "images"), ("result", "device"),
    ("model", "cls_token"), ("ema", "blocks.0.attn.qkv.weight"), ("optimizer", "state"), ("optimizer", "param_groups"),
    ("optimizer", "state", 0, "exp_avg"), ("optimizer", "state", 0, "exp_avg_sq"), ("optimizer", "state", 0, "step"),
    ("optimizer", "param_groups", 0, "lr"), ("optimizer", "param_groups", 0, "params"),
]
MISSING = object()
IN_STEP = [("processes", 0, "losses"), ("processes", 0, "rng"), ("processes", 0, "rng", "torch"),
           ("processes", 0, "rng", "python"), ("processes", 0, "rng", "numpy")]


WRONG = [None, "text", -1, True, [1, 2], {"a": 1}, float("nan"), torch.zeros(3, 5)]


def changed(state, path, value):
    "A copy of a state with another value at a path; without it when the value is MISSING."
    copied = inner = copy.deepcopy(state)
    for part in path[:-1]:
        inner = inner[part]
    if value is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copied


@pytest.mark.parametrize("kind", ["missing", "wrong"])
def test_a_missing_or_wrong_part_falls_back(folder, kind):
    for name, paths, fallback in (("epoch-00001.pt", PATHS, (0, 1)), ("epoch-00000-step-000001.pt", IN_STEP, None)):
        whole = torch.load(folder / name, weights_only=True)
        for i, path in enumerate(paths):
            value = MISSING if kind == "missing" else WRONG[i % len(WRONG)]
            if isinstance(value, str) and path[-1] in ("key", "data", "device"):
                continue  # of another recipe, of other images, of another machine
            torch.save(changed(whole, path, value), folder / name)
            position, said = resumed_from(folder)
            assert position == fallback, (path, said)
            assert f"{name} is damaged (" in said[0] and "\n" not in said[0] and len(said[0]) < 500
        (folder / name).unlink()


def test_what_is_kept_beside_the_model_is_demanded(folder):
    for name in folder.iterdir():
        state = torch.load(name, weights_only=True)
        del state["ema"]
        torch.save(state, name)
    assert resumed_from(folder)[0] is None and load_checkpoint(folder, RECIPE.key, print, None,
                                                               partial(check_state, model=vit()))["epoch"] == 1


@pytest.mark.parametrize("make", [lambda: vit(embed_dim=32), lambda: vit(depth=4)], ids=["width", "depth"])
def test_a_checkpoint_of_another_model_is_not_resumed(folder, make):
    said = []
    assert load_checkpoint(folder, RECIPE.key, said.append, None, partial(check_state, model=make())) is None
    assert len(said) == 2 and "model" in said[0]


def test_a_checkpoint_under_another_name(folder):
    shutil.copy(folder / "epoch-00001.pt", folder / "epoch-00009.pt")
    position, said = resumed_from(folder)
    assert position == (1, 0) and "epoch-00009.pt is damaged (ValueError: it is of epoch 1, step 0" in said[0]
    (folder / "epoch-last.pt").write_text("notes")  # not a checkpoint's name
    save_checkpoint(folder, dict(epoch=2, step=0, key="k"))
    assert sorted(p.name for p in folder.iterdir()) == ["epoch-00001.pt", "epoch-00002.pt", "epoch-last.pt"]


# --- another process removes what was just listed


def test_a_file_that_another_process_removes(folder, monkeypatch):
    listed = C.checkpoint_paths(folder)
    monkeypatch.setattr(C, "checkpoint_paths", lambda folder: listed)
    listed[-1].unlink()
    assert resumed_from(folder) == ((0, 1), [])
    save_checkpoint(folder, dict(epoch=2, step=0, key="k"))
    assert [p.name for p in folder.iterdir()] == ["epoch-00002.pt"]
    shutil.rmtree(folder)
    assert resumed_from(folder) == (None, [])
    save_checkpoint(folder, dict(epoch=3, step=0, key="k"))
    assert [p.name for p in folder.iterdir()] == ["epoch-00003.pt"]


# --- before training


@pytest.mark.parametrize("place", ["/dev/null/run", "/proc/run", "{tmp}/file", "{tmp}/" + "x" * 300])
def test_checkpoints_that_cannot_be_written_are_known_before_training(tmp_path, place):
    (tmp_path / "file").write_text("x")
    data, model = lg.load_data(RECIPE.data, RECIPE.augment), vit()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises((ValueError, OSError), match=r"give (another|a shorter)"):
        fit(model, data, RECIPE, place.format(tmp=tmp_path), on_epoch=False)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_deadlines_do_not_follow_the_clock(monkeypatch):
    now = time.monotonic()
    assert deadline(0.0) == 0.0 and deadline(now + 5) == now + 5 and deadline(float("inf")) == float("inf")
    assert abs(CheckpointPolicy(until=time.time() + 60).until - now - 60) < 5, "as the clock on the wall counts"
    policy = CheckpointPolicy(until=now + 3600, seconds=3600)
    clock = C.CheckpointClock(policy, type("Accelerator", (), dict(num_processes=1)))
    monkeypatch.setattr(time, "time", lambda: 1e11)
    assert clock.read(1) == (False, False), "the clock on the wall was set to another century"
    with pytest.raises(ValueError, match="NaN"):
        CheckpointPolicy(until=float("nan"))


# --- a script without a main guard

SCRIPT = """
import multiprocessing
multiprocessing.set_start_method("{method}")
from learngene.processes import check_main_guard
{guard}check_main_guard({workers})
print("started")
"""


@pytest.mark.parametrize(
    "method, guard, workers, refused",
    [
        ("spawn", "", 2, True),
        ("forkserver", "", 1, True),
        ("spawn", "if __name__ == '__main__': ", 2, False),
        ("spawn", "", 0, False),
        ("fork", "", 2, False),
    ],
)
def test_a_script_without_a_main_guard(tmp_path, monkeypatch, method, guard, workers, refused):
    script = tmp_path / "my_script.py"
    script.write_text(SCRIPT.format(method=method, guard=guard, workers=workers))
    monkeypatch.setattr(processes.multiprocessing, "get_start_method", lambda allow_none: method)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    if not refused:
        return processes.check_main_guard(workers)
    with pytest.raises(RuntimeError, match=r"my_script.py again; put its calls under `if __name__ == \"__main__\":`"):
        processes.check_main_guard(workers)


def test_a_script_without_a_main_guard_in_a_process_of_its_own(tmp_path):
    (tmp_path / "my_script.py").write_text(SCRIPT.format(method="spawn", guard="", workers=2))
    done = subprocess.run([sys.executable, tmp_path / "my_script.py"], capture_output=True, text=True)
    assert done.returncode == 1 and "started" not in done.stdout
    assert done.stderr.splitlines()[-1].startswith("RuntimeError: with workers=2, each process")
