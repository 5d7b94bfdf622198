"""Random generators of Python, NumPy and PyTorch: seeded by epoch, kept in checkpoints, given back to the caller."""
import random
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(
    *entropy,  # whole numbers; other numbers, or another order, give other streams
):
    "Seed all random generators from a few whole numbers."
    mixed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def seed_epoch(
    seed: int,  # of the run
    epoch: int,  # from 1
    rank=0,  # of the process
):
    "Seed all random generators for one epoch of one process."
    seed_all(seed, epoch, rank)


def seed_image(
    seed: int,  # of the run
    epoch: int,  # from 1
    index: int,  # of the image in its dataset
):
    "Seed all random generators for one image, in a process that loads images."
    seed_all(seed, epoch, index, 1)  # the 1 keeps these streams apart from those of `seed_epoch`


@contextmanager
def isolate_rng():
    "Restore the caller's random generators when the block ends."
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def get_rng_state(
    device,  # torch.device of the process
) -> dict:
    "Return the states of all random generators, as tensors and plain values."
    kind, words, position, has_gauss, gauss = np.random.get_state()
    numpy = (kind, torch.from_numpy(words.astype(np.int64)), position, has_gauss, gauss)
    state = dict(python=random.getstate(), numpy=numpy, torch=torch.get_rng_state())
    return state | (dict(cuda=torch.cuda.get_rng_state(device)) if device.type == "cuda" else {})


def set_rng_state(
    state: dict,  # from `get_rng_state`
    device,  # torch.device of the process
):
    "Restore the states of all random generators."
    kind, words, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((kind, words.numpy().astype(np.uint32), *rest))
    set_torch_rng_state(state, device)


def get_torch_rng_state(
    device,  # torch.device of the process
) -> dict:
    "Return the states of PyTorch's generators alone, from which a forward pass draws."
    cuda = device.type == "cuda"
    return dict(torch=torch.get_rng_state(), **(dict(cuda=torch.cuda.get_rng_state(device)) if cuda else {}))


def set_torch_rng_state(
    state: dict,  # from `get_torch_rng_state` or `get_rng_state`
    device,  # torch.device of the process
):
    "Restore the states of PyTorch's generators."
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:  # a run that started on a CPU has none
        torch.cuda.set_rng_state(state["cuda"], device)
