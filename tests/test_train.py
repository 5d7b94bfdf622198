"Training: the same recipe gives the same model, interrupted or not, in one process or two."

import copy
import dataclasses
import itertools
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import learngene as lg

import numpy as np
import pytest
import torch
from _ddp_worker import JOBS, RICH, distributed_fit, recipe, vit
from accelerate.state import AcceleratorState
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from learngene import checkpoints as C
from learngene import train as T
from learngene.batches import EpochBatches, SeededImages
from learngene.checkpoints import CheckpointClock, CheckpointPolicy, Paused, load_checkpoint, save_checkpoint
from learngene.inheriting import inherit
from learngene.processes import device_name
from learngene.rng import get_rng_state, isolate_rng, seed_epoch, set_rng_state
from learngene.train import evaluate, fit
from learngene.vit import build_vit, count_params, vit_config

RICH_TRAIN = dict(epochs=4, ema=0.9, drop_path=0.2, label_smoothing=0.1, clip_grad=1.0, micro_batch=12)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def on_a_cpu():
    "Plain loops and two processes run on a CPU; what a GPU alone does is tested in test_device."
    with pytest.MonkeyPatch.context() as m:
        if torch.cuda.is_available():
            m.setenv("ACCELERATE_USE_CPU", "1")
            AcceleratorState._reset_state(reset_partial_state=True)
        yield
        AcceleratorState._reset_state(reset_partial_state=True)


def data_of(r):
    return lg.load_data(r.data, r.augment)


def same(a, b):
    a, b = (m.state_dict() if isinstance(m, nn.Module) else m for m in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def close(a, b, atol):
    a, b = (m.state_dict() if isinstance(m, nn.Module) else m for m in (a, b))
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], atol=atol, rtol=0) for k in a)


def without_key_bias(model):
    """The state dict without the biases of keys.

    They do not change a softmax: their gradient is rounding noise, which Adam makes as large as any other."""
    state = dict(model.state_dict() if isinstance(model, nn.Module) else model)
    for name in [n for n in state if n.endswith("qkv.bias")]:
        q, _, v = state[name].chunk(3)
        state[name] = torch.cat([q, v])
    return state


def train(r, model=None, folder=None, **kw):
    model = model or vit()
    return model, fit(model, data_of(r), r, folder, **({"on_epoch": False} | kw))


def spy_on_steps(monkeypatch, see):
    "Call `see(model, optimizer, loss)` after each optimiser step; gradients are still there."
    step = T.train_step

    def spied(run, x, y):
        loss = step(run, x, y)
        see(run.wrapped, run.optimizer, loss)
        return loss

    monkeypatch.setattr(T, "train_step", spied)


def shared_child(seed=0):
    "A descendant of three layers whose FFNs come from one centroid, through a transform."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        learngene = lg.condense(vit(), torch.randn(8, 1, 8, 8), eps=100.0)
        assert learngene.ffn_groups == [[0, 1, 2]]
        return inherit(learngene, num_classes=10, ffn="transform")


# --- against a plain loop


def test_weights_are_those_of_a_plain_loop():
    "Two epochs with label smoothing, weight decay, warm-up, cosine and clipping, all written out."
    r = recipe(train=dict(label_smoothing=0.2, clip_grad=0.7, weight_decay=0.3, lr=2e-3, lr_batch=16))
    data, (model, result), own = data_of(r), train(r), vit()
    decayed = [p for n, p in own.named_parameters() if p.ndim > 1 and n not in ("pos_embed", "cls_token")]
    plain = [p for n, p in own.named_parameters() if p.ndim <= 1 or n in ("pos_embed", "cls_token")]
    optimizer = torch.optim.AdamW(
        [dict(params=plain, weight_decay=0.0), dict(params=decayed, weight_decay=0.3)], lr=1.0
    )
    peak, steps, losses, rates = 2e-3 * 32 / 16, len(data.train) // 32, [], []
    own.train()
    for epoch in (1, 2):
        batches = EpochBatches(len(data.train), 32, r.seed)
        batches.epoch = epoch
        for i, batch in enumerate(batches):
            t = (epoch - 1) * steps + i
            lr = (
                1e-6 + t * (peak - 1e-6) / steps
                if t < steps
                else 1e-5 + 0.5 * (peak - 1e-5) * (1 + math.cos(math.pi * t / (2 * steps)))
            )
            x, y = torch.stack([data.train[j][0] for j in batch]), torch.tensor([data.train[j][1] for j in batch])
            loss = F.cross_entropy(own(x), y, label_smoothing=0.2)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(own.parameters(), 0.7)
            for g in optimizer.param_groups:
                g["lr"] = lr
            optimizer.step()
            losses.append(loss.item())
            rates.append(lr)
    assert close(model, own, 1e-5)
    assert not close(model, vit(), 1e-3)
    for epoch in (1, 2):
        entry = result.history[epoch]
        assert entry["train_loss"] == pytest.approx(np.mean(losses[(epoch - 1) * steps : epoch * steps]), abs=1e-5)
        assert entry["lr"] == pytest.approx(rates[epoch * steps - 1], rel=1e-9)
    assert (
        result.images == 2 * steps * 32
        and result.seconds > 0
        and result.images_per_second == result.images / result.seconds
    )


@pytest.mark.parametrize("lr_batch, warmup, batch", [(None, 1, 32), (512, 0, 32), (8, 2, 64)])
def test_schedule_is_timms(monkeypatch, lr_batch, warmup, batch):
    from timm.scheduler import CosineLRScheduler

    r = recipe(train=dict(epochs=3, lr=1e-2, lr_batch=lr_batch, warmup_epochs=warmup, batch_size=batch))
    rates = []
    spy_on_steps(monkeypatch, lambda model, optimizer, loss: rates.append({g["lr"] for g in optimizer.param_groups}))
    train(r)
    peak = 1e-2 * batch / lr_batch if lr_batch else 1e-2
    steps = len(data_of(r).train) // batch
    dummy = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = CosineLRScheduler(
        dummy, 3 * steps, lr_min=1e-5, warmup_t=warmup * steps, warmup_lr_init=1e-6, t_in_epochs=False
    )
    assert len(rates) == 3 * steps
    for t, lr in enumerate(rates):
        schedule.step_update(t)
        assert list(lr) == [pytest.approx(dummy.param_groups[0]["lr"], rel=1e-12)]


