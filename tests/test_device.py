"Images on the device: batches that mean what transforms mean, runs that resume exactly."
import contextlib
import dataclasses
import os
import random
import shutil
import subprocess
import sys

import learngene as lg

import numpy as np
import pytest
import torch
from _ddp_worker import RICH, recipe, vit
from conftest import gpu
from PIL import Image, ImageFilter
from timm.data import auto_augment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import nn

from learngene import device as D
from learngene import randaugment as R
from learngene import train as T
from learngene.batches import EpochBatches
from learngene.checkpoints import CheckpointPolicy
from learngene.data import ImageDataset, eval_transform, train_transform
from learngene.device import (Augment, DeviceBatches, DeviceImages, StepRNG, choose_engine, crop_batch, erase_batch,
                              resized_boxes)
from learngene.images import Images
from learngene.randaugment import apply_randaugment, draw_layer, fill_colour, find_operation, level_of
from learngene.processes import matmul_precision
from learngene.recipe import AugmentSpec
from learngene.train import evaluate, fit
from learngene.transfer import prefetch

CPU = torch.device("cpu")
OFF = dict(crop="none", hflip=0, rand_augment=None, erasing=0)
RICH_TRAIN = dict(epochs=4, ema=0.9, drop_path=0.2, label_smoothing=0.1, clip_grad=1.0, micro_batch=12)
RUN_OPTIONS = dict(engine="device", deterministic=torch.cuda.is_available())  # a CPU is deterministic as it is
PAPER = "rand-m9-mstd0.5-inc1"

pytestmark = pytest.mark.usefixtures("one_thread")


def picture(h, w, mode="RGB", seed=0):
    "A smooth random image."
    shape = (h, w, 3) if mode == "RGB" else (h, w)
    pixels = np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5))


def to_pixels(image):
    "A PIL image as (1, C, H, W) of uint8."
    return torch.from_numpy(np.array(image)).view(1, image.height, image.width, -1).permute(0, 3, 1, 2)


def to_levels(x):
    "The first image of a batch (B, C, H, W) as whole numbers, (H, W, C) or (H, W)."
    return x[0].permute(1, 2, 0).squeeze(-1).numpy().astype(int)


def image_dataset(transform, sizes, mode="RGB"):
    "One random picture of each size, in three classes."
    pictures = [picture(h, w, mode, i) for i, (h, w) in enumerate(sizes)]
    names = [str(i) for i in range(len(sizes))]
    images = Images(pictures, np.arange(len(sizes)) % 3, list("abc"), "", names, mode)
    return ImageDataset(images, np.arange(len(sizes)), transform)


def transform(size=16, channels=3, **change):
    "A training transform with nothing switched on but `change`."
    return train_transform(AugmentSpec(**(OFF | change)), size, (0.5,) * channels, (0.25,) * channels)


def stacked(dataset):
    return torch.stack([x for x, _ in dataset])


# --- crops

BOXES = [(0, 0, 16, 16), (3, 5, 16, 16), (0, 0, 50, 70), (10, 7, 33, 41), (2, 60, 9, 9), (20, 0, 1, 70)]


@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_crops_are_pillows(box, mode):
    image, (top, left, height, width) = picture(50, 70, mode), box
    boxes = torch.tensor([box])
    x = crop_batch(to_pixels(image).permute(0, 2, 3, 1), boxes, boxes, torch.tensor([False]), 16)
    pillow = np.asarray(image.crop((left, top, left + width, top + height)).resize((16, 16), Image.BICUBIC))
    assert x.dtype == torch.uint8
    assert np.abs(to_levels(x) - pillow).max() <= (0 if height == width == 16 else 1)


