"""Checkpoints of a training run: when to write one, writing it atomically, and reading the newest readable one.

Written by hand: accelerate's `save_state` is neither atomic nor free of pickles, and knows no position in an epoch.
"""
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import broadcast


class Paused(Exception):
    "Raised when a run's time is up; the same call resumes from its last checkpoint."


@dataclass
class CheckpointPolicy:
    "When a run writes a checkpoint (by default at each epoch's end), and when it stops."
    steps: int | None = None  # write after every so many steps of an epoch, and at its end
    seconds: float | None = None  # write when the last checkpoint is so many seconds old
    until: float | None = None  # write, and stop, before this time (as `time.time()` counts)


class CheckpointClock:
    "Follow a CheckpointPolicy through a run. Of several processes, the clock of rank 0 counts."

    def __init__(
        self,
        policy: CheckpointPolicy | None,  # None = the default one
        accelerator,  # accelerate's Accelerator of the run
    ):
        self.policy, self.accelerator = policy or CheckpointPolicy(), accelerator
        self.saved_at = time.time()
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
        now = time.time()
        self.longest, self.read_at = max(self.longest, now - (self.read_at or now)), now
        flags = torch.tensor([policy.seconds is not None and now - self.saved_at >= policy.seconds,
                              policy.until is not None and now + self.longest >= policy.until])
        if several:
            flags = broadcast(flags.int().to(self.accelerator.device))
        old, over = flags.tolist()
        return due or bool(old), bool(over)


def save_checkpoint(
    folder,  # where this run's checkpoints lie
    state: dict,  # tensors and plain values; has `epoch` (epochs done) and may have `step` (steps of the next one)
    keep=2,  # how many to keep
):
    "Write a checkpoint atomically; remove older ones, and damaged ones further on."
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    step = f"-step-{state['step']:06d}" if state.get("step") else ""
    path = folder / f"epoch-{state['epoch']:05d}{step}.pt"
    temporary = folder / f".writing-{os.getpid()}"
    try:
        with open(temporary, "wb") as f:
            torch.save(state, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    paths = checkpoint_paths(folder)
    newest = paths.index(path)
    for other in paths[:max(0, newest + 1 - keep)] + paths[newest + 1:]:
        other.unlink()


def checkpoint_paths(
    folder,  # where a run's checkpoints lie
) -> list:
    "Return the paths of all checkpoints, the one furthest on last."
    return sorted(Path(folder).glob("epoch-*.pt"), key=lambda path: path.stem)


def load_checkpoint(
    folder,  # where the run's checkpoints lie
    key: str,  # of the recipe
    log=print,  # told about damaged files
    data=None,  # fingerprint of the images
):  # the state, or None without a checkpoint
    "Read the newest readable checkpoint. ValueError for another recipe or other images."
    for path in reversed(checkpoint_paths(folder)):
        try:
            state = dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as e:  # truncated zip, short read, foreign pickle: torch raises many types
            log(f"{path} is damaged ({type(e).__name__}); resuming from the checkpoint before it.")
            continue
        remedy = f"remove {path.parent} or give another folder."
        if state.get("key") != key:
            raise ValueError(f"{path} is of another recipe ({state.get('key')}, wanted {key}); {remedy}")
        if data and state.get("data", data) != data:
            raise ValueError(f"{path} is of a run on other images ({state['data']}, wanted {data}); {remedy}")
        return state