def test_a_peak_below_the_ends_is_a_flat_line(monkeypatch):
    rates = []
    spy_on_steps(monkeypatch, lambda model, optimizer, loss: rates.extend(g["lr"] for g in optimizer.param_groups))
    train(recipe(train=dict(lr=1e-7, min_lr=1e-5, warmup_lr=1e-6)))
    assert max(rates) <= 1e-7 + 1e-15


def test_warmup_longer_than_training_ends():
    _, result = train(recipe(train=dict(epochs=1, warmup_epochs=20)))
    assert len(result.history) == 2


def test_no_epochs_at_all():
    model, result = train(recipe(train=dict(epochs=0)))
    assert same(model, vit()) and [e["epoch"] for e in result.history] == [0]


# --- parts


@pytest.mark.parametrize("model", [vit, shared_child])
def test_weight_decay_only_on_matrices(model):
    model = model()
    optimizer = T.make_optimizer(recipe(), model)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = {names[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert groups.keys() == set(names.values()) and sum(len(g["params"]) for g in optimizer.param_groups) == len(names)
    for name, decay in groups.items():
        free = name.endswith("bias") or "norm" in name or ".transform." in name or name in ("cls_token", "pos_embed")
        assert decay == (0 if free else 0.05), name
    if model is shared_child:
        assert any(".transform." in n for n in groups)


def test_clip_grad(monkeypatch):
    norms = []
    spy_on_steps(
        monkeypatch,
        lambda model, optimizer, loss: norms.append(
            torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
        ),
    )
    train(recipe())
    free, norms[:] = list(norms), []
    limit = min(free) / 2
    train(recipe(train=dict(clip_grad=limit)))
    assert all(n == pytest.approx(limit, rel=1e-4) for n in norms)


@pytest.mark.parametrize("micro_batches, clip", [((32, 12), None), ((16, 5), 0.5)])
def test_gradient_accumulation_is_the_whole_batch(micro_batches, clip):
    expected, a = train(recipe(train=dict(clip_grad=clip)))
    for micro in micro_batches:
        pieces, b = train(recipe(train=dict(micro_batch=micro, clip_grad=clip)))
        assert close(without_key_bias(expected), without_key_bias(pieces), 2e-5)
        assert a.history[-1]["train_loss"] == pytest.approx(b.history[-1]["train_loss"], abs=1e-5)


def test_gradient_accumulation_with_mixup_mixes_the_whole_batch():
    change = dict(augment=dict(mixup=0.8, cutmix=1.0))
    expected, _ = train(recipe(**change))
    pieces, _ = train(recipe(train=dict(micro_batch=9), **change))
    assert close(without_key_bias(expected), without_key_bias(pieces), 2e-5)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_drop_path_rises_linearly(depth):
    model = vit(depth=depth)
    T.set_drop_path(model, 0.3)
    for name in ("drop_path1", "drop_path2"):
        assert [getattr(getattr(b, name), "drop_prob", 0.0) for b in model.blocks] == pytest.approx(
            torch.linspace(0, 0.3, depth).tolist()
        )
    T.set_drop_path(model, 0.0)
    assert all(isinstance(b.drop_path1, nn.Identity) for b in model.blocks)


def test_each_setting_changes_the_result():
    "A setting that is read and forgotten would leave the weights as they are."
    base, _ = train(recipe(train=dict(epochs=1, warmup_epochs=0)))
    for part, change in [
        ("train", dict(label_smoothing=0.3)),
        ("train", dict(drop_path=0.5)),
        ("train", dict(ema=0.5)),
        ("train", dict(weight_decay=0.9)),
        ("train", dict(clip_grad=0.1)),
        ("train", dict(precision="bf16")),
        ("augment", dict(mixup=0.8)),
        ("augment", dict(cutmix=1.0)),
        ("augment", dict(hflip=0.5)),
        ("augment", dict(erasing=0.9)),
        ("augment", dict(crop="resized")),
        ("augment", dict(crop="pad", pad=1)),
        ("augment", dict(rand_augment="rand-m9-mstd0.5-inc1")),
    ]:
        changed, _ = train(
            recipe(
                **{
                    "train": dict(epochs=1, warmup_epochs=0) | (change if part == "train" else {}),
                    **({part: change} if part != "train" else {}),
                }
            )
        )
        assert not same(base, changed), (part, change)
    assert same(base, train(recipe(train=dict(epochs=1, warmup_epochs=0)))[0])


def test_mixup_losses_use_soft_targets():
    loss = T.TrainingLoss(
        recipe(augment=dict(mixup=0.8), train=dict(label_smoothing=0.2)),
        SimpleNamespace(num_classes=10),
        torch.device("cpu"),
    )
    x, y = loss.mix(torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 3, 4]))
    logits = torch.randn(4, 10)
    assert y.shape == (4, 10) and torch.allclose(y.sum(1), torch.ones(4)) and y.min() == pytest.approx(0.02)
    assert loss(logits, y, x).item() == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-6)


def average_by_hand(model, averages):
    "Moving averages by hand, of each parameter once, from the initial weights on."
    averages.update({n: p.detach().clone() for n, p in model.named_parameters()})

    def see(wrapped, optimizer, loss):
        for n, p in model.named_parameters():
            averages[n] = 0.8 * averages[n] + 0.2 * p.detach()

    return see