@pytest.mark.parametrize("sizes", [[(16, 16)] * 5, [(40, 60), (60, 40), (16, 90), (33, 33)]], ids=["equal", "unequal"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_without_randomness_a_batch_is_the_loaders_bit_for_bit(sizes, mode):
    channels = len(mode)
    mean, std = (0.48, 0.45, 0.41)[:channels], (0.23, 0.22, 0.21)[:channels]
    pad = train_transform(AugmentSpec(**OFF | dict(crop="pad", pad=0)), 16, mean, std)
    for t in eval_transform(16, mean, std), eval_transform(16, mean, std, 0.8), transform(channels=channels), pad:
        crops_centre = type(t.transforms[1]).__name__ == "CenterCrop"
        dataset = image_dataset(t, sizes if crops_centre else [(16, 16)] * 5, mode)
        images = DeviceImages(dataset, CPU)
        x, y = images.batch(range(len(dataset)), StepRNG(0, 1, 0))
        assert torch.equal(x, stacked(dataset)) and x.stride() == stacked(dataset).stride()
        assert y.tolist() == dataset.labels.tolist() and y.dtype == torch.int64
        assert len(images) == len(dataset) and images.labels is not None


def test_a_plain_batch_needs_no_random_numbers():
    images = DeviceImages(image_dataset(eval_transform(8, (0.5,), (0.5,)), [(9, 12)] * 4, "L"), CPU)
    assert images.batch([2, 0])[1].tolist() == [2, 0]


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (20, 300), (300, 20)])
def test_random_crops_are_drawn_as_timms(size):
    "Beside timm, 4000 of each; a very long image falls back to the middle at times or always."
    n, (h, w), scale, ratio = 4000, size, (0.08, 1.0), (3 / 4, 4 / 3)
    random.seed(0)
    get_params, image = RandomResizedCropAndInterpolation.get_params, Image.new("L", (w, h))
    timms = torch.tensor([get_params(image, scale, ratio) for _ in range(n)]).float()
    heights, widths = torch.full((n,), float(h)), torch.full((n,), float(w))
    boxes = resized_boxes(StepRNG(0, 0, 0).draw(n, 22), heights, widths, scale, ratio)
    assert torch.equal(boxes, boxes.round()) and (boxes >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= h).all() and (boxes[:, 1] + boxes[:, 3] <= w).all()
    assert torch.allclose(boxes.mean(0), timms.mean(0), atol=0.08 * max(size) ** 0.5 + 0.5)
    assert torch.allclose(boxes.std(0), timms.std(0), rtol=0.06, atol=0.5)


def test_padded_crops_move_the_image_by_each_step_equally():
    dataset = image_dataset(transform(crop="pad", pad=2), [(16, 16)])
    x, _ = DeviceImages(dataset, CPU).batch([0] * 2000, StepRNG(0, 1, 0))
    still, black = (np.asarray(dataset.images[0]) / 255 - 0.5) / 0.25, -2.0
    steps = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
    moves = dict.fromkeys(steps, 0)
    inner = x[:, :, 2:14, 2:14].permute(0, 2, 3, 1).numpy()
    for dy, dx in steps:
        moves[dy, dx] = (np.abs(inner - still[2 + dy:14 + dy, 2 + dx:14 + dx]) < 1e-5).all((1, 2, 3)).sum()
    assert sum(moves.values()) == 2000 and min(moves.values()) > 40
    assert (x[:, :, 0] == black).all(-1).all(-1).float().mean() == pytest.approx(0.4, abs=0.04)


def test_half_of_the_images_are_mirrored():
    dataset = image_dataset(transform(hflip=0.5), [(16, 16)])
    x, _ = DeviceImages(dataset, CPU).batch([0] * 1000, StepRNG(0, 1, 0))
    plain = image_dataset(transform(), [(16, 16)])[0][0]
    same, mirrored = (torch.tensor([torch.equal(image, p) for image in x]) for p in (plain, plain.flip(2)))
    assert (same ^ mirrored).all() and same.float().mean() == pytest.approx(0.5, abs=0.06)


def test_large_photographs_move_in_smaller():
    images = DeviceImages(image_dataset(transform(crop="resized"), [(200, 100), (30, 40)]), CPU)
    assert images.sizes.tolist() == [[64, 32], [30, 40]] and images.pixels.shape == (2, 64, 40, 3)
    assert (images.pixels[0, :, 32:] == 0).all() and (images.pixels[1, 30:] == 0).all()
    x, _ = images.batch([0, 1], StepRNG(0, 1, 0))
    assert x.shape == (2, 3, 16, 16) and x.isfinite().all()


def test_the_corner_around_a_small_image_is_never_seen():
    "White images in a larger black tensor: random crops of them are white."
    white = [np.full((20 + i, 50 - i, 3), 255, np.uint8) for i in range(20)]
    images = Images(white, np.zeros(20, int), ["a"], "", list(range(20)))
    images = DeviceImages(ImageDataset(images, np.arange(20), transform(crop="resized")), CPU)
    assert all((images.batch(range(20), StepRNG(0, 1, step))[0] == 2).all() for step in range(20))


