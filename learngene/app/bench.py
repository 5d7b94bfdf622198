"""Speed of what this library adds, each beside its peer: `make bench` or `python -m learngene.app.bench`.

Training: images a second of `fit` with images on the device and image by image, of a loop as in timm's own train.py on the same model,
images, batch and precision, and of `fit` on one batch that lies on the device, which is as fast as it could be. Each is measured in a process
of its own, after an epoch to warm up; they take turns, so a busy machine slows them alike.

Building: seconds and memory to inherit from an ancestry of DeiT-B's size, and to refit a descendant of DeiT-S's size on 512 images (parts
"inherit" and "refit").

Density: the pass beside the same model's plain forward pass, and beside the usual way to read attention: fused kernels off, the attention
matrices kept by hooks and reduced afterwards.

All images are made up, so no data are needed. On a GPU the models are larger. Times are medians.
"""
import argparse
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

from .. import files

MODELS = {  # of the density pass: name -> (arguments of timm.create_model, images; sixteen times as many on a GPU, which does not notice fewer)
    "deit_tiny_patch16_224": ({}, 16),
    "deit_small_patch16_224": ({}, 16),
    "deit_base_patch16_224": ({}, 8),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 224}, 8),
}
VIT = dict(img_size=64, patch_size=8, num_classes=100)
TRAINED = {  # of the training step: device -> (images, batch, precision, {name: arguments of timm's VisionTransformer})
    "cpu": (128, 32, "fp32", {"vit_pico_p8_64": VIT | dict(embed_dim=96, depth=12, num_heads=8)}),
    "cuda": (51200, 1024, "bf16", {"vit_tiny_p8_64": VIT | dict(embed_dim=192, depth=12, num_heads=3), "vit_small_p8_64": VIT | dict(embed_dim=384, depth=12, num_heads=6)}),
}
HOW = {  # what takes part in training, and how `fit` is called
    "timm": None,
    "loader": dict(engine="loader"),
    "device": dict(engine="device"),
    "deterministic": dict(engine="device", deterministic=True),
    "compiled": dict(engine="device", compile=True),
    "synthetic": dict(engine="device"),
}


# --- training

