"""Checkpoints of a training run: when to write one, writing it atomically, and reading the newest that is whole.

Written by hand: accelerate's `save_state` is neither atomic nor free of pickles, and knows no position in an epoch.
"""
import math
import os
import random
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast

from .files import CHECKPOINT_NAME, check_finite, check_writable, in_one_line
from .processes import check_main_guard


class Paused(Exception):
    "Raised when a run's time is up; the same call resumes from its last checkpoint."


@dataclass
class CheckpointPolicy:
    "When a run writes a checkpoint (by default at each epoch's end), and when it stops."
    steps: int | None = None  # write after every so many steps of an epoch, and at its end
    seconds: float | None = None  # write when the last checkpoint is so many seconds old
    until: float | None = None  # write, and stop, before this time, as `time.monotonic()` counts

    def __post_init__(self):
        self.until = None if self.until is None else deadline(self.until)


def deadline(
    until: float,  # as `time.monotonic()` counts; also as `time.time()` does
) -> float:
    "Return a deadline as `time.monotonic()` counts, which no change of the clock moves."
    if math.isnan(until):
        raise ValueError("the time to stop is NaN; give seconds as time.monotonic() counts them.")
    counts_from_1970 = until > time.monotonic() + 1e9  # no machine runs for thirty years
    return until - time.time() + time.monotonic() if counts_from_1970 else until


class CheckpointClock:
    "Follow a CheckpointPolicy through a run. Of several processes, the clock of rank 0 counts."

    def __init__(
        self,
        policy: CheckpointPolicy | None,  # None = the default one
        accelerator,  # accelerate's Accelerator of the run
    ):
        self.policy, self.accelerator = policy or CheckpointPolicy(), accelerator
        self.saved_at = time.monotonic()
        self.read_at = None  # when the clock was last read
        self.longest = 0.0  # longest time between two readings: a step, a validation or the writing of a checkpoint

    def read(
        self,
        step: int | None = None,  # steps done of an epoch; None = at its end
    ) -> tuple:  # (is a checkpoint due?, is time up?)
        "Read the clock, with several processes only at every eighth step: they have to agree."
        policy, several = self.policy, self.accelerator.num_processes > 1
        due = policy.seconds is None if step is None else bool(policy.steps) and step % policy.steps == 0
        timed = policy.seconds is not None or policy.until is not None
        if not timed or several and step is not None and step % 8:
            return due, False
        now = time.monotonic()
        self.longest, self.read_at = max(self.longest, now - (self.read_at or now)), now
        flags = torch.tensor([policy.seconds is not None and now - self.saved_at >= policy.seconds,
                              policy.until is not None and now + self.longest >= policy.until])
        if several:
            flags = broadcast(flags.int().to(self.accelerator.device))
        old, over = flags.tolist()
        return due or bool(old), bool(over)


def checkpoint_name(
    epoch: int,  # epochs done
    step: int = 0,  # steps of the next one
) -> str:
    "Name a checkpoint; names sort as their positions do."
    return f"epoch-{epoch:05d}" + (f"-step-{step:06d}" if step else "") + ".pt"


def save_checkpoint(
    folder,  # where this run's checkpoints lie
    state: dict,  # tensors and plain values; has `epoch` (epochs done) and may have `step` (steps of the next one)
    keep=2,  # how many to keep
):
    "Write a checkpoint atomically; remove older ones, and damaged ones further on."
    folder = Path(folder)
    path = folder / checkpoint_name(state["epoch"], state.get("step") or 0)
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as f:
            torch.save(state, f)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    before = [other for other in checkpoint_paths(folder) if other.name < path.name]
    after = [other for other in checkpoint_paths(folder) if other.name > path.name]
    for other in before[:max(0, len(before) + 1 - keep)] + after:
        other.unlink(missing_ok=True)  # another process may have been first


def checkpoint_paths(
    folder,  # where a run's checkpoints lie
) -> list:
    "Return the paths of all checkpoints, the one furthest on last."
    paths = [path for path in Path(folder).glob("epoch-*.pt") if CHECKPOINT_NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: path.stem)


def load_checkpoint(
    folder,  # where the run's checkpoints lie
    key: str,  # of the recipe
    log=print,  # told about damaged files
    data=None,  # fingerprint of the images
    check=None,  # called with a state; raises for one that cannot be resumed from
):  # the state, or None without a checkpoint
    "Read the newest checkpoint that is whole. ValueError for another recipe or other images."
    for path in reversed(checkpoint_paths(folder)):
        try:
            state = read_checkpoint(path)
            if check:
                check(state)
        except FileNotFoundError:  # another process removed it
            continue
        except Exception as e:  # truncated zip, short read, foreign pickle, missing key: torch raises many types
            log(f"{path} is damaged ({in_one_line(e)}); resuming from the checkpoint before it.")
            continue
        remedy = f"remove {path.parent} or give another folder."
        if state["key"] != key:
            raise ValueError(f"{path} is of another recipe ({state['key']}, wanted {key}); {remedy}")
        if data and state.get("data", data) != data:
            raise ValueError(f"{path} is of a run on other images ({state['data']}, wanted {data}); {remedy}")
        return state