# --- RandAugment

NAMES = sorted({*auto_augment._RAND_TRANSFORMS, *auto_augment._RAND_INCREASING_TRANSFORMS})


def randaugment(text, always=False):
    "timm's RandAugment; `always` leaves no operation out."
    parsed = Augment(transform(rand_augment=text)).parts.randaugment
    for op in parsed.ops if always else []:
        op.prob = 1.0
    return parsed


@pytest.mark.parametrize("name", NAMES)
def test_strengths_are_timms(name, monkeypatch):
    level_fn = auto_augment.LEVEL_TO_ARG[name]
    assert bool(level_fn) == (name in R.LEVELS)
    for s in (-1, 1) if level_fn else ():
        monkeypatch.setattr(auto_augment, "_randomly_negate", lambda v, s=s: s * v)
        for m in (0, 0.4, 2.5, 5.0, 9.0, 9.7, 10):
            level = level_of(name, torch.tensor([m / 10], dtype=torch.float64), torch.tensor([s]))
            assert level.item() == pytest.approx(level_fn(m, {})[0], abs=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", NAMES)
def test_operations_are_pillows(name, mode, monkeypatch):
    image, channels, colour = picture(48, 48, mode), len(mode), (10, 20, 30)
    options = dict(img_mean=colour[:channels], interpolation=Image.BICUBIC)
    op = auto_augment.AugmentOp(name, prob=1, magnitude=6.3, hparams=options)
    x, fill = to_pixels(image), torch.tensor(colour[:channels]).float().view(-1, 1, 1)
    for s in (-1, 1):
        monkeypatch.setattr(auto_augment, "_randomly_negate", lambda v, s=s: s * v)
        out = find_operation(name)(x, level_of(name, torch.tensor([0.63]), torch.tensor([s])), fill)
        assert out.dtype == torch.uint8 and out.shape == x.shape
        assert np.quantile(np.abs(to_levels(out) - np.asarray(op(image)).astype(int)), 0.98) <= 3


def test_how_often_randaugment_acts():
    "Two layers, each left out half of the time; an operation may also change nothing."
    x = to_pixels(picture(12, 12)).expand(3000, -1, -1, -1)
    untouched = (apply_randaugment(x, randaugment(PAPER), StepRNG(0, 1, 0)) == x).all(-1).all(-1).all(-1)
    assert 0.22 < untouched.float().mean().item() < 0.33


@pytest.mark.parametrize("text", [PAPER, "rand-m7-n3-p0.8"])
def test_randaugment_is_the_loop_over_images_bit_for_bit(text):
    ra = randaugment(text)
    x = torch.cat([to_pixels(picture(12, 12, seed=i)) for i in range(60)])
    out, expected, rng = apply_randaugment(x, ra, StepRNG(0, 1, 0)), x.clone(), StepRNG(0, 1, 0)
    for _ in range(ra.num_layers):
        for i, (number, m, s) in enumerate(zip(*draw_layer(ra, len(x), rng))):
            if number < len(ra.ops):
                name, one = ra.ops[number].name, expected[i:i + 1]
                expected[i:i + 1] = find_operation(name)(one, level_of(name, m[None], s[None]), fill_colour(ra, x))
    assert torch.equal(out, expected) and not torch.equal(out, x)


def test_operations_are_drawn_equally_often_and_images_return_to_their_places(monkeypatch):
    counts, ra = {}, randaugment("rand-m9-n1-mstd0.5-inc1", always=True)
    marks = {op.name: i + 1 for i, op in enumerate(ra.ops)}

    def marker(name):
        def mark(x, level, fill):
            counts[name] = len(x)
            return x + marks[name]
        return mark
    monkeypatch.setattr(R, "find_operation", marker)
    n = 6000
    x = (torch.arange(n) % 16 * 15).byte().view(n, 1, 1, 1)
    added = (apply_randaugment(x, ra, StepRNG(3, 1, 0)) - x).flatten()
    assert sum(counts.values()) == n and len(counts) == 15
    assert min(counts.values()) > 300 and max(counts.values()) < 500
    assert added.bincount(minlength=16)[1:].tolist() == [counts[op.name] for op in ra.ops]


@pytest.mark.parametrize("text", ["rand-m6-n1", "rand-m6-n1-mstd101", "rand-m6-n1-mstd2", "rand-m9-n1-mstd2-mmax7",
                                  "rand-m9-n1-mstd3"])
def test_strengths_are_spread_as_timms(text, monkeypatch):
    "Beside timm, 4000 of each; a strength is seen where it would set an operation's level."
    n, ra, magnitudes, timms = 4000, randaugment(text, always=True), [], []
    monkeypatch.setattr(R, "LEVELS", {name: lambda m, s: magnitudes.append(m) or 0 * m for name in R.LEVELS})
    apply_randaugment(torch.zeros(n, 3, 2, 2, dtype=torch.uint8), ra, StepRNG(0, 1, 0))
    op = next(o for o in ra.ops if o.name.startswith("Solarize"))
    op.level_fn, op.aug_fn = lambda level, hparams: timms.append(level) or (), lambda image, *args, **options: image
    random.seed(0)
    for _ in range(n):
        op(None)
    at = torch.linspace(0.02, 0.98, 25)
    apart = (torch.cat(magnitudes) * 10).quantile(at) - torch.tensor(timms, dtype=torch.float32).quantile(at)
    assert apart.abs().max() < 0.35


def test_posterize_keeps_a_bit():
    x, posterize = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16), find_operation("Posterize")
    assert posterize(x, torch.tensor([0.0]), None).unique().tolist() == [0, 128]
    assert torch.equal(posterize(x, torch.tensor([8.0]), None), x)


