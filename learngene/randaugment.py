"""RandAugment on a batch of uint8 images, with timm's operations, strengths and chances.

An operation takes images (B, C, H, W) of uint8, a level for each of them (B,), and the fill colour (C, 1, 1), and
returns images like the first. timm counts magnitudes from 0 to 10; here a magnitude is that over 10, from 0 to 1.
By hand, because torchvision's transforms give every image of a batch the same operation and level.
"""
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V

from .transfer import send


# --- operations on colours

def _enhance(without):
    "Make an operation: a blend of an image (level 1) with one `without` something (0)."
    def enhance(x, level, fill):
        poor = without(x).float()
        return (poor + level[:, None, None, None] * (x - poor)).clamp_(0, 255).byte()
    return enhance


def _smooth(x):
    "Smooth as Pillow's SMOOTH does: weights 1, in the middle 5; the border stays as it is."
    out = x.float()
    if min(x.shape[2:]) > 2:
        out[..., 1:-1, 1:-1] = ((9 * F.avg_pool2d(out, 3, 1) + 4 * out[..., 1:-1, 1:-1]) / 13).round()
    return out


def _posterize(x, level, fill):
    "Keep the highest `level` bits of each value, at least one."
    return x & (256 - 2 ** (8 - level.clamp(1, 8))).round().byte()[:, None, None, None]


def _solarize(x, level, fill):
    return torch.where(x >= level[:, None, None, None], 255 - x, x)


def _solarize_add(x, level, fill):
    return torch.where(x < 128, (x + level[:, None, None, None]).clamp(max=255).byte(), x)


# --- operations that move pixels

class Warp:
    """An operation that moves pixels: `matrices` makes a matrix (2, 3) of each image's level.

    The matrix says where each pixel of the result looks, in coordinates from -1 to 1. Warps of different kinds can be
    one call of `warp`.
    """
    def __init__(self, matrices):
        self.matrices = matrices

    def __call__(self, x, level, fill):
        return warp(x, self.matrices(level), fill)


def warp(x, matrices, fill):
    """Move the pixels of images (B, C, H, W) by matrices (B, 2, 3).

    A pixel that looks outside of the image is `fill`, (C, 1, 1).
    """
    grid = F.affine_grid(matrices, list(x.shape), align_corners=False)
    seen = F.grid_sample(x.float(), grid, "bicubic", "border", align_corners=False).round_().clamp_(0, 255)
    return torch.where((grid.abs() < 1).all(-1)[:, None], seen, fill).byte()


def _shift(**factors):
    "Make a Warp: the identity plus `level` times the factors, named by place, e.g. r0c1."
    def matrices(level):
        out = torch.eye(2, 3, device=level.device).repeat(len(level), 1, 1)
        for place, factor in factors.items():
            out[:, int(place[1]), int(place[3])] += factor * level
        return out
    return Warp(matrices)


def _rotation(level):
    angle = -level.deg2rad()
    zero = torch.zeros_like(angle)
    return torch.stack([angle.cos(), angle.sin(), zero, -angle.sin(), angle.cos(), zero], 1).view(-1, 2, 3)


# --- tables

_OPERATIONS = dict(
    AutoContrast=lambda x, level, fill: V.autocontrast(x), Equalize=lambda x, level, fill: V.equalize(x),
    Invert=lambda x, level, fill: 255 - x, Posterize=_posterize, Solarize=_solarize, SolarizeAdd=_solarize_add,
    Color=_enhance(lambda x: V.adjust_saturation(x, 0.0)), Contrast=_enhance(lambda x: V.adjust_contrast(x, 0.0)),
    Brightness=_enhance(torch.zeros_like), Sharpness=_enhance(_smooth),
    ShearX=_shift(r0c1=1, r0c2=1), ShearY=_shift(r1c0=1, r1c2=1), TranslateX=_shift(r0c2=2),
    TranslateY=_shift(r1c2=2), Rotate=Warp(_rotation))

# timm's name -> level of magnitudes m (0 to 1) and signs s (1 or -1); an operation that is not listed takes none
LEVELS = dict(
    Rotate=lambda m, s: 30 * m * s, ShearX=lambda m, s: 0.3 * m * s, ShearY=lambda m, s: 0.3 * m * s,
    TranslateXRel=lambda m, s: 0.45 * m * s, TranslateYRel=lambda m, s: 0.45 * m * s,
    Posterize=lambda m, s: (4 * m).floor(), PosterizeIncreasing=lambda m, s: 4 - (4 * m).floor(),
    Solarize=lambda m, s: (256 * m).floor().clamp(max=256),
    SolarizeIncreasing=lambda m, s: 256 - (256 * m).floor().clamp(max=256),
    SolarizeAdd=lambda m, s: (110 * m).floor().clamp(max=128))