def read_checkpoint(
    path,  # of one file
) -> dict:
    "Read one checkpoint, and compare its checksums, which torch does not."
    with open(path, "rb") as file:
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} has another checksum")
        file.seek(0)
        state = dict(torch.load(file, map_location="cpu", weights_only=True))
    _want(state, "key", str)
    _want(state, "epoch", int)
    if state.get("step"):
        _want(state, "step", int)
    if Path(path).name != checkpoint_name(state["epoch"], state.get("step") or 0):
        raise ValueError(f"it is of epoch {state['epoch']}, step {state.get('step')}, unlike its name")
    return state


def check_state(
    state: dict,  # from `read_checkpoint`
    model,  # about to be trained
    parts=(),  # names of what is kept beside model and optimiser: "ema", "scaler"
):
    "Raise ValueError unless a state has all that resuming takes, in this model's shapes."
    for name, kind in dict(data=str, step=int, processes=list, result=dict, model=dict, optimizer=dict).items():
        _want(state, name, kind)
    for name in parts:
        _want(state, name, dict)
    for name in {"model", *parts} - {"scaler"}:
        _check_weights(state[name], model.state_dict(), name)
    _check_optimizer(state["optimizer"], [tuple(p.shape) for p in model.parameters() if p.requires_grad])
    for name, kind in dict(history=list, seconds=float, images=int, device=str).items():
        _want(state["result"], name, kind, "result")
    for entry in state["result"]["history"]:
        _want(entry, "epoch", int, "result.history")
    if bool(state["processes"]) != bool(state["step"]):
        raise ValueError(f"step is {state['step']} with {len(state['processes'])} processes")
    for process in state["processes"]:
        losses = _want(process, "losses", torch.Tensor, "processes")
        if losses.shape != (state["step"],) or not losses.is_floating_point():
            raise ValueError(f"processes.losses has shape {tuple(losses.shape)} after {state['step']} steps")
        _check_rng(_want(process, "rng", dict, "processes"))


def check_start(
    folder,  # for checkpoints, or None
    train,  # a TrainSpec
    policy,  # a CheckpointPolicy, or None
):
    "Raise before a run that could not write its checkpoints, or not load its images."
    if policy and policy.until is not None and folder is None:
        raise ValueError("a run that may stop before its end needs a folder for its checkpoint; give `folder`.")
    if folder is not None:
        check_writable(Path(folder) / checkpoint_name(train.epochs, 1))
    check_main_guard(train.workers)


def _want(values, name, kind, place=""):
    "Return an entry. ValueError names one that is missing, of another type or negative."
    place = f"{place}.{name}".lstrip(".")
    if not isinstance(values, dict) or name not in values:
        raise ValueError(f"{place} is missing")
    value = values[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{place} is of type {type(value).__name__}, wanted {kind.__name__}")
    if kind in (int, float) and not (0 <= value < math.inf):
        raise ValueError(f"{place} is {value}")
    return value


def _check_weights(tensors, wanted, place):
    "Raise ValueError unless tensors have the names and shapes that are wanted, and are finite."
    if different := sorted(map(str, tensors.keys() ^ wanted.keys())):
        raise ValueError(f"{place} lacks or adds {different[0]}")
    for name, t in wanted.items():
        if _want(tensors, name, torch.Tensor, place).shape != t.shape or tensors[name].dtype != t.dtype:
            raise ValueError(f"{place}.{name} is {tuple(tensors[name].shape)}, {tensors[name].dtype}")
    check_finite(tensors, place)


def _check_optimizer(optimizer, shapes):
    "Raise ValueError unless an AdamW's state belongs to parameters of these shapes."
    groups, moments = _want(optimizer, "param_groups", list, "optimizer"), _want(optimizer, "state", dict, "optimizer")
    for group in groups:
        for name, kind in dict(params=list, lr=float, initial_lr=float, betas=(tuple, list), eps=float).items():
            if not isinstance(group.get(name), kind) or kind is float and not math.isfinite(group[name]):
                raise ValueError(f"optimizer.param_groups has no {name}")
    numbers = [number for group in groups for number in group["params"]]
    if sorted(numbers) != list(range(len(shapes))) or not set(moments) <= set(numbers):
        raise ValueError(f"optimizer holds {len(numbers)} parameters, the model has {len(shapes)}")
    for number, moment in moments.items():
        step = _want(moment, "step", torch.Tensor, f"optimizer.state.{number}")
        pair = [_want(moment, name, torch.Tensor, f"optimizer.state.{number}") for name in ("exp_avg", "exp_avg_sq")]
        if pair[0].shape != pair[1].shape or step.numel() != 1:
            raise ValueError(f"optimizer.state.{number} has moments of different shapes")
        check_finite(dict(zip(("exp_avg", "exp_avg_sq"), pair)), f"optimizer.state.{number}")
    if Counter(tuple(moment["exp_avg"].shape) for moment in moments.values()) - Counter(shapes):
        raise ValueError("optimizer has moments of other shapes than the model's parameters")


def _check_rng(rng):
    "Raise, of whatever type, unless random generators take these states."
    kind, words, *rest = rng["numpy"]
    random.Random().setstate(rng["python"])
    np.random.RandomState().set_state((kind, words.numpy().astype(np.uint32), *rest))
    torch.Generator().set_state(rng["torch"])