@pytest.mark.parametrize("text, error", [
    ("rand-m9-tweights", "RandAugment with weights"), ("rand-m9-t3a", "RandAugment with Desaturate"),
    ("original", "AutoAugment is not done")])
def test_what_cannot_be_done_in_batches_is_left_to_the_loader(text, error, monkeypatch):
    r = recipe(augment=dict(rand_augment=text))
    data = lg.load_data(r.data, r.augment)
    with pytest.raises(ValueError, match=f"{error}.*use engine='loader'"):
        choose_engine("device", data, CPU)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 2**40))
    assert choose_engine("auto", data, torch.device("cuda")) == "loader"


# --- erasing

@pytest.mark.parametrize("size", [(32, 32), (8, 8), (20, 40)])
def test_erasing_is_timms_on_average(size):
    n, erasing = 3000, RandomErasing(0.25, mode="pixel", device="cpu")
    random.seed(0)
    timms = torch.stack([(erasing(torch.zeros(1, *size)) != 0).float().mean() for _ in range(n)])
    x = erase_batch(torch.zeros(n, 1, *size), erasing, StepRNG(0, 1, 0))
    share = (x != 0).float().mean((1, 2, 3))
    assert (share > 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert share.mean().item() == pytest.approx(timms.mean().item(), abs=0.006)
    noise = x[x != 0]
    assert noise.mean().item() == pytest.approx(0, abs=0.03) and noise.std().item() == pytest.approx(1, abs=0.03)
    for erased in x[share > 0][:50, 0] != 0:
        rows, columns = erased.any(1), erased.any(0)
        assert torch.equal(erased, rows[:, None] & columns[None])
        assert all(side.int().diff().abs().sum() <= 2 for side in (rows, columns))


# --- batches

def all_on(channels=3):
    "A transform with everything that a transform can do."
    return transform(channels=channels, **{k: v for k, v in RICH.items() if k not in ("mixup", "cutmix")})


def test_the_same_numbers_give_the_same_batch_and_others_another():
    images = DeviceImages(image_dataset(all_on(), [(24, 24)] * 12), CPU)
    numbers = (1, 2, 3), (1, 2, 3), (1, 2, 4), (2, 2, 3), (1, 3, 3)
    x, again, *others = (images.batch(range(12), StepRNG(*seeds))[0] for seeds in numbers)
    assert torch.equal(x, again) and not any(torch.equal(x, other) for other in others)
    assert x.isfinite().all() and x.dtype == torch.float32


def test_images_of_a_batch_do_not_touch_each_other():
    "Another image in one place changes that place alone; twelve copies are twelve images."
    images, first = DeviceImages(image_dataset(all_on(), [(24, 24)] * 12), CPU), list(range(11))
    x, changed = (images.batch(index, StepRNG(0, 1, 0))[0] for index in (first + [0], first + [5]))
    assert torch.equal(x[:11], changed[:11]) and not torch.equal(x[11], changed[11])
    copies = images.batch([0] * 12, StepRNG(0, 1, 0))[0]
    assert len({c.numpy().tobytes() for c in copies}) == 12
    assert (images.pixels[0] == torch.from_numpy(np.array(picture(24, 24)))).all(), "what is kept stays as it is"


def test_processes_share_the_numbers_of_a_batch():
    alone, shared = StepRNG(5, 1, 0), [StepRNG(5, 1, 0, rank, 3) for rank in range(3)]
    for numbers in 7, 2:
        assert torch.equal(alone.draw(12, numbers), torch.cat([rng.draw(4, numbers) for rng in shared]))
    noise = [rng.noise(torch.zeros(4)) for rng in shared]
    assert not torch.equal(noise[0], noise[1])


def test_two_processes_crop_as_one():
    r = recipe(augment=RICH | dict(erasing=0))
    images, n = DeviceImages(lg.load_data(r.data, r.augment).train, CPU), 96
    alone, *shared = (list(DeviceBatches(images, EpochBatches(n, 32, 0, rank, world)))
                      for rank, world in ((0, 1), (0, 2), (1, 2)))
    for (x, y), (a, c), (b, d) in zip(alone, *shared, strict=True):
        assert torch.equal(x, torch.cat([a, b])) and torch.equal(y, torch.cat([c, d]))


def test_labels_are_untouched_and_an_epoch_resumes_where_it_was():
    r = recipe(augment=RICH)
    data = lg.load_data(r.data, r.augment)
    batches = EpochBatches(len(data.train), 32, 0)
    loader = DeviceBatches(DeviceImages(data.train, CPU), batches)
    for batches.epoch in (1, 2):
        batches.first = 0
        epoch = list(loader)
        for (_, y), index in zip(epoch, batches, strict=True):
            assert y.tolist() == data.train.labels[index].tolist()
        batches.first = 3
        assert all(torch.equal(x, rest) for (x, _), (rest, _) in zip(epoch[3:], loader, strict=True))


def test_batches_made_ahead_are_handed_over_in_turn(monkeypatch):
    "Each is made while the one before it is in use, which waits for its own making alone."
    log, made, received = [], [], []

    class Stream:
        def wait_stream(self, other):
            log.append("begin")

        def record_event(self):
            return made[-1]

        def wait_event(self, event):
            log.append(f"wait for {event}")

    class Piece(str):
        def record_stream(self, stream):
            log.append(f"keep {self}")

    def make_batches():
        for k in range(3):
            made.append(k)
            log.append(f"make {k}")
            yield Piece(f"x{k}"), Piece(f"y{k}")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    for batch in prefetch(make_batches(), "cuda"):
        log.append("use")
        received.append(batch)
    assert received == [(f"x{k}", f"y{k}") for k in range(3)]
    assert log == ["begin", "make 0",
                   "make 1", "wait for 0", "keep x0", "keep y0", "use",
                   "make 2", "wait for 1", "keep x1", "keep y1", "use",
                   "wait for 2", "keep x2", "keep y2", "use"]


def test_callers_random_generators_are_not_drawn_from():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    images, before = DeviceImages(image_dataset(all_on(), [(24, 24)] * 4), CPU), states()
    images.batch(range(4), StepRNG(0, 1, 0))
    assert states() == before


def test_evaluation_is_the_loaders():
    data = lg.load_data("digits")
    model, subset = vit(), dataclasses.replace(data.test, index=data.test.index[:101])
    loader, device = (evaluate(model, d, batch_size=32) for d in (subset, DeviceImages(subset, CPU)))
    assert loader == device and loader["images"] == 101


@pytest.mark.parametrize("change", [dict(crop="resized"), dict(crop="pad"), dict(crop="none")], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_arrays_of_the_wanted_size_move_in_untouched(monkeypatch, change, mode):
    "Arrays of other sizes go through PIL, as single pictures do."
    calls, prepare = [], Augment.prepare
    monkeypatch.setattr(Augment, "prepare", lambda *args: (calls.append(1), prepare(*args))[1])
    for side in (16, 24, 80):
        pictures, moved = [picture(side, side, mode, i) for i in range(6)], []
        for items in (pictures, np.stack([np.asarray(p) for p in pictures])):
            calls.clear()
            images = Images(items, np.arange(6), list("abcdef"), "", range(6), mode)
            dataset = ImageDataset(images, np.array([5, 0, 3]), transform(channels=len(mode), **change))
            moved.append(DeviceImages(dataset, CPU))
        by_picture, by_array = moved
        assert torch.equal(by_picture.pixels, by_array.pixels) and torch.equal(by_picture.sizes, by_array.sizes)
        assert by_array.labels.tolist() == [5, 0, 3]
        assert len(calls) == (0 if side <= (64 if change["crop"] == "resized" else 16) else 3)


# --- which way

def test_engine_by_size_and_kind(monkeypatch):
    r = recipe(augment=RICH)
    data = lg.load_data(r.data, r.augment)
    assert [choose_engine(e, data, CPU) for e in D.ENGINES] == ["loader", "device", "loader"]
    with pytest.raises(ValueError, match="did you mean 'loader'"):
        choose_engine("loadre", data, CPU)
    subset = torch.utils.data.Subset(data.train, range(9))
    with pytest.raises(ValueError, match="Subset is no ImageDataset; use engine='loader'"):
        choose_engine("device", dataclasses.replace(data, train=subset), CPU)
    longer = type(data.train.transform)([*data.train.transform.transforms, nn.Identity()])
    with pytest.raises(ValueError, match="Identity is not done in batches"):
        other = dataclasses.replace(data, train=dataclasses.replace(data.train, transform=longer))
        choose_engine("device", other, CPU)
    monkeypatch.setattr(D, "DECODED_LIMIT", 8 * 8 * sum(data.sizes.values()) - 1)
    with pytest.raises(ValueError, match="GiB set aside"):
        choose_engine("device", data, CPU)
    monkeypatch.setattr(D, "DECODED_LIMIT", 8 * 8 * sum(data.sizes.values()))
    assert choose_engine("device", data, CPU) == "device"


def test_a_gpu_takes_what_fits(monkeypatch):
    device, data = torch.device("cuda"), lg.load_data("digits")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, memory))
    memory = 4 * 64 * sum(data.sizes.values())
    assert choose_engine("auto", data, device) == "device"
    memory -= 4
    assert choose_engine("auto", data, device) == "loader"


