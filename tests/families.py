"Images for small models of all families, and density computed by plain loops."
import math

import torch
from torch.nn import functional as F

from learngene.anatomy import blocks_of, image_shape

def family_pictures(model, n=3, seed=1):
    "Draw random images of a size that the model takes."
    channels, *size = image_shape(model)
    size = [min(side, 96) for side in size] if not hasattr(model, "patch_embed") else size
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def density_by_loops(model, images):
    "Eq. 4 for every head: softmax caught in the forward pass, tokens placed by loops over windows and patches."
    layers = []
    grid, patch = _first_grid(model, images)
    prefix = getattr(model, "num_prefix_tokens", 0)
    maps = _maps(model, images)
    for index, block in enumerate(blocks_of(model)):
        if hasattr(model, "layers") and index and block is _first_of_its_stage(model, block):
            grid, patch = [math.ceil(n / 2) for n in grid], [2 * p for p in patch]
        places = _places(block, grid, patch, prefix)
        A = maps[index]
        A = A.reshape(len(images), len(places), -1, *A.shape[-2:])
        totals = []
        for h in range(A.shape[2]):
            total = 0.0
            for b in range(len(images)):
                for w, window in enumerate(places):
                    for i, from_place in enumerate(window):
                        if from_place is None:
                            continue
                        for j, to_place in enumerate(window):
                            if to_place is not None:
                                total += A[b, w, h, i, j].item() * math.dist(from_place, to_place)
            totals.append(total / len(images) / math.prod(grid))
        layers.append(totals)
    return layers


def _first_of_its_stage(model, block):
    return next(stage.blocks[0] for stage in model.layers if block in list(stage.blocks))


def _first_grid(model, images):
    size = images.shape[-2:]
    if not hasattr(model, "patch_embed"):
        return [n // 16 for n in size], [16, 16]
    grid = list(model.patch_embed.grid_size)
    return grid, [n // g for n, g in zip(size, grid)]


def _maps(model, images):
    "Attention maps of all layers, through torch's softmax on tensors."
    maps, original = [], torch.Tensor.softmax

    def catch(x, dim, *args, **kwargs):
        maps.append(original(x, dim, *args, **kwargs))
        return maps[-1]

    functional = F.softmax
    flags = [(block.attn, getattr(block.attn, "fused_attn", None)) for block in blocks_of(model)]
    for attn, _ in flags:
        attn.fused_attn = False
    try:
        torch.Tensor.softmax = catch
        F.softmax = lambda x, dim=None, *a, **k: catch(x, dim)  # nn.Softmax calls this one
        with torch.no_grad():
            model.forward_features(images)
    finally:
        torch.Tensor.softmax, F.softmax = original, functional
        for attn, flag in flags:
            attn.fused_attn = flag
    assert len(maps) == len(flags)
    return maps


def _places(block, grid, patch, prefix):
    "For each window the place of each token in pixels, or None."
    (rows, columns), (height, width) = grid, patch
    size, shift = getattr(block, "window_size", 0), getattr(block, "shift_size", (0, 0))
    if not size:
        return [[None] * prefix + [(r * height, c * width) for r in range(rows) for c in range(columns)]]
    wr, wc = (size, size) if isinstance(size, int) else size
    windows = []
    for top in range(0, rows, wr):
        for left in range(0, columns, wc):
            window = []
            for r in range(top, top + wr):
                for c in range(left, left + wc):
                    inside = r < rows and c < columns
                    place = ((r + shift[0]) % rows * height, (c + shift[1]) % columns * width)
                    window.append(place if inside else None)
            windows.append(window)
    return windows