def made_up(images, augment, size=64, classes=100):
    "`images` coarse random pictures as the training part of a data set, and nothing beside them."
    import numpy as np

    from timm.data import IMAGENET_DEFAULT_MEAN as mean
    from timm.data import IMAGENET_DEFAULT_STD as std

    from ..data import Data, ImageDataset, eval_transform, train_transform
    from ..images import Images

    rng, side = np.random.default_rng(0), -(-size // 8)
    pixels = rng.integers(0, 256, (images, side, side, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)[:, :size, :size]
    names = [str(c) for c in range(classes)]
    pictures = Images(pixels, rng.integers(0, classes, images), names, "", range(images))
    plain, index = eval_transform(size, mean, std), np.arange(images)
    train = ImageDataset(pictures, index, train_transform(augment, size, mean, std))
    none = ImageDataset(pictures, index[:0], plain)
    train_plain = ImageDataset(pictures, index, plain)
    return Data("made-up images", train, none, none, train_plain, names, size, 3, mean, std, "")


class _OneBatch:
    "In place of `DeviceBatches`: one batch again and again."
    def __init__(self, images, batches):
        import torch

        self.batches, device = batches, images.pixels.device
        self.x, self.y = torch.randn(batches.batch_size, 3, 64, 64, device=device), torch.arange(batches.batch_size, device=device) % 100

    def __iter__(self):
        for _ in range(len(self.batches)):
            yield self.x.clone(), self.y  # Mixup works in place


def ours(model, recipe, data, how, synthetic):
    "Seconds of each epoch of `fit` after the first, and what it says of itself."
    from .. import train

    ticks = []
    with mock.patch.object(train, "DeviceBatches", _OneBatch if synthetic else train.DeviceBatches):
        done = train.fit(model, data, recipe, on_epoch=lambda entry: ticks.append(time.perf_counter()), **how)
    return [b - a for a, b in zip(ticks[1:], ticks[2:])], done.peak_memory_mb


def timms(model, recipe, data, workers, device):
    "The same, of a loop as in timm's train.py."
    import torch
    from timm.data import FastCollateMixup, create_loader
    from timm.loss import SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    from ..data import limit_posterize
    from ..processes import peak_memory_mb

    a, spec, cuda = recipe.augment, recipe.train, device.type == "cuda"
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    mixup = FastCollateMixup(mixup_alpha=a.mixup, cutmix_alpha=a.cutmix, label_smoothing=spec.label_smoothing, num_classes=len(data.classes))
    loader = create_loader(
        data.train, (3, data.image_size, data.image_size), spec.batch_size, is_training=True, re_prob=a.erasing, re_mode="pixel", scale=(a.scale_min, 1.0), hflip=a.hflip,
        color_jitter=None, auto_augment=a.rand_augment, interpolation="bicubic", mean=data.mean, std=data.std, num_workers=workers, collate_fn=mixup, device=device,
        persistent_workers=workers > 0)
    for t in data.train.transform.transforms:
        limit_posterize(t)  # what timm asks of Posterize Pillow refuses once in several hundred images
    model, loss_of = model.to(device).train(), SoftTargetCrossEntropy()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=spec.lr, weight_decay=spec.weight_decay)
    schedule, seconds = CosineLRScheduler(optimizer, spec.epochs * len(loader), warmup_t=len(loader), t_in_epochs=False), []
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


def train_once(job):
    "Images a second and peak memory of one participant; in a process of its own."
    who, arguments, kind, workers, threads, epochs = job
    import torch
    from timm.models import VisionTransformer

    from ..recipe import AugmentSpec, MethodSpec, Recipe, TrainSpec

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images, batch, precision, _ = TRAINED[kind]
    spec = TrainSpec(epochs=epochs, batch_size=batch, precision=precision, workers=workers, warmup_epochs=1)
    recipe = Recipe("bench", model=arguments, method=MethodSpec("from-scratch"), augment=AugmentSpec(), train=spec)
    data, model = made_up(images, recipe.augment), VisionTransformer(**arguments)
    how = HOW[who]
    seconds, memory = timms(model, recipe, data, workers, torch.device(kind)) if how is None else ours(model, recipe, data, how, who == "synthetic")
    return images // batch * batch / statistics.median(seconds), memory


def matmul_rate(kind, precision, threads):
    "Operations a second of a large matrix product, two for each multiply-add: the best of ten."
    import torch

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
    "Yields a row for each model and participant, those of a model together."
    import torch
    from timm.models import VisionTransformer

    from ..vit import count_flops

    (images, batch, precision, models), threads = TRAINED[kind], torch.get_num_threads()
    taking_part = [who for who in HOW if who != "compiled" or kind == "cuda"]  # on a processor compiling does not pay
    for name, arguments in models.items():
        found, rate = {who: [] for who in taking_part}, _alone(matmul_rate, kind, precision, threads)
        for _ in range(rounds):
            for who in taking_part:
                found[who].append(_alone(train_once, (who, arguments, kind, workers, threads, epochs)))
                print(f"{name}, {who}: {found[who][-1][0]:.1f} images/s", flush=True)
        speed = {who: statistics.median(s for s, _ in runs) for who, runs in found.items()}
        flops = 3 * count_flops(VisionTransformer(**arguments))  # backward costs twice what forward does
        for who, runs in found.items():
            row = dict(
                model=name, participant=who, batch=batch, images=images, precision=precision, loading_processes=workers, images_per_second=round(speed[who], 1),
                slowest=round(min(s for s, _ in runs), 1), fastest=round(max(s for s, _ in runs), 1), over_timm=round(speed[who] / speed["timm"], 3),
                of_synthetic=round(speed[who] / speed["synthetic"], 3), peak_memory_mb=round(max(m for _, m in runs)),
                gflop_per_image=round(flops / 1e9, 3), matmul_gflops=round(rate / 1e9, 1), utilisation=round(speed[who] * flops / rate, 3))
            print(row, flush=True)
            yield row


def _alone(do, *args):
    "What `do` gives, in a fresh process."
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(do, *args).result()


# --- building

def inherit_once(threads):
    "Seconds and memory to build a 6-layer descendant of an ancestry of DeiT-B's size."
    import timm
    import torch

    from ..cluster import HeadCluster
    from ..condensing import gather
    from ..inheriting import inherit
    from ..processes import peak_memory_mb
    from ..vit import count_params

    torch.set_num_threads(threads)
    ancestry, cpu, times = timm.create_model("deit_base_patch16_224"), torch.device("cpu"), []
    learngene = gather(ancestry, [[HeadCluster((h,), h, 0.0) for h in range(12)]] * 12, [[i] for i in range(12)])
    before = peak_memory_mb(cpu)
    for _ in range(5):
        start = time.perf_counter()
        child = inherit(learngene, depth=6, heads=6)
        times.append(time.perf_counter() - start)
    return dict(ancestry="deit_base_patch16_224", ancestry_params=count_params(ancestry), child_params=count_params(child), images=0,
                seconds=round(statistics.median(times), 3), peak_memory_mb=round(peak_memory_mb(cpu)), more_than_before_mb=round(peak_memory_mb(cpu) - before))


def refit_once(threads, kind):
    "Seconds and memory to refit a descendant of DeiT-S's size, of half the heads, on 512 images."
    import timm
    import torch

    from ..cluster import HeadCluster
    from ..condensing import gather
    from ..inheriting import inherit, merge
    from ..refitting import refit
    from ..processes import peak_memory_mb
    from ..vit import count_params

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ancestry, device = timm.create_model("deit_small_patch16_224").eval(), torch.device(kind)
    learngene = gather(ancestry, [[HeadCluster((h,), h, 0.0) for h in range(6)]] * 12, [[i] for i in range(12)])
    child = merge(inherit(learngene, depth=12, heads=3)).eval()
    images, before = torch.randn(512, 3, 224, 224), peak_memory_mb(device)
    report = refit(child.to(device), ancestry.to(device), images)
    return dict(ancestry="deit_small_patch16_224", ancestry_params=count_params(ancestry), child_params=count_params(child), images=512,
                seconds=round(report.seconds, 1), peak_memory_mb=round(peak_memory_mb(device)), more_than_before_mb=round(peak_memory_mb(device) - before))


# --- density

def kept_attention_distance(model, x, T):
    "The usual way: unfused attention, every matrix kept until the pass is over. (L, H)"
    import torch

    kept = []
    hooks = [b.attn.attn_drop.register_forward_hook(lambda m, args, A: kept.append(A)) for b in model.blocks]
    for b in model.blocks:
        b.attn.fused_attn = False
    try:
        with torch.no_grad():
            model(x)
    finally:
        for b, hook in zip(model.blocks, hooks):
            b.attn.fused_attn = True
            hook.remove()
    n = model.num_prefix_tokens
    return torch.stack([(A[:, :, n:, n:] * T).sum((2, 3)).mean(0) / len(T) for A in kept])


def bench_density(name, kwargs, images, repeats, device):
    "Seconds of a plain forward pass, of ours and of the usual way, for one batch; a dict."
    import timm
    import torch

    from ..density import mean_attention_distance, patch_distances

    model, images = timm.create_model(name, **kwargs).eval().to(device), images * (16 if device.type == "cuda" else 1)
    x = torch.randn(images, 3, *model.patch_embed.img_size, device=device)
    T = patch_distances(model.patch_embed.grid_size, model.patch_embed.patch_size).to(device)

    def plain():
        with torch.no_grad():
            model(x)

    ways = dict(forward=plain, ours=lambda: mean_attention_distance(model, x, batch_size=images), kept=lambda: kept_attention_distance(model, x, T))
    for way in ways.values():
        way()
    times = {k: [] for k in ways}
    for _ in range(repeats):
        for k, way in ways.items():
            start = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[k].append(time.perf_counter() - start)
    forward, ours, kept = (statistics.median(times[k]) for k in ways)
    return dict(model=name, images=images, forward_s=round(forward, 4), density_s=round(ours, 4), kept_s=round(kept, 4),
                density_over_forward=round(ours / forward, 3), kept_over_forward=round(kept / forward, 3))


# --- all

def main(argv=None):
    "Run the benchmarks and write results/bench/PART-DEVICE-torchVERSION.csv for each part."
    parser = argparse.ArgumentParser(prog="learngene.app.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="inherit,density,refit,training", help="which of these (default: all)")
    parser.add_argument("--repeats", type=int, default=7, help="passes of the density (default: 7)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each takes in training (default: 3)")
    parser.add_argument("--workers", type=int, help="processes that load images, timm's and ours (default: the cores beside a GPU, else 0)")
    args = parser.parse_args(argv)
    import torch

    kind, threads = "cuda" if torch.cuda.is_available() else "cpu", torch.get_num_threads()
    workers = args.workers if args.workers is not None else os.cpu_count() if kind == "cuda" else 0
    parts = dict(
        training=lambda: bench_training(kind, args.rounds, workers),
        inherit=lambda: [_alone(inherit_once, threads)],
        refit=lambda: [_alone(refit_once, threads, kind)],
        density=lambda: (bench_density(name, kwargs, images, args.repeats, torch.device(kind)) for name, (kwargs, images) in MODELS.items()))
    for part in args.parts.split(","):
        if part not in parts:
            parser.error(f"there is no part {part!r}{files.near(part, parts)}, only {', '.join(parts)}")
    for part in args.parts.split(","):
        rows = []
        for row in parts[part]():  # written at once: what is measured is kept, also when time runs out
            rows.append(row)
            path = write(part, rows, kind, threads)
        print(f"written to {path}", flush=True)


def write(part, rows, kind, threads):
    "The rows as a csv whose name, and whose columns, tell where they were measured; its path."
    import pandas as pd
    import torch

    device = torch.cuda.get_device_name().replace(" ", "-") if kind == "cuda" else f"cpu-{threads}-threads"
    path = (files.project_root() or Path.cwd()) / "results" / "bench" / f"{part}-{device}-torch{torch.__version__.split('+')[0]}.csv"
    where = dict(device=device.partition("-")[0] if kind == "cpu" else device, threads=threads, cores=os.cpu_count())
    return files.write_atomic(path, pd.DataFrame([row | where for row in rows]).to_csv(index=False))


if __name__ == "__main__":
    main()