# --- runs

def train(r, model=None, folder=None, **options):
    "Fit a model on the device; the model and the report."
    model = model or vit()
    options = dict(on_epoch=False) | RUN_OPTIONS | options
    return model, fit(model, lg.load_data(r.data, r.augment), r, folder, **options)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def uninterrupted():
    torch.set_num_threads(1)
    return train(recipe(augment=RICH, train=RICH_TRAIN))


@pytest.mark.parametrize("kills", [[1], [4], [2, 3, 9], [15]])
def test_interrupted_at_any_step(uninterrupted, tmp_path, monkeypatch, kills):
    "With Mixup, CutMix, RandAugment, erasing, drop path, EMA, clipping and accumulation."
    r, steps, step = recipe(augment=RICH, train=RICH_TRAIN), [], T.train_step

    def interrupted(*args):
        steps.append(1)
        if len(steps) > kill:
            raise KeyboardInterrupt
        return step(*args)
    for kill in kills:
        with monkeypatch.context() as m:
            m.setattr(T, "train_step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train(r, vit(kill if steps else 0), tmp_path, policy=CheckpointPolicy(steps=1))
        steps[:] = [1] * kill
        torch.randn(kill), np.random.rand(kill), random.random()
    model, report = train(r, vit(9), tmp_path, engine="auto", policy=CheckpointPolicy(steps=1))
    assert same(model, uninterrupted[0])
    assert report.history == uninterrupted[1].history and report.images == uninterrupted[1].images
    assert report.resumed_at == pytest.approx(kills[-1] / 4) and report.engine == "device"


def test_the_ways_differ_in_augmentation_alone(uninterrupted):
    r = recipe()
    assert same(train(r)[0], train(r, engine="loader")[0])
    assert not same(uninterrupted[0], train(recipe(augment=RICH, train=RICH_TRAIN), engine="loader")[0])


@pytest.mark.parametrize("first, then", [("device", "loader"), ("loader", "device")])
def test_a_run_keeps_its_engine(tmp_path, first, then):
    train(recipe(), folder=tmp_path, stop_after=1, engine=first)
    with pytest.raises(ValueError, match=f"the run started with '{first}'.*remove its checkpoints"):
        train(recipe(), folder=tmp_path, engine=then)
    assert train(recipe(), folder=tmp_path, engine="auto")[1].engine == first


def test_the_record_has_the_run_options(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path))
    record = lg.run(recipe(), lg.Ledger(tmp_path / "l"), on_epoch=False, engine="device", deterministic=True)
    options = {k: record["run_info"][k] for k in ("engine", "compiled", "deterministic")}
    assert options == dict(engine="device", compiled=False, deterministic=True)
    record = lg.run(recipe(), lg.Ledger(tmp_path / "m"), on_epoch=False)
    assert record["run_info"]["engine"] == ("device" if torch.cuda.is_available() else "loader")
    assert not record["run_info"]["deterministic"]