@pytest.mark.parametrize("make", [vit, pytest.param(shared_child)])
def test_the_moving_average_is_the_result(monkeypatch, make):
    model, averages = make(), {}
    judged = copy.deepcopy(model)
    spy_on_steps(monkeypatch, average_by_hand(model, averages))
    r = recipe(train=dict(ema=0.8, warmup_epochs=0))
    model, result = train(r, model)
    for n, p in judged.named_parameters():
        p.data.copy_(averages[n])
    judged = lg.inheriting.merge(judged).eval()
    assert close(model, judged, 1e-6)
    assert evaluate(judged, data_of(r).val)["loss"] == pytest.approx(result.history[-1]["val_loss"], abs=1e-5)


# --- order and evaluation


def test_every_epoch_and_process_has_its_own_seeds():
    draws = {}
    with isolate_rng():
        for seed, epoch, rank in [(0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1), (1, 0, 0)]:
            seed_epoch(seed, epoch, rank)
            draws[seed, epoch, rank] = torch.rand(1).item(), np.random.rand(), random.random()
        seed_epoch(0, 1, 0)
        assert draws[0, 1, 0] == (torch.rand(1).item(), np.random.rand(), random.random())
    assert all(len(set(column)) == len(draws) for column in zip(*draws.values()))


def test_loading_processes_seed_by_run_epoch_and_image():
    class Draws:
        def __getitem__(self, i):
            return torch.rand(1).item(), np.random.rand(), random.random()

    def draw(seed, epoch, i):
        batches = EpochBatches(9, 3, seed)
        batches.epoch = epoch
        return SeededImages(Draws(), batches)[i]

    with isolate_rng():
        draws = [draw(*entropy) for entropy in [(0, 1, 3), (1, 1, 3), (0, 2, 3), (0, 1, 4), (0, 1, 3)]]
        seed_epoch(0, 1, 3)
        draws.append(Draws()[0])  # a process entropy that number draws others
    assert draws.pop(4) == draws[0] and all(len(set(column)) == 5 for column in zip(*draws))


def test_batches_are_a_new_permutation_each_epoch():
    a = EpochBatches(11, 4, seed=3)
    a.epoch = 1
    first = [i for b in a for i in b]
    assert len(first) == 8 == len(set(first)) and list(map(len, a)) == [4, 4] and len(a) == 2
    a.epoch = 2
    second = [i for b in a for i in b]
    b = EpochBatches(11, 4, seed=4)
    b.epoch = 1
    assert first != second and first != [i for x in b for i in x]
    a.epoch = 1
    torch.randn(3)
    assert first == [i for b in a for i in b]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_a_batch_without_overlap(world):
    expected = list(EpochBatches(30, 8, 0))
    parts = [list(EpochBatches(30, 8, 0, rank, world)) for rank in range(world)]
    assert [sum((p[i] for p in parts), []) for i in range(len(expected))] == expected


def test_evaluate_by_hand():
    data, model = lg.load_data("digits"), vit().train()
    measured = evaluate(model, data.test, batch_size=77)
    assert model.training
    with torch.no_grad():
        logits = vit()(torch.stack([x for x, _ in data.test]))
    y = torch.tensor(data.test.labels)
    assert measured["images"] == len(data.test)
    assert measured["accuracy"] == pytest.approx((logits.argmax(1) == y).double().mean().item(), abs=1e-12)
    assert measured["loss"] == pytest.approx(F.cross_entropy(logits, y).item(), abs=1e-6)
    assert not vit().training
    with pytest.raises(ValueError, match="no images"):
        evaluate(model, torch.utils.data.Subset(data.test, []))


# --- random generators


def states():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()


def same_states(a, b):
    return torch.equal(a[0], b[0]) and (a[1] == b[1]).all() and a[2] == b[2]


def test_the_callers_rng_is_left_alone_and_does_not_matter():
    r = recipe(augment=RICH, train=dict(drop_path=0.2))
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = states()
    a, _ = train(r)
    assert same_states(before, states())
    torch.manual_seed(2), np.random.seed(2), random.seed(2)
    b, _ = train(r)
    assert same(a, b)
    assert not same(a, train(recipe(seed=1, augment=RICH, train=dict(drop_path=0.2)))[0])


def test_evaluation_draws_no_random_number():
    data, before = lg.load_data("digits"), states()
    evaluate(vit(), torch.utils.data.Subset(data.test, range(9)))
    assert same_states(before, states())


def test_validating_less_often_does_not_change_training():
    a, x = train(recipe(augment=RICH, train=dict(epochs=3)))
    b, y = train(recipe(augment=RICH, train=dict(epochs=3, eval_every=2)))
    assert same(a, b)
    assert [e["epoch"] for e in x.history] == [0, 1, 2, 3] and [e["epoch"] for e in y.history] == [0, 2, 3]


# --- interruptions


@pytest.fixture(scope="module")
def uninterrupted():
    torch.set_num_threads(1)
    return train(recipe(augment=RICH, train=RICH_TRAIN))


@pytest.mark.parametrize("stops", [[4], [1, 3]])
def test_resume_is_bit_equal(uninterrupted, tmp_path, stops):
    "With Mixup, CutMix, RandAugment, erasing, drop path, EMA, clipping and accumulation."
    r, entries = recipe(augment=RICH, train=RICH_TRAIN), []
    for stop in stops:
        model = vit() if stop == stops[0] else vit(7)  # the weights that a resumed run is given do not matter
        train(r, model, tmp_path, stop_after=stop, on_epoch=entries.append)
        torch.randn(stop), np.random.rand(stop), random.random()
    model, result = train(r, vit(8), tmp_path, on_epoch=entries.append)
    assert same(model, uninterrupted[0])
    assert result.history == uninterrupted[1].history == entries  # each epoch is reported once
    assert result.resumed_at == stops[-1] and result.images == uninterrupted[1].images
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["epoch-00003.pt", "epoch-00004.pt"]


