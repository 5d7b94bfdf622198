"""Semantic segmentation on any backbone: two decoders, mIoU, datasets in their own folder layouts, a generated one.

The decoders are ours: libraries that have them bring registries, config systems or encoders of their own, and take no
backbone from outside. The training loop is short and ours, too: the engine's losses, mixing and crops are for one
label per image.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from .checks import check_choices, whole_number
from .decoding import decode_image, open_image
from .families.blocks import blocks_of
from .model_input import to_model, wide
from .rng import isolate_rng
from .vit import eval_mode

IGNORED = 255  # in masks: pixels that belong to no class
DECODERS = ("linear", "upernet")
SPLITS = ("train", "val")
# Cityscapes: label ids in files -> the 19 classes that count, in their usual order
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


class LinearDecoder(nn.Module):
    "Classify each patch of the last layer by itself, and enlarge the answers."
    def __init__(
        self,
        widths,  # channels of each map
        num_classes: int,
    ):
        super().__init__()
        self.norm, self.classify = nn.BatchNorm2d(widths[-1]), nn.Conv2d(widths[-1], num_classes, 1)

    def forward(self, maps):
        "Take maps (B, C, h, w) to logits (B, classes, h, w)."
        return self.classify(self.norm(maps[-1]))


class UPerDecoder(nn.Module):
    "Fuse maps of four layers from coarse to fine, as UPerNet does (Xiao et al., ECCV 2018)."
    def __init__(
        self,
        widths,  # channels of each map
        num_classes: int,
        width=64,  # of the fused maps
        bins=(1, 2, 3, 6),  # cells along a side into which the coarsest map is pooled
    ):
        super().__init__()
        def conv(n, size): return nn.Sequential(nn.Conv2d(n, width, size, padding=size // 2, bias=False),
                                                nn.GroupNorm(1, width), nn.ReLU())
        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), conv(widths[-1], 1)) for n in bins)
        self.top = conv(widths[-1] + len(bins) * width, 3)
        self.sides = nn.ModuleList(conv(n, 1) for n in widths[:-1])
        self.smooth = nn.ModuleList(conv(width, 3) for _ in widths[:-1])
        self.fuse, self.classify = conv(len(widths) * width, 3), nn.Conv2d(width, num_classes, 1)

    def forward(self, maps):
        "Take maps (B, C, h, w) to logits of the finest map's size; of twice it, where all have one."
        if len({m.shape[-2:] for m in maps}) == 1 and len(maps) > 1:  # no pyramid: make one, as for plain ViTs
            scales = [2.0 ** (1 - i) for i in range(len(maps))]
            maps = [_resize(m, [max(1, int(n * s)) for n in m.shape[-2:]]) for m, s in zip(maps, scales)]
        last = maps[-1]
        context = [last, *(_resize(pool(last), last.shape[-2:]) for pool in self.pools)]
        levels = [self.top(torch.cat(context, 1))]
        for side, m in zip(reversed(self.sides), reversed(maps[:-1])):
            levels.insert(0, side(m) + _resize(levels[0], m.shape[-2:]))
        levels = [smooth(level) for smooth, level in zip(self.smooth, levels)] + levels[-1:]
        return self.classify(self.fuse(torch.cat([_resize(m, levels[0].shape[-2:]) for m in levels], 1)))


def _resize(maps, size):
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


class Segmenter(nn.Module):
    "A backbone of timm with a decoder: images to logits for each pixel."
    def __init__(
        self,
        backbone,  # a vision transformer of any family; trained with the decoder
        num_classes: int,
        decoder="linear",  # one of DECODERS
        width=64,  # of the maps that the larger decoder fuses
    ):
        super().__init__()
        check_choices(decoder=(decoder, DECODERS))
        if (whole_number(num_classes) or 0) < 2:
            raise ValueError(f"num_classes is {num_classes!r}, wanted a whole number of at least 2.")
        if not hasattr(backbone, "forward_intermediates"):
            raise TypeError(f"a {type(backbone).__name__} does not give maps of its layers; give a vision transformer "
                            "of timm.")
        self.backbone, self.num_classes = backbone, num_classes
        depth = len(getattr(backbone, "feature_info", None) or blocks_of(backbone))
        four = sorted({max(0, (i + 1) * depth // 4 - 1) for i in range(4)})
        self.layers = four[-1:] if decoder == "linear" else four
        size = getattr(getattr(backbone, "patch_embed", None), "img_size", None) or (224, 224)
        with torch.no_grad(), eval_mode(backbone):
            like = next(backbone.parameters())
            channels = getattr(backbone, "in_chans", 3)
            widths = [m.shape[1] for m in self.maps(torch.zeros(1, channels, *size).to(like))]
        make = dict(linear=LinearDecoder, upernet=lambda *args: UPerDecoder(*args, width=width))[decoder]
        self.decoder = make(widths, num_classes)

    def maps(self, images):
        "Return the maps of the chosen layers, each (B, C, h, w)."
        return self.backbone.forward_intermediates(images, indices=self.layers, intermediates_only=True,
                                                   output_fmt="NCHW")

    def forward(self, images):
        "Return logits (B, classes, height, width)."
        return _resize(self.decoder(self.maps(images)), images.shape[-2:])


def confusion_matrix(
    labels,  # masks of whole numbers
    predicted,  # classes, of the same shape
    num_classes: int,
) -> torch.Tensor:  # (classes, classes): pixels of class i that were taken for j
    "Count pixels by class and predicted class; ignored ones do not count."
    seen = labels != IGNORED
    if seen.any() and not (0 <= labels[seen].min() and labels[seen].max() < num_classes):
        raise ValueError(f"masks have class {int(labels[seen].max())}, but there are {num_classes} classes; raise "
                         f"num_classes, or mark other pixels by {IGNORED}.")
    pairs = labels[seen].long() * num_classes + predicted[seen].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def mean_iou(
    confusion,  # from `confusion_matrix`, summed over all images
) -> float:
    "Average intersection over union of the classes that occur in masks or answers."
    hits = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - hits
    return (hits[union > 0] / union[union > 0]).mean().item()


@torch.no_grad()
def evaluate_segmenter(
    model,  # a Segmenter
    data,  # a Dataset of (image, mask)
    batch_size=32,
) -> dict:  # miou, pixel_accuracy
    "Measure mIoU and the share of right pixels."
    total = torch.zeros(model.num_classes, model.num_classes, dtype=torch.long)
    with eval_mode(model):
        for x, y in DataLoader(data, batch_size=batch_size, generator=torch.Generator()):
            total += confusion_matrix(y, model(to_model(x, model)).argmax(1).cpu(), model.num_classes)
    if not total.sum():
        raise ValueError("there is no pixel to evaluate on; give images with masks.")
    return dict(miou=mean_iou(total), pixel_accuracy=(total.diagonal().sum() / total.sum()).item())


def fit_segmenter(
    model,  # a Segmenter, trained in place
    data,  # a Dataset of (image, mask)
    epochs: int,
    batch_size=16,
    lr=1e-3,  # at the start; falls to 0 along a cosine
    weight_decay=0.05,
    seed=0,  # of the order of images
) -> list:  # mean loss of each epoch
    "Train backbone and decoder by AdamW on the cross-entropy of pixels."
    steps = max(1, epochs * -(-len(data) // batch_size))
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    batches, losses = DataLoader(data, batch_size, shuffle=True, generator=torch.Generator().manual_seed(seed)), []
    with isolate_rng():
        torch.manual_seed(seed)
        model.train()
        for _ in range(epochs):
            of_epoch = []
            for x, y in batches:
                logits = wide(model(to_model(x, model)))
                loss = F.cross_entropy(logits, y.to(logits.device), ignore_index=IGNORED)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                of_epoch.append(loss.item())
            losses.append(sum(of_epoch) / len(of_epoch))
    model.eval()
    return losses


@dataclass
class MaskFolder(Dataset):
    "Images and masks in files, as tensors of one size."
    pairs: list  # of (image file, mask file)
    classes: dict  # number in a mask's file -> class; all others are ignored
    num_classes: int
    image_size: int = 224  # both sides, in pixels
    mean: tuple = (0.5, 0.5, 0.5)
    std: tuple = (0.5, 0.5, 0.5)

    def __post_init__(self):
        self.table = torch.full((256,), IGNORED)
        for number, of_class in self.classes.items():
            self.table[number] = of_class

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        size, (image, mask) = (self.image_size,) * 2, self.pairs[i]
        picture, labels = _read(image, decode_image), _read(mask, _read_mask)
        if picture.size != labels.size:
            raise ValueError(f"{image} has {picture.size} pixels, its mask {mask} {labels.size}; give masks of the "
                             "images as they are shown.")
        picture = picture.resize(size, Image.Resampling.BICUBIC)
        x = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255
        x = (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]
        y = torch.from_numpy(np.asarray(labels.resize(size, Image.Resampling.NEAREST)).astype(np.int64))
        return x, self.table[y]


def _read(file, reader):
    "Read a file; ValueError names it when that fails."
    try:
        return reader(file)
    except Exception as error:  # a decoder can fail in many ways
        raise ValueError(f"{file} cannot be read ({error}); replace it.") from error


def _read_mask(file):
    "Read the numbers of a mask, which are no colours."
    with open_image(file) as mask:
        if mask.mode not in ("L", "P"):
            raise ValueError(f"an image of mode {mask.mode}, wanted one number of 8 bits per pixel")
        return Image.fromarray(np.asarray(mask))


def _pairs(images, masks, root):
    "Check that there are images and that each has its mask."
    missing = [m for m in masks if not m.is_file()]
    if not images:
        raise FileNotFoundError(f"there are no images below {root}; is this the folder that the archive unpacks to?")
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(masks)} masks are missing, the first is {missing[0]}; unpack "
                                "the annotations, too.")
    return list(zip(images, masks))


def ade20k(
    root,  # ADEChallengeData2016, with images/training and annotations/training
    split="train",  # or "val"
    **options,  # of `MaskFolder`
) -> MaskFolder:
    "Open ADE20K's 150 classes; number 0 (other) is ignored."
    check_choices(split=(split, SPLITS))
    root, folder = Path(root), dict(train="training", val="validation")[split]
    images = sorted((root / "images" / folder).glob("*.jpg"))
    masks = [root / "annotations" / folder / f"{image.stem}.png" for image in images]
    return MaskFolder(_pairs(images, masks, root), {i + 1: i for i in range(150)}, 150, **options)


def pascal_context(
    root,  # VOC2010, with JPEGImages, SegmentationClassContext and ImageSets/SegmentationContext
    split="train",  # or "val"
    background=False,  # the 60 classes with background, else 59
    **options,  # of `MaskFolder`
) -> MaskFolder:
    "Open Pascal Context, its masks as the common converter writes them."
    check_choices(split=(split, SPLITS))
    root = Path(root)
    listed = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
    if not listed.is_file():
        raise FileNotFoundError(f"there is no {listed}; convert trainval_merged.json to masks and lists first.")
    names = listed.read_text(encoding="utf-8").split()
    images = [root / "JPEGImages" / f"{name}.jpg" for name in names]
    masks = [root / "SegmentationClassContext" / f"{name}.png" for name in names]
    classes = {i: i for i in range(60)} if background else {i + 1: i for i in range(59)}
    return MaskFolder(_pairs(images, masks, root), classes, len(classes), **options)


def cityscapes(
    root,  # with leftImg8bit/train/CITY and gtFine/train/CITY
    split="train",  # or "val"
    **options,  # of `MaskFolder`
) -> MaskFolder:
    "Open the 19 classes of Cityscapes, from the files of label ids."
    check_choices(split=(split, SPLITS))
    root, ending = Path(root), "_leftImg8bit.png"
    images = sorted((root / "leftImg8bit" / split).glob(f"*/*{ending}"))
    masks = [root / "gtFine" / split / image.parent.name / image.name.replace(ending, "_gtFine_labelIds.png")
             for image in images]
    return MaskFolder(_pairs(images, masks, root), {n: i for i, n in enumerate(CITYSCAPES_IDS)}, 19, **options)


class Shapes(Dataset):
    "Generate discs, squares and triangles on stripes, with their masks; the same for a seed."
    num_classes = 4  # background, disc, square, triangle

    def __init__(
        self,
        images: int,
        image_size=32,  # both sides, in pixels
        channels=3,  # of the images
        shapes=3,  # in each image, at most
        seed=0,
    ):
        rng = np.random.default_rng(seed)
        self.items = [self._draw(rng, image_size, channels, shapes) for _ in range(images)]

    def _draw(self, rng, size, channels, shapes):
        y, x = np.mgrid[:size, :size]
        angle, wave = rng.uniform(0, np.pi), rng.uniform(0.3, 1.2)
        stripes = np.sin(wave * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6.3))
        image, mask = rng.normal(0, 0.2, (channels, size, size)) + 0.4 * stripes, np.zeros((size, size), np.int64)
        for _ in range(rng.integers(1, shapes + 1)):
            kind, r = rng.integers(1, 4), rng.uniform(size / 8, size / 4)
            cy, cx = rng.uniform(r, size - r, 2)
            dy, dx = y - cy, x - cx
            inside = {1: dy**2 + dx**2 <= r**2, 2: np.maximum(abs(dy), abs(dx)) <= r,
                      3: (dy <= r) & (2 * abs(dx) <= dy + r)}[int(kind)]
            mask[inside] = kind
            image[:, inside] = rng.uniform(-1.5, 1.5, (channels, 1)) + rng.normal(0, 0.2, (channels, inside.sum()))
        return torch.from_numpy(image).float(), torch.from_numpy(mask)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]