for _name in ("Color", "Contrast", "Brightness", "Sharpness"):
    LEVELS |= {_name: lambda m, s: 0.1 + 1.8 * m, f"{_name}Increasing": lambda m, s: (1 + 0.9 * m * s).clamp(min=0.1)}


def find_operation(name):
    "Find the operation by timm's name; None for one that is not done in batches."
    return _OPERATIONS.get(name.removesuffix("Increasing").removesuffix("Rel"))


def level_of(name, magnitude, sign):
    "Turn magnitudes and signs, each (B,), into an operation's levels (B,)."
    return LEVELS[name](magnitude, sign) if name in LEVELS else 0 * magnitude


# --- RandAugment

def check_operations(randaugment):
    "Return timm's RandAugment. ValueError for operations that are not done in batches."
    missing = [op.name for op in randaugment.ops
               if not find_operation(op.name) or op.level_fn and op.name not in LEVELS]
    if missing or randaugment.choice_weights is not None:
        raise ValueError(f"RandAugment with {missing[0] if missing else 'weights'} is not done in batches")
    return randaugment


def fill_colour(randaugment, x):
    "Return the colour (C, 1, 1) of what moves in, the dataset's mean, on the device of `x`."
    colour = randaugment.ops[0].kwargs["fillcolor"][:x.shape[1]]
    return send(torch.tensor(colour).float().view(-1, 1, 1), x.device)


def draw_layer(randaugment, count, rng):
    """Draw one layer for `count` images, on the CPU.

    Returns, each (count,): the number of the operation, or the number of operations where none is applied; the
    magnitude, 0 to 1; the sign, 1 or -1.
    """
    op = randaugment.ops[0]  # chance and strength are the same for all
    which, chance, strength, sign = rng.draw(count, 4).T
    number = torch.where(chance < op.prob, (which * len(randaugment.ops)).long(), len(randaugment.ops))
    if op.magnitude_std == float("inf"):
        magnitude = op.magnitude * strength
    else:
        magnitude = op.magnitude + op.magnitude_std * torch.special.ndtri(strength)
    return number, magnitude.clamp(0, op.magnitude_max or 10) / 10, torch.where(sign < 0.5, 1, -1)


def apply_randaugment(x, randaugment, rng):
    """Apply timm's RandAugment to images (B, C, H, W) of uint8, each on its own.

    Random numbers come from `rng`, a StepRNG. In each layer the images are sorted by operation; each operation takes
    its group, all warps together are one group, and the images return to their places. Nothing waits for the device.
    """
    operations = [find_operation(op.name) for op in randaugment.ops]
    order = sorted(range(len(operations)), key=lambda i: isinstance(operations[i], Warp))  # warps last
    fill = fill_colour(randaugment, x)
    for _ in range(randaugment.num_layers):
        number, magnitude, sign = draw_layer(randaugment, len(x), rng)
        rank = torch.tensor([*order, len(order)]).argsort()[number]
        by_rank = rank.argsort(stable=True)
        counts = rank.bincount(minlength=len(order) + 1).tolist()
        groups = zip(order, magnitude[by_rank].split(counts), sign[by_rank].split(counts))
        levels = [level_of(randaugment.ops[i].name, m, s) for i, m, s in groups]
        x = _apply_groups(x, by_rank, counts, [operations[i] for i in order], levels, fill)
    return x


def _apply_groups(x, by_rank, counts, operations, levels, fill):
    "Apply operations, warps last, each to its group of images; the last group stays."
    still = sum(not isinstance(operation, Warp) for operation in operations)
    warps = zip(operations[still:], levels[still:])
    matrices = torch.cat([torch.zeros(0, 2, 3), *(operation.matrices(level) for operation, level in warps)])
    level = torch.cat([torch.zeros(0), *levels[:still]])
    by_rank, back, level, matrices = (send(t, x.device) for t in (by_rank, by_rank.argsort(), level, matrices))
    *groups, moved, rest = x[by_rank].split([*counts[:still], sum(counts[still:-1]), counts[-1]])
    changed = [operation(group, group_level, fill) if len(group) else group
               for operation, group, group_level in zip(operations, groups, level.split(counts[:still]))]
    return torch.cat([*changed, warp(moved, matrices, fill) if len(moved) else moved, rest])[back]