@pytest.mark.parametrize("step", [0, 5, 15])
def test_interrupted_within_an_epoch(uninterrupted, tmp_path, monkeypatch, step):
    r, steps = recipe(augment=RICH, train=RICH_TRAIN), []

    def strike(*_):
        steps.append(1)
        if len(steps) > step:
            raise KeyboardInterrupt

    before = states()
    with monkeypatch.context() as m:
        spy_on_steps(m, strike)
        with pytest.raises(KeyboardInterrupt):
            train(r, vit(), tmp_path)
    assert same_states(before, states())
    model, result = train(r, vit(), tmp_path)
    assert same(model, uninterrupted[0]) and result.history == uninterrupted[1].history
    assert result.resumed_at == (step // 4 or None)


@pytest.mark.parametrize("kills", [[1], [4], [7], [2, 3, 9], [15]])
def test_interrupted_at_any_step(uninterrupted, tmp_path, monkeypatch, kills):
    "A checkpoint after every step; killed within the step after the k-th, several times in a row."
    r, done_steps = recipe(augment=RICH, train=RICH_TRAIN), []

    def strike(*_):
        done_steps.append(1)
        if len(done_steps) > kill:
            raise KeyboardInterrupt

    for kill in kills:
        with monkeypatch.context() as m:
            spy_on_steps(m, strike)
            with pytest.raises(KeyboardInterrupt):
                train(r, vit(kill if done_steps else 0), tmp_path, policy=CheckpointPolicy(steps=1))
        done_steps[:] = [1] * kill
        torch.randn(kill), np.random.rand(kill), random.random()
    model, result = train(r, vit(9), tmp_path, policy=CheckpointPolicy(steps=1))
    assert (
        same(model, uninterrupted[0])
        and result.history == uninterrupted[1].history
        and result.images == uninterrupted[1].images
    )
    assert result.resumed_at == pytest.approx(kills[-1] / 4)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["epoch-00003-step-000003.pt", "epoch-00004.pt"]


def test_rng_states_matter_to_the_resumed_run(uninterrupted, tmp_path, monkeypatch):
    "The test above can fail: without the states of the generators the weights differ."
    r = recipe(augment=RICH, train=RICH_TRAIN)
    with pytest.raises(Paused):
        train(r, vit(), tmp_path, policy=CheckpointPolicy(until=0.0))
    monkeypatch.setattr(T, "set_rng_state", lambda state, device: None)
    model, _ = train(r, vit(), tmp_path)
    assert not same(model, uninterrupted[0])


@pytest.fixture(scope="module")
def uninterrupted_with_workers():
    torch.set_num_threads(1)
    return train(recipe(augment=RICH, train=dict(workers=2)))


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_within_an_epoch_with_loading_processes(uninterrupted_with_workers, tmp_path, workers):
    "Also with another number of loading processes than before."
    r = recipe(augment=RICH, train=dict(workers=2))
    expected, a = uninterrupted_with_workers
    with pytest.raises(Paused, match="step 1 of 4 in epoch 1 of 2"):
        train(r, vit(), tmp_path, policy=CheckpointPolicy(until=0.0))
    object.__setattr__(r.train, "workers", workers)  # the recipe's key is made already
    state = torch.load(tmp_path / "epoch-00000-step-000001.pt")
    torch.save(state | dict(key=r.key), tmp_path / "epoch-00000-step-000001.pt")
    model, b = train(r, vit(), tmp_path)
    assert same(expected, model) and a.history == b.history


def test_the_time_is_up_again_and_again(uninterrupted, tmp_path):
    "Each call does one step; at the end of an epoch the run stops after its validation."
    r, calls, entries = recipe(augment=RICH, train=RICH_TRAIN), 0, []
    while True:
        try:
            model, result = train(r, vit(calls), tmp_path, on_epoch=entries.append, policy=CheckpointPolicy(until=0.0))
            break
        except Paused:
            calls += 1
            assert 1 <= len(list(tmp_path.iterdir())) <= 2
    assert calls == 15 and entries == result.history  # sixteen steps; the last one ends the run
    assert same(model, uninterrupted[0]) and result.history == uninterrupted[1].history


def test_stopping_wants_a_folder():
    with pytest.raises(ValueError, match="give `folder`"):
        train(recipe(), policy=CheckpointPolicy(until=0.0))


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(T, "save_checkpoint", lambda folder, state: written.append((state["epoch"], state["step"])))
    train(recipe(), vit(), tmp_path, policy=CheckpointPolicy(seconds=1e6))
    assert written == []
    train(recipe(), vit(), tmp_path, policy=CheckpointPolicy(seconds=0))
    assert written == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
    looks, seconds = itertools.count(100), itertools.count()  # each look at a clock is a second after the one before it
    for module in (C, T):
        monkeypatch.setattr(
            module, "time", SimpleNamespace(monotonic=lambda: next(looks), perf_counter=lambda: next(seconds))
        )
    written.clear()
    _, result = train(recipe(), vit(), tmp_path, policy=CheckpointPolicy(seconds=3))
    assert written == [(0, 3), (1, 2)] and result.seconds == 4, (
        "two epochs in two pieces each, without the time of writing"
    )


def test_a_run_stops_before_the_time_is_up(monkeypatch):
    "The time is up at 10, and the longest step took three seconds: at 7 another one would end too late."
    clock = iter([0.0, 1.0, 4.0, 5.0, 6.9, 7.0])
    policy = CheckpointPolicy(until=10.0)
    monkeypatch.setattr(C, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    watch = CheckpointClock(policy, SimpleNamespace(num_processes=1))
    assert [watch.read(step)[1] for step in range(1, 6)] == [False] * 4 + [True]


def test_a_damaged_checkpoint_within_an_epoch(uninterrupted, tmp_path, capsys):
    r = recipe(augment=RICH, train=RICH_TRAIN)
    for _ in range(3):
        with pytest.raises(Paused):
            train(r, vit(), tmp_path, policy=CheckpointPolicy(until=0.0))
    newest = tmp_path / "epoch-00000-step-000003.pt"
    newest.write_bytes(newest.read_bytes()[:3000])
    model, result = train(r, vit(), tmp_path)
    assert "step-000003.pt is damaged" in capsys.readouterr().out
    assert result.resumed_at == 0.5 and same(model, uninterrupted[0]) and result.history == uninterrupted[1].history
    assert not newest.exists()


def test_what_a_damaged_checkpoint_leaves_further_on_does_not_push_out_good_ones(tmp_path):
    for step in (1, 2, 9):
        save_checkpoint(tmp_path, dict(epoch=0, step=step, key="k"))
    (tmp_path / "epoch-00000-step-000009.pt").write_bytes(b"x")
    assert load_checkpoint(tmp_path, "k", lambda s: None)["step"] == 2
    save_checkpoint(tmp_path, dict(epoch=0, step=3, key="k"))
    assert [p.stem[-1] for p in sorted(tmp_path.iterdir())] == ["2", "3"]


def test_the_rng_state_of_a_cpu_on_a_gpu(monkeypatch):
    "A run that was interrupted on a CPU has no state of a GPU's generator."
    put = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put.append(state))
    with isolate_rng():
        state = get_rng_state(torch.device("cpu"))
        first = torch.rand(3)
        set_rng_state(state, torch.device("cuda"))
        assert torch.equal(first, torch.rand(3)) and not put
        set_rng_state(state | dict(cuda=state["torch"]), torch.device("cuda"))
    assert len(put) == 1


def test_a_run_that_resumes_elsewhere_names_both_devices(tmp_path, monkeypatch):
    for stop_after, device, wanted in [
        (1, "old", "old"),
        (2, "new", "old, new"),
        (3, "new", "old, new"),
        (None, "old", "old, new"),
    ]:
        monkeypatch.setattr(T, "device_name", lambda d, device=device: device)
        assert train(recipe(train=dict(epochs=4)), vit(), tmp_path, stop_after=stop_after)[1].device == wanted
    assert device_name(torch.device("cpu")) == "cpu"


def test_an_epoch_that_more_processes_started(tmp_path):
    with pytest.raises(Paused):
        train(recipe(), vit(), tmp_path, policy=CheckpointPolicy(until=0.0))
    path = tmp_path / "epoch-00000-step-000001.pt"
    state = torch.load(path)
    torch.save(state | dict(processes=state["processes"] * 2), path)
    with pytest.raises(
        ValueError, match="cannot resume with 1 processes: the run was interrupted within an epoch of 2; start as many"
    ):
        train(recipe(), vit(), tmp_path)


KILLED = """
import sys; sys.path.insert(0, {here!r})
import learngene as lg, torch
from _ddp_worker import RICH, recipe, vit
from learngene import train as T
from learngene.checkpoints import CheckpointPolicy
torch.set_num_threads(1)
step = T.train_step
def spied(*a):
    print("step", flush=True)
    return step(*a)
T.train_step = spied
r = recipe(augment=RICH, train={train!r})
T.fit(vit(), lg.load_data(r.data, r.augment), r, {folder!r}, on_epoch=False, policy=CheckpointPolicy(steps=1))
"""


def test_killed_by_signal_within_an_epoch(uninterrupted, tmp_path):
    code = KILLED.format(here=str(Path(__file__).parent), train=RICH_TRAIN, folder=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | dict(OMP_NUM_THREADS="1"),
    )
    for steps, _ in enumerate(process.stdout, 1):
        if steps == 7:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    model, result = train(recipe(augment=RICH, train=RICH_TRAIN), vit(3), tmp_path)
    assert 1 <= result.resumed_at < 4
    assert same(model, uninterrupted[0]) and result.history == uninterrupted[1].history


def test_resume_with_a_shared_ffn(tmp_path):
    r = recipe(train=dict(epochs=3, ema=0.9))
    expected, a = train(r, shared_child())
    train(r, shared_child(), tmp_path, stop_after=2)
    resumed, b = train(r, shared_child(), tmp_path)
    assert same(expected, resumed) and a.history == b.history


def test_a_stopped_run_resumes_with_its_own_model(tmp_path):
    r = recipe(train=dict(epochs=2, ema=0.9))
    model, _ = train(r, shared_child(), tmp_path, stop_after=1)
    assert same(train(r, model, tmp_path)[0], train(r, shared_child())[0])


def test_a_checkpoint_of_other_images_is_refused(tmp_path):
    train(recipe(train=dict(epochs=2)), folder=tmp_path, stop_after=1)
    other = dataclasses.replace(data_of(recipe()), fingerprint="0" * 16)
    with pytest.raises(ValueError, match="run on other images"):
        fit(vit(), other, recipe(train=dict(epochs=2)), tmp_path, on_epoch=False)


def test_resume_in_bf16_and_with_loading_processes(tmp_path):
    r = recipe(augment=RICH, train=dict(precision="bf16", workers=2))
    expected, a = train(r)
    train(r, vit(), tmp_path, stop_after=1)
    resumed, b = train(r, vit(), tmp_path)
    assert same(expected, resumed) and a.history == b.history


def test_a_damaged_newest_checkpoint_falls_back(uninterrupted, tmp_path, capsys):
    r = recipe(augment=RICH, train=RICH_TRAIN)
    train(r, vit(), tmp_path / "whole", stop_after=2)
    for damage in ("cut", "noise", "all"):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / damage)
        newest = folder / "epoch-00002.pt"
        newest.write_bytes(dict(cut=newest.read_bytes()[:-100], noise=b"x" * 5000, all=b"")[damage])
        if damage == "all":
            (folder / "epoch-00001.pt").write_bytes(b"")
        model, result = train(r, vit(), folder)
        assert same(model, uninterrupted[0]) and result.history == uninterrupted[1].history
        assert result.resumed_at == (None if damage == "all" else 1)
        assert "epoch-00002.pt is damaged" in capsys.readouterr().out


