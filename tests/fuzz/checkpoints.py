"Damaged checkpoints: the same state, or the one before it; never another one."

import copy
import io
import random
import tempfile
from functools import partial
from pathlib import Path

import torch
from _ddp_worker import vit

from fuzz.damage import change_bytes
from learngene.checkpoints import check_state, load_checkpoint, save_checkpoint

QUICK = 40


def cases(seed):
    rng, model = random.Random(seed), vit()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    result = dict(history=[dict(epoch=0)], seconds=1.0, images=10, device="cpu")
    state = dict(key="k", data="d", epoch=1, step=0, processes=[], result=result, model=model.state_dict(),
                 optimizer=optimizer.state_dict())  # fmt: skip
    owner = tempfile.TemporaryDirectory()  # lives as long as a case that holds it
    folder = Path(owner.name)
    save_checkpoint(folder, state)
    raw = save_and_read(folder, state | dict(epoch=2))
    for i in range(120):
        if i % 3:
            changed, done = change_bytes(rng, raw)
        else:
            damaged, done = _without(rng, state | dict(epoch=2))
            buffer = io.BytesIO()
            torch.save(damaged, buffer)
            changed = buffer.getvalue()
        yield f"{i} {done}", partial(_resume, owner, folder, changed, state, model), ()


def save_and_read(folder, state):
    save_checkpoint(folder, state)
    return (folder / "epoch-00002.pt").read_bytes()


def _without(rng, state):
    "The state without one of its parts."
    state = copy.deepcopy(state)
    inner, path = state, []
    while True:
        key = rng.choice(sorted(inner, key=str))
        path.append(str(key))
        if not isinstance(inner[key], dict) or not inner[key] or rng.random() < 0.4:
            del inner[key]
            return state, f"without {'.'.join(path)}"
        inner = inner[key]


def _resume(owner, folder, raw, state, model):
    (folder / "epoch-00002.pt").write_bytes(raw)
    loaded = load_checkpoint(folder, "k", lambda line: None, "d", partial(check_state, model=model))
    assert loaded["epoch"] in (1, 2)
    assert all(torch.equal(t, state["model"][name]) for name, t in loaded["model"].items()), "other weights"
    moments = state["optimizer"]["state"]
    for number, moment in loaded["optimizer"]["state"].items():
        assert all(torch.equal(moment[name], moments[number][name]) for name in ("exp_avg", "exp_avg_sq"))
