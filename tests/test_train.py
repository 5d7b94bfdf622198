"Training: the same recipe gives the same model, cut off or not, in one process or two."
import copy
import json
import math
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import learngene as lg

import numpy as np
import pytest
import torch
from _ddp_worker import JOBS, PLAIN, RICH, distributed_fit, recipe, vit
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from learngene import train as T
from learngene.inheriting import inherit
from learngene.train import EpochBatches, evaluate, fit
from learngene.vit import build_vit, count_params, vit_config

RICH_TRAIN = dict(epochs=4, ema=0.9, drop_path=0.2, label_smoothing=0.1, clip_grad=1.0, micro_batch=12)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data_of(r):
    return lg.load_data(r.data, r.augment)


def same(a, b):
    a, b = (m.state_dict() if isinstance(m, nn.Module) else m for m in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def close(a, b, atol):
    a, b = (m.state_dict() if isinstance(m, nn.Module) else m for m in (a, b))
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], atol=atol, rtol=0) for k in a)


def train(r, model=None, folder=None, **kw):
    model = model or vit()
    return model, fit(model, data_of(r), r, folder, **({"on_epoch": False} | kw))


def spy_on_steps(monkeypatch, see):
    "Call `see(model, optimizer, loss)` after each optimiser step; gradients are still there."
    step = T._step

    def spied(accelerator, model, optimizer, *rest):
        loss = step(accelerator, model, optimizer, *rest)
        see(model, optimizer, loss)
        return loss
    monkeypatch.setattr(T, "_step", spied)


def shared_child(seed=0):
    "A descendant of three layers whose FFNs come from one centroid, through a transform."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        learngene = lg.condense(vit(), torch.randn(8, 1, 8, 8), eps=100.0)
        assert learngene.ffn_groups == [[0, 1, 2]]
        return inherit(learngene, num_classes=10, ffn="transform")


# --- against a loop written here

def test_weights_are_those_of_a_plain_loop():
    "Two epochs with label smoothing, weight decay, warm-up, cosine and clipping, all written out."
    r = recipe(train=dict(label_smoothing=0.2, clip_grad=0.7, weight_decay=0.3, lr=2e-3, lr_batch=16))
    data, (model, done), mine = data_of(r), train(r), vit()
    decayed = [p for n, p in mine.named_parameters() if p.ndim > 1 and n not in ("pos_embed", "cls_token")]
    plain = [p for n, p in mine.named_parameters() if p.ndim <= 1 or n in ("pos_embed", "cls_token")]
    optimizer = torch.optim.AdamW([dict(params=plain, weight_decay=0.0), dict(params=decayed, weight_decay=0.3)], lr=1.0)
    peak, steps, losses, seen = 2e-3 * 32 / 16, len(data.train) // 32, [], []
    mine.train()
    for epoch in (1, 2):
        batches = EpochBatches(len(data.train), 32, r.seed)
        batches.epoch = epoch
        for i, batch in enumerate(batches):
            t = (epoch - 1) * steps + i
            lr = 1e-6 + t * (peak - 1e-6) / steps if t < steps else 1e-5 + 0.5 * (peak - 1e-5) * (1 + math.cos(math.pi * t / (2 * steps)))
            x, y = torch.stack([data.train[j][0] for j in batch]), torch.tensor([data.train[j][1] for j in batch])
            loss = F.cross_entropy(mine(x), y, label_smoothing=0.2)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(mine.parameters(), 0.7)
            for g in optimizer.param_groups:
                g["lr"] = lr
            optimizer.step()
            losses.append(loss.item())
            seen.append(lr)
    assert close(model, mine, 1e-5)
    assert not close(model, vit(), 1e-3)
    for epoch in (1, 2):
        entry = done.history[epoch]
        assert entry["train_loss"] == pytest.approx(np.mean(losses[(epoch - 1) * steps:epoch * steps]), abs=1e-5)
        assert entry["lr"] == pytest.approx(seen[epoch * steps - 1], rel=1e-9)
    assert done.images == 2 * steps * 32 and done.seconds > 0 and done.images_per_second == done.images / done.seconds