def test_checkpoints_are_never_pickles(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "epoch-00001.pt").write_bytes(pickle.dumps(Evil()))
    torch.save(dict(key="k", epoch=2, evil=Evil()), tmp_path / "epoch-00002.pt")
    assert load_checkpoint(tmp_path, "k", lambda s: None) is None
    assert not (tmp_path / "ran").exists()


def test_another_recipes_checkpoint_is_refused(tmp_path):
    train(recipe(), vit(), tmp_path, stop_after=1)
    before, model = (tmp_path / "epoch-00001.pt").read_bytes(), vit()
    with pytest.raises(ValueError, match="another recipe"):
        train(recipe(seed=1), model, tmp_path)
    assert (tmp_path / "epoch-00001.pt").read_bytes() == before
    train(recipe(name="another name"), vit(), tmp_path)  # names do not matter


def test_writing_a_checkpoint_is_all_or_nothing(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, dict(epoch=1, key="k"))

    def half(state, f):
        f.write(b"PK half")
        raise OSError("no space left")

    with monkeypatch.context() as m:
        m.setattr(torch, "save", half)
        for epoch in (1, 2):
            with pytest.raises(OSError):
                save_checkpoint(tmp_path, dict(epoch=epoch, key="k"))
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-00001.pt"]
    assert load_checkpoint(tmp_path, "k")["epoch"] == 1


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")]
)
def test_a_full_disk_costs_no_training(uninterrupted, tmp_path, monkeypatch, capsys, error):
    r, save = recipe(augment=RICH, train=RICH_TRAIN), torch.save

    def full(state, f):
        if state["epoch"] in (2, 3):
            f.write(b"PK half")
            raise error
        save(state, f)

    monkeypatch.setattr(torch, "save", full)
    model, result = train(r, vit(), tmp_path)
    assert same(model, uninterrupted[0]) and result.history == uninterrupted[1].history
    out = capsys.readouterr().out
    assert out.count("could not be written") == 2 and "the one before it is kept" in out and str(tmp_path) in out
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["epoch-00001.pt", "epoch-00004.pt"]
    monkeypatch.setattr(torch, "save", lambda state, f: (_ for _ in ()).throw(error))
    with pytest.raises(OSError, match="could not be written"):  # one that has to stop needs its checkpoint
        train(r, vit(), tmp_path / "new", policy=CheckpointPolicy(until=0.0))