def test_an_ancestry_is_trained_in_the_same_way(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path))
    recipe(name="teacher", train=dict(epochs=1)).save(tmp_path / "teacher.yaml")
    r = recipe(tmp_path / "teacher.yaml", train=dict(epochs=1))
    lg.run(r, lg.Ledger(tmp_path / "l"), on_epoch=False, engine="device")
    (path,) = (tmp_path / "ancestries" / "ledger").rglob("*.json")
    assert '"engine": "device"' in path.read_text()


# --- on a GPU alone

@gpu
@pytest.mark.parametrize("change", [
    dict(engine="device"), dict(engine="loader"), dict(engine="loader", workers=2)], ids=str)
def test_interrupted_on_a_gpu_in_bf16(tmp_path, monkeypatch, change):
    "After every third step."
    options = dict(engine=change["engine"], deterministic=True)
    r = recipe(augment=RICH, train=RICH_TRAIN | dict(epochs=2, precision="bf16", workers=change.get("workers", 0)))
    expected, a = train(r, vit(depth=1), **options)
    step, left, interruptions = T.train_step, [3], 0

    def interrupted(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(*args)
    monkeypatch.setattr(T, "train_step", interrupted)
    while True:
        try:
            model, b = train(r, vit(interruptions, depth=1), tmp_path, policy=CheckpointPolicy(steps=1), **options)
            break
        except KeyboardInterrupt:
            interruptions, left[0] = interruptions + 1, 3
            torch.randn(interruptions, device="cuda")
    assert interruptions == 2 and same(expected, model) and a.history == b.history and a.engine == change["engine"]


@gpu
def test_no_step_waits_for_the_gpu(monkeypatch):
    "From the first step of an epoch to its end, making the batches included."
    step, finite, steps = T.train_step, T.mean_loss, []

    def stepping(*args):
        out = step(*args)
        torch.cuda.set_sync_debug_mode("error")
        steps.append(1)
        return out

    def finishing(*args):
        torch.cuda.set_sync_debug_mode("default")
        return finite(*args)
    monkeypatch.setattr(T, "train_step", stepping)
    monkeypatch.setattr(T, "mean_loss", finishing)
    try:
        rich = RICH_TRAIN | dict(epochs=2)
        train(recipe(augment=RICH, train=rich | dict(precision="bf16")), vit(depth=1), deterministic=False)
        train(recipe(augment=RICH | dict(crop="pad"), train=rich), vit(depth=1), deterministic=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 16


@gpu
@pytest.mark.parametrize("crop", ["resized", "pad", "none"])
def test_a_gpu_makes_the_same_batches(crop):
    "But for rounding, and for erasing's noise."
    dataset = image_dataset(transform(crop=crop, hflip=0.5, rand_augment=PAPER), [(16, 16)] * 64)
    (a, y), (b, z) = (DeviceImages(dataset, device).batch(range(64), StepRNG(0, 1, 0, device=device))
                      for device in ("cpu", "cuda"))
    apart = ((a - b.cpu()).abs() * 0.25 * 255).round()
    assert torch.equal(y, z.cpu()) and (apart > 1).float().mean() < 0.01
    plain = image_dataset(eval_transform(16, (0.48, 0.45, 0.41), (0.23, 0.22, 0.21)), [(16, 16)] * 5)
    x = DeviceImages(plain, "cuda").batch(range(5))[0].cpu()
    assert torch.equal(x, stacked(plain)), "what evaluation sees is the loader's to the last bit"


@gpu
def test_peak_memory_is_of_this_run():
    torch.zeros(2**28, device="cuda")  # a GiB, given back at once
    assert train(recipe())[1].peak_memory_mb < 512


# --- matmul precision

def settings():
    "PyTorch's settings that `matmul_precision` changes."
    return (torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(), torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory,
            os.environ.get("CUBLAS_WORKSPACE_CONFIG"))


def test_deterministic_within_and_as_before_afterwards(monkeypatch):
    before, during, step = settings(), [], T.train_step
    monkeypatch.setattr(T, "train_step", lambda *args: (during.append(settings()), step(*args))[1])
    model, report = train(recipe(augment=RICH), deterministic=True)
    assert all(s[1:] == (True, False, True, False, False, ":4096:8") for s in during)
    assert settings() == before and report.deterministic
    if not torch.cuda.is_available():
        assert same(model, train(recipe(augment=RICH), deterministic=False)[0])


def test_settings_come_back_after_an_error(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = settings()
        with pytest.raises(ZeroDivisionError), matmul_precision(CPU, True):
            assert settings()[1:3] == (True, False) and settings()[-1] == ":16:8"
            raise ZeroDivisionError
        assert settings() == before
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_cublas_workspace_is_set_before_the_first_product():
    "PyTorch looks once, at the first product on a GPU, maybe before any deterministic run."
    code = "import os, learngene.train; print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    for given, expected in (({}, ":4096:8"), (dict(CUBLAS_WORKSPACE_CONFIG=":16:8"), ":16:8")):
        environment = {k: v for k, v in os.environ.items() if k != "CUBLAS_WORKSPACE_CONFIG"} | given
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert process.stdout.strip() == expected


def test_matrices_on_a_gpu_use_its_tensor_cores():
    before = settings()
    with matmul_precision(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
    with matmul_precision(CPU):
        assert settings() == before
    assert settings() == before


def test_attention_is_fused():
    model, _ = train(recipe())
    assert all(b.attn.fused_attn for b in model.blocks)


def test_half_deterministic_is_not_deterministic(tmp_path):
    train(recipe(), folder=tmp_path, stop_after=1, deterministic=False)
    assert not train(recipe(), folder=tmp_path, deterministic=True)[1].deterministic


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_training_agrees():
    r = recipe(train=dict(epochs=1))
    plain, a = train(r, vit(depth=1))
    compiled, b = train(r, vit(depth=1), compile=True)
    assert b.compiled and not a.compiled and type(compiled) is type(plain)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    near = 1e-2 if torch.cuda.is_available() else 1e-3  # tensor cores round more
    for x, y in zip(a.history, b.history, strict=True):
        for k in x:  # some images may fall to the other side
            assert x[k] is None or x[k] == pytest.approx(y[k], abs=0.02 if k == "val_accuracy" else near)
    x = torch.randn(4, 1, 8, 8)
    assert torch.allclose(compiled.cpu()(x), plain.cpu()(x), atol=near)


@pytest.mark.parametrize("epochs, wanted", [(0, 1), (1, 2)])
def test_without_an_epoch_the_training_images_do_not_move(monkeypatch, epochs, wanted):
    moved = []

    class Counted(DeviceImages):
        def __init__(self, images, device):
            moved.append(len(images))
            super().__init__(images, device)
    monkeypatch.setattr(T, "DeviceImages", Counted)
    _, report = train(recipe(train=dict(epochs=epochs)))
    assert report.engine == "device" and len(moved) == wanted and len(report.history) == epochs + 1


def test_compiling_by_the_environment(monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    model, report = train(recipe(train=dict(epochs=1, precision="bf16")))
    assert report.compiled and "forward" not in model.__dict__
    assert model.cpu()(torch.randn(2, 1, 8, 8)).dtype == torch.float32


def test_adamw_is_one_kernel_on_a_gpu():
    "The same optimiser, fused; here PyTorch's fused kernel for CPUs stands in for the GPU's."
    r, plain, fused = recipe(), vit(), vit()
    optimizers = [T.make_optimizer(r, plain), T.make_optimizer(r, fused, fused=True)]
    for model, optimizer in zip((plain, fused), optimizers):
        model(torch.ones(2, 1, 8, 8)).square().sum().backward()
        optimizer.step()
    assert [o.defaults.get("fused") for o in optimizers] == [None, True]
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(plain.parameters(), fused.parameters()))