@pytest.mark.parametrize("lr_batch, warmup, batch", [(None, 1, 32), (512, 0, 32), (8, 2, 64)])
def test_schedule_is_timms(monkeypatch, lr_batch, warmup, batch):
    from timm.scheduler import CosineLRScheduler

    r = recipe(train=dict(epochs=3, lr=1e-2, lr_batch=lr_batch, warmup_epochs=warmup, batch_size=batch))
    seen = []
    spy_on_steps(monkeypatch, lambda model, optimizer, loss: seen.append({g["lr"] for g in optimizer.param_groups}))
    train(r)
    peak = 1e-2 * batch / lr_batch if lr_batch else 1e-2
    steps = len(data_of(r).train) // batch
    dummy = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    theirs = CosineLRScheduler(dummy, 3 * steps, lr_min=1e-5, warmup_t=warmup * steps, warmup_lr_init=1e-6, t_in_epochs=False)
    assert len(seen) == 3 * steps
    for t, lr in enumerate(seen):
        theirs.step_update(t)
        assert lr == {pytest.approx(dummy.param_groups[0]["lr"], rel=1e-12)} or list(lr) == [pytest.approx(dummy.param_groups[0]["lr"], rel=1e-12)]


def test_a_peak_below_the_ends_is_a_flat_line(monkeypatch):
    seen = []
    spy_on_steps(monkeypatch, lambda model, optimizer, loss: seen.extend(g["lr"] for g in optimizer.param_groups))
    train(recipe(train=dict(lr=1e-7, min_lr=1e-5, warmup_lr=1e-6)))
    assert max(seen) <= 1e-7 + 1e-15


def test_warmup_longer_than_training_ends():
    _, done = train(recipe(train=dict(epochs=1, warmup_epochs=20)))
    assert len(done.history) == 2


def test_no_epochs_at_all():
    model, done = train(recipe(train=dict(epochs=0)))
    assert same(model, vit()) and [e["epoch"] for e in done.history] == [0]


# --- parts

@pytest.mark.parametrize("model", [vit, shared_child])
def test_weight_decay_only_on_matrices(model):
    model = model()
    optimizer, _ = T._optimizer(recipe(), model, 4)
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
    spy_on_steps(monkeypatch, lambda model, optimizer, loss: norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()))
    train(recipe())
    free, norms[:] = list(norms), []
    limit = min(free) / 2
    train(recipe(train=dict(clip_grad=limit)))
    assert all(n == pytest.approx(limit, rel=1e-4) for n in norms)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("micro", [32, 16, 12, 1])
def test_gradient_accumulation_is_the_whole_batch(micro, clip):
    whole, a = train(recipe(train=dict(clip_grad=clip)))
    pieces, b = train(recipe(train=dict(micro_batch=micro, clip_grad=clip)))
    assert close(whole, pieces, 2e-5)
    assert a.history[-1]["train_loss"] == pytest.approx(b.history[-1]["train_loss"], abs=1e-5)


def test_gradient_accumulation_with_mixup_mixes_the_whole_batch():
    change = dict(augment=dict(mixup=0.8, cutmix=1.0))
    whole, _ = train(recipe(**change))
    pieces, _ = train(recipe(train=dict(micro_batch=9), **change))
    assert close(whole, pieces, 2e-5)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_drop_path_rises_linearly(depth):
    model = vit(depth=depth)
    T.set_drop_path(model, 0.3)
    for name in ("drop_path1", "drop_path2"):
        assert [getattr(getattr(b, name), "drop_prob", 0.0) for b in model.blocks] == pytest.approx(torch.linspace(0, 0.3, depth).tolist())
    T.set_drop_path(model, 0.0)
    assert all(isinstance(b.drop_path1, nn.Identity) for b in model.blocks)


def test_each_setting_changes_the_result():
    "A setting that is read and forgotten would leave the weights as they are."
    base, _ = train(recipe())
    for part, change in [("train", dict(label_smoothing=0.3)), ("train", dict(drop_path=0.5)), ("train", dict(ema=0.5)), ("train", dict(weight_decay=0.9)), ("train", dict(clip_grad=0.1)),
                         ("train", dict(precision="bf16")), ("augment", dict(mixup=0.8)), ("augment", dict(cutmix=1.0)), ("augment", dict(hflip=0.5)), ("augment", dict(erasing=0.9)),
                         ("augment", dict(crop="resized")), ("augment", dict(crop="pad", pad=1)), ("augment", dict(rand_augment="rand-m9-mstd0.5-inc1"))]:
        changed, _ = train(recipe(**{part: change}))
        assert not same(base, changed), (part, change)
    assert same(base, train(recipe())[0])


def test_mixup_losses_use_soft_targets():
    mixup, loss = T._loss(recipe(augment=dict(mixup=0.8), train=dict(label_smoothing=0.2)), 10)
    x, y = mixup(torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 3, 4]))
    logits = torch.randn(4, 10)
    assert y.shape == (4, 10) and torch.allclose(y.sum(1), torch.ones(4)) and y.min() == pytest.approx(0.02)
    assert loss(logits, y).item() == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-6)