def test_a_checkpoint_of_something_else(tmp_path):
    torch.save([1, 2], tmp_path / "epoch-00009.pt")
    assert load_checkpoint(tmp_path, "k", lambda s: None) is None


# --- out of memory


def little_memory(monkeypatch, most, ever=lambda: True):
    "A device that holds activations of `most` images; the sizes that were tried."
    tried, forward = [], torch.nn.Module.__call__

    def call(self, x, *rest, **kw):
        if isinstance(self, TimmViT) and self.training:
            tried.append(len(x))
            if len(x) > most and ever():
                torch.rand(3)  # what the attempt drew before it failed
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, x, *rest, **kw)

    monkeypatch.setattr(torch.nn.Module, "__call__", call)
    return tried


@pytest.mark.parametrize("most, micro, begin", [(16, 16, None), (15, 8, None), (5, 3, 12)])
def test_out_of_memory_halves_the_micro_batch(tmp_path, monkeypatch, capsys, most, micro, begin):
    rich = dict(RICH_TRAIN, epochs=2)
    expected, a = train(recipe(augment=RICH, train=rich | dict(micro_batch=micro)))
    losses = {}
    with monkeypatch.context() as m:
        tried = little_memory(m, most)
        spy_on_steps(m, lambda model, optimizer, loss: losses.setdefault("steps", []).append(loss.item()))
        r = recipe(augment=RICH, train=rich | dict(micro_batch=begin))
        model, b = train(r, vit(), tmp_path)
        assert (
            sum(n > most for n in tried) == len(tried) - len([n for n in tried if n <= most]) <= 3
        )  # halved once, and kept
    assert same(expected, model) and a.history == b.history and b.micro_batch == micro
    assert a.images == b.images and len(losses["steps"]) == 8
    output = capsys.readouterr().out
    assert f"continuing with {micro} at once, in batches of 32 as before" in output
    state = torch.load(tmp_path / "epoch-00002.pt")
    assert state["result"]["micro_batch"] == micro


def test_a_halved_micro_batch_survives_a_resume(tmp_path, monkeypatch):
    r = recipe(augment=RICH, train=RICH_TRAIN)
    with monkeypatch.context() as m:
        little_memory(m, 6)
        expected, a = train(r)
        with pytest.raises(Paused):
            train(r, vit(), tmp_path, policy=CheckpointPolicy(until=0.0))
        tried = little_memory(m, 6)
        model, b = train(r, vit(), tmp_path)
        assert max(tried) <= 6
    assert same(expected, model) and a.history == b.history


def test_out_of_memory_with_one_image(monkeypatch):
    little_memory(monkeypatch, 0)
    with pytest.raises(
        torch.OutOfMemoryError, match="cpu has not enough memory for 1 images at once; set train.micro_batch to 1"
    ):
        train(recipe())


# --- what a finished model is


def test_finished_models_are_plain():
    model, _ = train(recipe(train=dict(drop_path=0.2)), shared_child())
    assert not model.training and not any(parametrize.is_parametrized(m) for m in model.modules())
    assert type(model.blocks[0].mlp.fc1) is nn.Linear
    plain = build_vit(vit_config(model), device="cpu")
    plain.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(plain(x), model(x)) and torch.equal(copy.deepcopy(model)(x), model(x))
    assert all(p.requires_grad for p in model.parameters())


