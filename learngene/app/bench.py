"""Measure how fast the library is, beside its peers: `make bench` or `python -m learngene.app.bench`.

Training: images a second of `fit`, of a loop as in timm's train.py on the same model, images, batch and precision, and
of `fit` on one batch that stays on the device, which is as fast as it could be. Each runs in a process of its own,
after an epoch to warm up. They take turns, so a busy machine slows all of them.

Building: seconds and memory to inherit from an ancestry of DeiT-B's size, and to refit a descendant of DeiT-S's size on
512 images (parts "inherit" and "refit").

Density: the pass that measures heads beside a plain forward pass of the same model, and beside the usual way to read
attention: fused kernels off, the attention matrices kept by hooks and reduced afterwards.

All images are random, so no data are needed. On a GPU the models are larger. Times are medians.
"""
import argparse
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, FastCollateMixup, create_loader
from timm.loss import SoftTargetCrossEntropy
from timm.models import VisionTransformer
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

from .. import files, train
from ..cluster import HeadCluster
from ..condensing import gather
from ..data import Data, ImageDataset, eval_transform, limit_posterize, train_transform
from ..density import mean_attention_distance, patch_distances
from ..images import Images
from ..inheriting import inherit, merge
from ..processes import peak_memory_mb
from ..recipe import AugmentSpec, MethodSpec, Recipe, TrainSpec
from ..refitting import refit
from ..vit import count_flops, count_params

DENSITY_MODELS = {  # name: (arguments of timm.create_model, images; sixteen times as many on a GPU)
    "deit_tiny_patch16_224": ({}, 16),
    "deit_small_patch16_224": ({}, 16),
    "deit_base_patch16_224": ({}, 8),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 224}, 8),
}

SMALL_IMAGES = dict(img_size=64, patch_size=8, num_classes=100)
TRAINING = {  # kind of device: (images, batch, precision, {name: arguments of timm's VisionTransformer})
    "cpu": (128, 32, "fp32", {"vit_pico_p8_64": SMALL_IMAGES | dict(embed_dim=96, depth=12, num_heads=8)}),
    "cuda": (51200, 1024, "bf16", {
        "vit_tiny_p8_64": SMALL_IMAGES | dict(embed_dim=192, depth=12, num_heads=3),
        "vit_small_p8_64": SMALL_IMAGES | dict(embed_dim=384, depth=12, num_heads=6)}),
}

PARTICIPANTS = {  # in training: options of `fit`, or None for timm's loop
    "timm": None,
    "loader": dict(engine="loader"),
    "device": dict(engine="device"),
    "deterministic": dict(engine="device", deterministic=True),
    "compiled": dict(engine="device", compile=True),
    "synthetic": dict(engine="device"),
}


def in_new_process(function, *args):
    "Call a function in a fresh process."
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


# --- training