def shadow_of(model, seen):
    "Moving averages by hand, of each parameter once; the first step copies, as timm's does."
    def see(wrapped, optimizer, loss):
        for n, p in model.named_parameters():
            seen[n] = p.detach().clone() if n not in seen else 0.8 * seen[n] + 0.2 * p.detach()
    return see


@pytest.mark.parametrize("make", [vit, shared_child])
def test_the_moving_average_is_the_result(monkeypatch, make):
    model, seen = make(), {}
    judged = copy.deepcopy(model)
    spy_on_steps(monkeypatch, shadow_of(model, seen))
    r = recipe(train=dict(ema=0.8))
    model, done = train(r, model)
    for n, p in judged.named_parameters():
        p.data.copy_(seen[n])
    judged = lg.inheriting.merge(judged).eval()
    assert close(model, judged, 1e-6)
    assert evaluate(judged, data_of(r).val)["loss"] == pytest.approx(done.history[-1]["val_loss"], abs=1e-5)


# --- order and evaluation

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
    whole = list(EpochBatches(30, 8, 0))
    parts = [list(EpochBatches(30, 8, 0, rank, world)) for rank in range(world)]
    assert [sum((p[i] for p in parts), []) for i in range(len(whole))] == whole


def test_evaluate_by_hand():
    data, model = lg.load_data("digits"), vit().train()
    found = evaluate(model, data.test, batch_size=77)
    assert model.training
    with torch.no_grad():
        logits = vit()(torch.stack([x for x, _ in data.test]))
    y = torch.tensor(data.test.labels)
    assert found["images"] == len(data.test)
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == y).double().mean().item(), abs=1e-12)
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, y).item(), abs=1e-6)
    assert not vit().training
    with pytest.raises(ValueError, match="no images"):
        evaluate(model, torch.utils.data.Subset(data.test, []))


# --- randomness

def states():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()


def same_states(a, b):
    return torch.equal(a[0], b[0]) and (a[1] == b[1]).all() and a[2] == b[2]


def test_callers_randomness_is_left_alone_and_does_not_matter():
    r = recipe(augment=RICH, train=dict(drop_path=0.2))
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = states()
    a, _ = train(r)
    assert same_states(before, states())
    torch.manual_seed(2), np.random.seed(2), random.seed(2)
    b, _ = train(r)
    assert same(a, b)
    assert not same(a, train(recipe(seed=1, augment=RICH, train=dict(drop_path=0.2)))[0])


def test_evaluation_does_not_touch_randomness():
    data, before = lg.load_data("digits"), states()
    evaluate(vit(), torch.utils.data.Subset(data.test, range(9)))
    assert same_states(before, states())


def test_how_often_one_validates_does_not_change_training():
    a, x = train(recipe(augment=RICH, train=dict(epochs=3)))
    b, y = train(recipe(augment=RICH, train=dict(epochs=3, eval_every=2)))
    assert same(a, b)
    assert [e["epoch"] for e in x.history] == [0, 1, 2, 3] and [e["epoch"] for e in y.history] == [0, 2, 3]


# --- interruptions

@pytest.fixture(scope="module")
def uninterrupted():
    torch.set_num_threads(1)
    return train(recipe(augment=RICH, train=RICH_TRAIN))


@pytest.mark.parametrize("stops", [[1], [3], [4], [1, 2, 3]])
def test_resume_is_bit_equal(uninterrupted, tmp_path, stops):
    "With Mixup, CutMix, RandAugment, erasing, drop path, EMA, clipping and accumulation."
    r, heard = recipe(augment=RICH, train=RICH_TRAIN), []
    for stop in stops:
        train(r, vit(7), tmp_path, stop_after=stop, on_epoch=heard.append)
        torch.randn(stop), np.random.rand(stop), random.random()
    model, done = train(r, vit(8), tmp_path, on_epoch=heard.append)  # the weights it starts from do not matter any more
    assert same(model, uninterrupted[0]) is (stops != [0]) and done.history[1:] != []
    assert done.resumed_at == stops[-1]
    first = train(r, vit(7), None, stop_after=1)[1].history[0]
    assert done.history == [first, *done.history[1:]] and [e["epoch"] for e in done.history] == [0, 1, 2, 3, 4]
    assert heard == done.history, "each epoch is reported once"
    assert done.images == uninterrupted[1].images