def test_the_transform_is_trained_end_to_end():
    model, first, last = shared_child(), {}, {}
    before = count_params(model)

    def watch(entry):
        into = first if entry["epoch"] == 0 else last
        into.update(
            {n: p.detach().clone() for n, p in model.named_parameters() if ".transform." in n or n.endswith("original")}
        )

    start = {
        f"{i}{fc}": getattr(b.mlp, fc).weight.detach().clone()
        for i, b in enumerate(model.blocks)
        for fc in ("fc1", "fc2")
    }
    assert torch.equal(start["0fc1"], start["1fc1"])
    train(recipe(train=dict(lr=1e-2)), model, on_epoch=watch)
    assert len(first) == 10  # for each of two matrices: scale, shift, mix, offset, and the one original
    for name in first:
        assert not torch.equal(first[name], last[name]), name
    assert not torch.equal(model.blocks[0].mlp.fc1.weight, model.blocks[1].mlp.fc1.weight)
    assert count_params(model) > before


def test_merging_at_the_end_keeps_the_function():
    "The judged validation loss is that of the merged model."
    r, model = recipe(), shared_child()
    model, result = train(r, model)
    assert evaluate(model, data_of(r).val)["loss"] == pytest.approx(result.history[-1]["val_loss"], abs=1e-6)


def test_precision_changes_between_runs_of_one_process():
    a, _ = train(recipe())
    b, x = train(recipe(train=dict(precision="bf16")))
    c, _ = train(recipe())
    assert same(a, c) and not same(a, b) and math.isfinite(x.history[-1]["train_loss"])
    assert all(p.dtype == torch.float32 for p in b.parameters())


def test_a_model_trained_in_bf16_is_a_plain_fp32_model_afterwards():
    model, _ = train(recipe(train=dict(precision="bf16")))
    plain, x = vit(), torch.randn(4, 1, 8, 8)
    plain.load_state_dict(model.state_dict())
    assert "forward" not in vars(model)
    assert torch.equal(model(x), plain(x))


def test_what_accelerate_sets_for_good_is_taken_back(monkeypatch):
    "Compiling on a GPU it lowers the matmul precision, and it marks the model as prepared."

    class Careless(T.Accelerator):
        def __init__(self, *args, **kw):
            super().__init__(*args, **kw)
            torch.set_float32_matmul_precision("medium")

    precisions, step, before = [], T.train_step, torch.get_float32_matmul_precision()
    monkeypatch.setattr(T, "Accelerator", Careless)
    monkeypatch.setattr(
        T, "train_step", lambda *args: (precisions.append(torch.get_float32_matmul_precision()), step(*args))[1]
    )
    model, _ = train(recipe(train=dict(epochs=1)))
    assert {*precisions, torch.get_float32_matmul_precision()} == {before}
    assert vars(model).keys() - {"pretrained_cfg"} == vars(vit()).keys(), "what is noted of its images stays"


def test_compiled_code_does_not_outlive_a_run(monkeypatch):
    "PyTorch compiles few versions of one function, and silently runs further ones uncompiled."
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    reset, called = torch.compiler.reset, []
    monkeypatch.setattr(torch.compiler, "reset", lambda: (called.append(1), reset())[1])
    train(recipe(train=dict(epochs=1)))
    assert called == [1]
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND")
    train(recipe(train=dict(epochs=1)))
    assert called == [1]


def test_a_model_whose_training_failed_is_plain_again():
    model = vit()
    with pytest.raises(FloatingPointError):
        train(recipe(train=dict(precision="bf16", lr=1e30, warmup_epochs=0)), model)
    assert "forward" not in vars(model)


def test_training_a_model_again(tmp_path):
    "A finished model is a model: it can be trained on."
    r = recipe()
    model, _ = train(r)
    once = copy.deepcopy(model)
    train(r, model)
    assert not same(model, once)


# --- bad input


def test_nan_loss(tmp_path):
    before = states()
    with pytest.raises(FloatingPointError, match="loss became nan in epoch 1; lower train.lr"):
        train(recipe(train=dict(lr=1e30, warmup_epochs=0)), vit(), tmp_path)
    assert list(tmp_path.glob("*")) == [] and same_states(before, states())


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(num_classes=7), "digits has 10 classes, the model's classifier 7"),
        (dict(in_chans=3), "digits has 1 channel, the model takes 3"),
        (dict(img_size=16), "images of 8 px, the model takes 16"),
    ],
)
def test_models_that_do_not_fit_the_data(tmp_path, change, says):
    model = vit(**change)
    with pytest.raises(ValueError, match=says):
        train(recipe(), model, tmp_path / "checkpoints")
    assert same(model, vit(**change)) and not (tmp_path / "checkpoints").exists()


def test_more_classes_than_the_data_has_is_fine():
    train(recipe(augment=dict(mixup=0.8), train=dict(epochs=1)), vit(num_classes=12))


def test_not_a_vit():
    with pytest.raises(TypeError, match="Linear is no model of timm; only these can be trained"):
        train(recipe(), nn.Linear(2, 2))


def test_mixup_wants_even_batches():
    with pytest.raises(ValueError, match="even number.*here it is 31; change train.batch_size"):
        train(recipe(augment=dict(mixup=0.5), train=dict(batch_size=31)))


def test_without_validation_images():
    _, result = train(recipe(data=dict(fraction=0.12, val_fraction=0)))
    assert all("val_accuracy" not in e for e in result.history) and len(result.history) == 3
    T.print_epoch(result.history[-1])


def test_batch_larger_than_the_data():
    _, result = train(recipe(data=dict(fraction=0.01), train=dict(batch_size=64)))
    n = len(lg.load_data(recipe(data=dict(fraction=0.01)).data).train)
    assert n < 64 and result.images == 2 * n


