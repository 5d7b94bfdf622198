"""Small models and recipes that train in seconds; and, as a script, one process of a distributed run.

Usage: `python -m torch.distributed.run ... _ddp_worker.py FOLDER`
"""

import json
import os
import sys
from pathlib import Path

import learngene as lg

import timm
import torch

from learngene.recipe import Recipe
from learngene.vit import fingerprint, save_vit

PLAIN = dict(crop="none", hflip=0, rand_augment=None, erasing=0, mixup=0, cutmix=0)
RICH = dict(crop="resized", hflip=0.5, rand_augment="rand-m9-mstd0.5-inc1", erasing=0.25, mixup=0.8, cutmix=1.0)
VIT = dict(img_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=16, depth=3, num_heads=2)


def vit(seed=0, **change):
    "A random ViT for digits, with weights large enough for its heads to differ."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.models.VisionTransformer(**(VIT | change))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def saved_vit(folder, **change):
    return str(save_vit(vit(**change), folder))


def recipe(ancestry=None, **change):
    "A recipe on 150 digits, 4 steps per epoch: no augmentation unless asked for. `change` goes into the parts."
    settings = dict(
        name="tiny",
        method=dict(name="pretraining-finetuning"),
        data=dict(fraction=0.12),
        augment=PLAIN,
        train=dict(epochs=2, batch_size=32, lr=1e-3, lr_batch=None, warmup_epochs=1),
    )
    if ancestry:
        settings["ancestry"] = str(ancestry)
    else:
        settings |= dict(model=dict(VIT), method=dict(name="from-scratch"))
    for part, value in change.items():
        merged = isinstance(value, dict) and part in ("data", "augment", "train", "shape")
        settings[part] = settings.get(part, {}) | value if merged else value
    return Recipe.from_dict(settings)


def distributed_fit(engine="auto", **change):
    "Train by all processes; (what this process reports, its model)."
    from learngene.train import fit

    r = recipe(**change)
    data = lg.load_data(r.data, r.augment)
    model = vit()
    result = fit(model, data, r, on_epoch=False, engine=engine)
    report = dict(history=result.history, processes=result.processes, images=result.images)
    return report | dict(weights=fingerprint(model)), model


def interrupted_fit(folder):
    "The rich job, stopped by the clock after its first epoch, and by an error within its second."
    from learngene import train as T
    from learngene.checkpoints import CheckpointPolicy, Paused

    r, step, steps, messages = recipe(**JOBS["rich"]), T.train_step, [], []
    data = lg.load_data(r.data, r.augment)
    try:
        T.fit(vit(), data, r, folder, on_epoch=False, policy=CheckpointPolicy(until=0.0))
    except Paused as e:
        messages.append(str(e))

    def interrupt_third(*args):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step(*args)

    try:
        T.train_step = interrupt_third
        T.fit(vit(1), data, r, folder, on_epoch=False, policy=CheckpointPolicy(steps=1))
    except KeyboardInterrupt:
        T.train_step = step
    model = vit(2)
    result = T.fit(model, data, r, folder, on_epoch=False)
    report = dict(history=result.history, resumed_at=result.resumed_at, paused=messages[0])
    return report | dict(weights=fingerprint(model))


def fit_apart(folder):
    "What processes say that resume from folders of their own, where only the first has a checkpoint."
    from learngene import train as T
    from learngene.checkpoints import CheckpointPolicy, Paused

    r = recipe()
    data = lg.load_data(r.data)
    try:
        T.fit(vit(), data, r, folder, on_epoch=False, policy=CheckpointPolicy(until=0.0))
    except Paused:
        pass
    try:
        T.fit(vit(), data, r, folder, on_epoch=False)
    except RuntimeError as e:
        return str(e)


JOBS = {
    "plain": dict(),
    "rich": dict(augment=RICH, train=dict(ema=0.9, drop_path=0.1, micro_batch=8, clip_grad=1.0)),
    "steep": dict(train=dict(clip_grad=0.5)),
    "device": dict(engine="device", augment=RICH | dict(erasing=0, mixup=0, cutmix=0)),
}


def main(folder):
    "All jobs in one start of the processes, which is what takes the time."
    from accelerate import Accelerator
    from safetensors.torch import save_file

    from learngene.train import evaluate

    torch.set_num_threads(1)
    rank, report = int(os.environ["RANK"]), {}
    for job, change in JOBS.items():
        report[job], model = distributed_fit(**change)
        save_file(model.state_dict(), folder / f"{job}-{rank}.safetensors")

    report["resumed"] = interrupted_fit(folder / "checkpoints")
    report["apart"] = fit_apart(folder / f"apart-{rank}")
    accelerator = Accelerator(cpu=True)
    r = recipe()
    data = lg.load_data(r.data)
    odd = torch.utils.data.Subset(data.test, range(101))  # cannot be split evenly
    report["evaluate"] = evaluate(vit(), odd, batch_size=16, accelerator=accelerator)
    report["evaluate_one"] = evaluate(vit(), torch.utils.data.Subset(data.test, range(1)), accelerator=accelerator)

    if rank == 0:
        saved_vit(folder / "vit")
    accelerator.wait_for_everyone()
    record = lg.run(recipe(folder / "vit", name="single"), lg.Ledger(folder / "single"), on_epoch=False)
    report["single"] = dict(
        weights=record["meta_info"]["weights"],
        processes=record["run_info"]["processes"],
        test=record["train_info"]["test_accuracy"],
    )
    accelerator.wait_for_everyone()

    ledger = lg.Ledger(folder / "ledger")
    ancestry = folder / "ancestry.yaml"
    if rank == 0:
        recipe(name="teacher", train=dict(epochs=1)).save(ancestry)
    accelerator.wait_for_everyone()
    try:
        record = lg.run(recipe(ancestry, name="child"), ledger, on_epoch=False)
        report["run"] = dict(
            weights=record["meta_info"]["weights"],
            ancestry=record["meta_info"]["ancestry"],
            processes=record["run_info"]["processes"],
        )
    except Exception as e:
        report["run"] = dict(error=f"{type(e).__name__}: {e}")
    (folder / f"report-{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