def random_images(images, augment, size=64, classes=100):
    "Make a dataset of coarse random pictures for training, with nothing to validate on."
    rng, side = np.random.default_rng(0), -(-size // 8)
    pixels = rng.integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    pixels = pixels.repeat(8, 1).repeat(8, 2)[:, :size, :size]
    names, mean, std = [str(c) for c in range(classes)], IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    pictures = Images(pixels, rng.integers(0, classes, images), names, "", range(images))
    plain, index = eval_transform(size, mean, std), np.arange(images)
    augmented = ImageDataset(pictures, index, train_transform(augment, size, mean, std))
    empty, train_plain = ImageDataset(pictures, index[:0], plain), ImageDataset(pictures, index, plain)
    return Data("random images", augmented, empty, empty, train_plain, names, size, 3, mean, std, "")


class RepeatedBatch:
    "In place of `DeviceBatches`: one batch again and again."
    def __init__(self, images, batches):
        self.batches, device, n = batches, images.pixels.device, batches.batch_size
        self.x, self.y = torch.randn(n, 3, 64, 64, device=device), torch.arange(n, device=device) % 100

    def __iter__(self):
        for _ in range(len(self.batches)):
            yield self.x.clone(), self.y  # Mixup works in place


def time_fit(model, recipe, data, options, synthetic):
    "Train with `fit`: seconds of each epoch after the first, and its peak memory in MB."
    ticks = []
    batches = RepeatedBatch if synthetic else train.DeviceBatches
    with mock.patch.object(train, "DeviceBatches", batches):
        result = train.fit(model, data, recipe, on_epoch=lambda entry: ticks.append(time.perf_counter()), **options)
    return [end - start for start, end in zip(ticks[1:], ticks[2:])], result.peak_memory_mb


def timm_loader(recipe, data, workers, device):
    "Make the loader of timm's train.py, with batched Mixup and erasing."
    augment, spec = recipe.augment, recipe.train
    mixup = FastCollateMixup(mixup_alpha=augment.mixup, cutmix_alpha=augment.cutmix,
                             label_smoothing=spec.label_smoothing, num_classes=len(data.classes))
    loader = create_loader(
        data.train, (3, data.image_size, data.image_size), spec.batch_size, is_training=True, re_prob=augment.erasing,
        re_mode="pixel", scale=(augment.scale_min, 1.0), hflip=augment.hflip, color_jitter=None,
        auto_augment=augment.rand_augment, interpolation="bicubic", mean=data.mean, std=data.std, num_workers=workers,
        collate_fn=mixup, device=device, persistent_workers=workers > 0)
    for transform in data.train.transform.transforms:
        limit_posterize(transform)  # once in several hundred images timm asks for bits that Pillow refuses
    return loader


def time_timm(model, recipe, data, workers, device):
    "Train with a loop as in timm's train.py: seconds of each epoch after the first, and MB."
    spec = recipe.train
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    loader, loss_of = timm_loader(recipe, data, workers, device), SoftTargetCrossEntropy()
    model = model.to(device).train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=spec.lr, weight_decay=spec.weight_decay)
    schedule = CosineLRScheduler(optimizer, spec.epochs * len(loader), warmup_t=len(loader), t_in_epochs=False)
    seconds = []
    for epoch in range(spec.epochs):
        start = time.perf_counter()
        for step, (x, y) in enumerate(loader):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=spec.precision == "bf16"):
                loss = loss_of(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step_update(epoch * len(loader) + step)
        loss.item()
        seconds.append(time.perf_counter() - start)
    return seconds[1:], peak_memory_mb(device)


def train_once(participant, arguments, kind, workers, threads, epochs):
    "Return one participant's images a second and peak memory in MB; meant for a new process."
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images, batch, precision, _ = TRAINING[kind]
    spec = TrainSpec(epochs=epochs, batch_size=batch, precision=precision, workers=workers, warmup_epochs=1)
    method = MethodSpec("from-scratch")
    recipe = Recipe("bench", model=arguments, method=method, augment=AugmentSpec(), train=spec)
    data, model = random_images(images, recipe.augment), VisionTransformer(**arguments)
    options = PARTICIPANTS[participant]
    if options is None:
        seconds, memory = time_timm(model, recipe, data, workers, torch.device(kind))
    else:
        seconds, memory = time_fit(model, recipe, data, options, participant == "synthetic")
    return images // batch * batch / statistics.median(seconds), memory


def matmul_rate(kind, precision, threads):
    "Measure operations a second of a large matrix product; a multiply-add is two."
    torch.set_num_threads(threads)
    n, dtype = (8192, torch.bfloat16) if kind == "cuda" and precision == "bf16" else (1024, torch.float32)
    a, b, best = torch.randn(n, n, device=kind).to(dtype), torch.randn(n, n, device=kind).to(dtype), float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        if kind == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * n ** 3 / best


def bench_training(kind, rounds, workers, epochs=3):
    "Yield a row for each model and participant, those of a model together."
    (images, batch, precision, models), threads = TRAINING[kind], torch.get_num_threads()
    participants = [name for name in PARTICIPANTS if name != "compiled" or kind == "cuda"]  # does not pay on a CPU
    for model, arguments in models.items():
        runs, rate = {name: [] for name in participants}, in_new_process(matmul_rate, kind, precision, threads)
        for _ in range(rounds):
            for name in participants:
                runs[name].append(in_new_process(train_once, name, arguments, kind, workers, threads, epochs))
                print(f"{model}, {name}: {runs[name][-1][0]:.1f} images/s", flush=True)
        speeds = {name: [speed for speed, _ in of_name] for name, of_name in runs.items()}
        median = {name: statistics.median(of_name) for name, of_name in speeds.items()}
        flops = 3 * count_flops(VisionTransformer(**arguments))  # backward costs twice what forward does
        for name in participants:
            row = dict(
                model=model, participant=name, batch=batch, images=images, precision=precision,
                loading_processes=workers, images_per_second=round(median[name], 1),
                slowest=round(min(speeds[name]), 1), fastest=round(max(speeds[name]), 1),
                over_timm=round(median[name] / median["timm"], 3),
                of_synthetic=round(median[name] / median["synthetic"], 3),
                peak_memory_mb=round(max(memory for _, memory in runs[name])), gflop_per_image=round(flops / 1e9, 3),
                matmul_gflops=round(rate / 1e9, 1), utilisation=round(median[name] * flops / rate, 3))
            print(row, flush=True)
            yield row


# --- building

def all_heads(ancestry, heads):
    "Make a learngene that keeps every head of a 12-layer ancestry."
    return gather(ancestry, [[HeadCluster((h,), h, 0.0) for h in range(heads)]] * 12, [[i] for i in range(12)])


def building_row(ancestry_name, ancestry, child, images, seconds, before, device):
    "Return a row of the table of building; `before` is the peak memory before it, MB."
    after = peak_memory_mb(device)
    return dict(ancestry=ancestry_name, ancestry_params=count_params(ancestry), child_params=count_params(child),
                images=images, seconds=seconds, peak_memory_mb=round(after), more_than_before_mb=round(after - before))


def inherit_once(threads):
    "Measure seconds and memory to build a 6-layer descendant of an ancestry of DeiT-B's size."
    torch.set_num_threads(threads)
    name, cpu, times = "deit_base_patch16_224", torch.device("cpu"), []
    ancestry = timm.create_model(name)
    learngene = all_heads(ancestry, 12)
    before = peak_memory_mb(cpu)
    for _ in range(5):
        start = time.perf_counter()
        child = inherit(learngene, depth=6, heads=6)
        times.append(time.perf_counter() - start)
    return building_row(name, ancestry, child, 0, round(statistics.median(times), 3), before, cpu)


def refit_once(threads, kind):
    "Measure seconds and memory to refit a DeiT-S of half the heads on 512 images."
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    name, device = "deit_small_patch16_224", torch.device(kind)
    ancestry = timm.create_model(name).eval()
    child = merge(inherit(all_heads(ancestry, 6), depth=12, heads=3)).eval()
    images, before = torch.randn(512, 3, 224, 224), peak_memory_mb(device)
    report = refit(child.to(device), ancestry.to(device), images)
    return building_row(name, ancestry, child, 512, round(report.seconds, 1), before, device)


# --- density

def kept_attention_distance(model, x, T):
    "Measure heads the usual way, keeping every attention matrix; returns (L, H)."
    kept = []
    hooks = [block.attn.attn_drop.register_forward_hook(lambda module, args, A: kept.append(A))
             for block in model.blocks]
    for block in model.blocks:
        block.attn.fused_attn = False
    try:
        with torch.no_grad():
            model(x)
    finally:
        for block, hook in zip(model.blocks, hooks):
            block.attn.fused_attn = True
            hook.remove()
    n = model.num_prefix_tokens
    return torch.stack([(A[:, :, n:, n:] * T).sum((2, 3)).mean(0) / len(T) for A in kept])


def bench_density(name, kwargs, images, repeats, device):
    "Time a plain forward pass, the density pass and the usual way on one batch, in seconds."
    model, images = timm.create_model(name, **kwargs).eval().to(device), images * (16 if device.type == "cuda" else 1)
    x = torch.randn(images, 3, *model.patch_embed.img_size, device=device)
    T = patch_distances(model.patch_embed.grid_size, model.patch_embed.patch_size).to(device)

    def forward_pass():
        with torch.no_grad():
            model(x)

    def density_pass():
        mean_attention_distance(model, x, batch_size=images)

    passes = [forward_pass, density_pass, lambda: kept_attention_distance(model, x, T)]
    for one_pass in passes:  # to warm up
        one_pass()
    times = [[] for _ in passes]
    for _ in range(repeats):
        for one_pass, seconds in zip(passes, times):
            start = time.perf_counter()
            one_pass()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    forward, density, kept = map(statistics.median, times)
    return dict(model=name, images=images, forward_s=round(forward, 4), density_s=round(density, 4),
                kept_s=round(kept, 4), density_over_forward=round(density / forward, 3),
                kept_over_forward=round(kept / forward, 3))


# --- all

def main(argv=None):
    "Run the benchmarks and write results/bench/PART-DEVICE-torchVERSION.csv for each part."
    parser = argparse.ArgumentParser(
        prog="learngene.app.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="inherit,density,refit,training", help="which of these (default: all)")
    parser.add_argument("--repeats", type=int, default=7, help="passes of the density (default: 7)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each participant in training (default: 3)")
    parser.add_argument("--workers", type=int,
                        help="processes that load images, timm's and ours (default: one per core beside a GPU, else 0)")
    args = parser.parse_args(argv)

    kind, threads = "cuda" if torch.cuda.is_available() else "cpu", torch.get_num_threads()
    workers = args.workers if args.workers is not None else os.cpu_count() if kind == "cuda" else 0
    parts = dict(
        training=lambda: bench_training(kind, args.rounds, workers),
        inherit=lambda: [in_new_process(inherit_once, threads)],
        refit=lambda: [in_new_process(refit_once, threads, kind)],
        density=lambda: (bench_density(name, kwargs, images, args.repeats, torch.device(kind))
                         for name, (kwargs, images) in DENSITY_MODELS.items()))
    for part in args.parts.split(","):
        if part not in parts:
            parser.error(f"there is no part {part!r}{files.near(part, parts)}, only {', '.join(parts)}")
        files.check_writable(table_path(part, kind, threads))
    for part in args.parts.split(","):
        rows = []
        for row in parts[part]():  # written after each row, so that an interrupted run keeps what it measured
            rows.append(row)
            path = write_table(part, rows, kind, threads)
        print(f"written to {path}", flush=True)


def table_path(part, kind, threads):
    "Path of a csv whose name says where it was measured."
    device = torch.cuda.get_device_name().replace(" ", "-") if kind == "cuda" else f"cpu-{threads}-threads"
    name = f"{part}-{device}-torch{torch.__version__.split('+')[0]}.csv"
    return (files.project_root() or Path.cwd()) / "results" / "bench" / name


def write_table(part, rows, kind, threads):
    "Write rows as a csv; return its path."
    path = table_path(part, kind, threads)
    device = path.name.removeprefix(f"{part}-").rpartition("-torch")[0]
    machine = dict(device=device if kind == "cuda" else "cpu", threads=threads, cores=os.cpu_count())
    return files.write_atomic(path, pd.DataFrame([row | machine for row in rows]).to_csv(index=False))


if __name__ == "__main__":
    main()