def test_a_line_an_epoch(capsys):
    train(recipe(), on_epoch=None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("epoch   0   validation accuracy") and "loss" in lines[2]
    train(recipe())
    assert capsys.readouterr().out == ""


# --- two processes


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "What two processes reported, by rank, and their folder."
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    worker = Path(__file__).with_name("_ddp_worker.py")
    env = os.environ | dict(OMP_NUM_THREADS="1", LEARNGENE_HOME=str(folder / "home"), CUDA_VISIBLE_DEVICES="")
    env.pop("ACCELERATE_USE_CPU", None)  # two processes on CPUs find each other by themselves
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            "--master-addr=127.0.0.1",
            f"--master-port={port}",
            str(worker),
            str(folder),
        ],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return [json.loads((folder / f"report-{rank}.json").read_text()) for rank in (0, 1)], folder


@pytest.mark.parametrize("job", JOBS)
def test_two_processes_end_with_the_same_weights(two, job):
    (a, b), _ = two
    assert a[job] == b[job]
    assert a[job]["processes"] == 2


def test_two_processes_interrupted_within_an_epoch(two):
    (a, b), _ = two
    assert (
        a["resumed"] == b["resumed"]
        and a["resumed"]["resumed_at"] == 1.5
        and "after epoch 1 of 2" in a["resumed"]["paused"]
    )
    assert all(a["resumed"][name] == a["rich"][name] for name in ("weights", "history"))


def test_two_processes_that_read_different_checkpoints(two):
    "Each was given a folder of its own; only the first process writes checkpoints."
    for report in two[0]:
        assert "the processes read different checkpoints" in report["apart"]


@pytest.mark.parametrize("job", ["plain", "steep", "device"])
def test_two_processes_train_as_one(two, job):
    "The same global batches, without augmentation or with the device's: equal up to the order of additions."
    from safetensors.torch import load_file

    (a, _), folder = two
    one, model = distributed_fit(**JOBS[job])
    assert one["processes"] == 1 and one["images"] == a[job]["images"]
    assert close(without_key_bias(load_file(folder / f"{job}-1.safetensors")), without_key_bias(model), 2e-5)
    for x, y in zip(one["history"], a[job]["history"], strict=True):
        assert x.keys() == y.keys()
        assert all(x[k] == pytest.approx(y[k], abs=2e-5) for k in x if x[k] is not None)


def test_peak_memory_is_of_this_process_alone(tmp_path):
    "A child's resource usage starts from its parent's; a benchmark's processes would all tell the parent's peak."
    code = """
import multiprocessing as mp
from concurrent.futures import ProcessPoolExecutor
import torch
from learngene.processes import peak_memory_mb

if __name__ == "__main__":
    big = torch.ones(2**30 // 4)  # 1 GiB
    with ProcessPoolExecutor(1, mp_context=mp.get_context("spawn")) as pool:
        print(peak_memory_mb(torch.device("cpu")), pool.submit(peak_memory_mb, torch.device("cpu")).result())
"""
    (tmp_path / "big.py").write_text(code)
    process = subprocess.run([sys.executable, tmp_path / "big.py"], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    parent, child = map(float, process.stdout.split())
    assert 100 < child < parent - 700


def test_two_processes_count_every_image_once(two):
    (a, b), _ = two
    data = lg.load_data("digits")
    alone = evaluate(vit(), torch.utils.data.Subset(data.test, range(101)))
    assert a["evaluate"] == b["evaluate"] and a["evaluate"]["images"] == 101
    assert a["evaluate"]["accuracy"] == pytest.approx(alone["accuracy"], abs=1e-12) and a["evaluate"][
        "loss"
    ] == pytest.approx(alone["loss"], abs=1e-6)
    assert a["evaluate_one"]["images"] == 1


def test_two_processes_write_one_record(two):
    (a, b), folder = two
    (path,) = (folder / "single").rglob("*.json")
    record = json.loads(path.read_text())
    assert a["single"] == b["single"] and a["single"]["processes"] == record["run_info"]["processes"] == 2
    assert record["meta_info"]["weights"] == a["single"]["weights"] and len(record["train_info"]["history"]) == 3
    assert record["meta_info"]["params"] == count_params(vit())
    assert not [p for p in (folder / "home" / "checkpoints").iterdir() if p.name.startswith(record["run_info"]["key"])]


def test_two_processes_train_and_share_an_ancestry(two):
    (a, b), folder = two
    assert "error" not in a["run"] and "error" not in b["run"], (a["run"], b["run"])
    assert a["run"] == b["run"] and a["run"]["processes"] == 2
    assert len(list((folder / "ledger").rglob("*.json"))) == 1
    assert len(list((folder / "home" / "ancestries").glob("teacher-*"))) == 1


@pytest.mark.parametrize(
    "n, batch, world, pairs, wanted",
    [
        (301, 640, 1, True, 300),
        (1001, 2048, 2, False, 1000),
        (1003, 2048, 2, True, 1000),
        (301, 64, 1, True, 64),
        (301, 640, 1, False, 301),
    ],
)
def test_too_few_images_for_a_batch_make_a_smaller_one(n, batch, world, pairs, wanted):
    assert EpochBatches(n, batch, 0, 0, world, pairs).batch_size == wanted


def test_no_images_make_no_batch():
    with pytest.raises(ValueError, match="1 training images make no batch, which takes at least 2"):
        EpochBatches(1, 64, 0, pairs=True)


def test_the_learning_rate_is_that_of_the_batch_in_use():
    r = recipe(train=dict(batch_size=640, lr_batch=64, lr=1e-3, warmup_epochs=0))
    rates = [
        max(
            e["lr"]
            for e in train(recipe(train=dict(batch_size=b, lr_batch=64, lr=1e-3, warmup_epochs=0, epochs=1)))[1].history
        )
        for b in (len(data_of(r).train), 640)
    ]
    assert rates[0] == rates[1]
