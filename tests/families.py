"Small models of timm's families with random weights, and density computed from them by plain loops."
import math

import timm
import torch
from torch.nn import functional as F

from learngene.anatomy import blocks_of, image_shape

SMALL = dict(embed_dim=32, depth=3, num_heads=4, num_classes=5, img_size=64)
STAGES = dict(embed_dim=16, depths=(1, 2, 2), num_heads=(1, 2, 4), num_classes=5, img_size=64, window_size=4)

EXAMPLES = {  # what it stands for -> (a name of timm, arguments)
    "DINOv3": ("vit_small_patch16_dinov3", SMALL),
    "DINOv3, gated FFN": ("vit_small_plus_patch16_dinov3", SMALL),
    "EVA": ("eva_large_patch14_196", SMALL | dict(img_size=56)),
    "EVA-02, packed FFN": ("eva02_tiny_patch14_224", SMALL | dict(img_size=56)),
    "EVA-02, separate q, k, v": ("eva02_base_patch14_224", SMALL | dict(img_size=56)),
    "Perception Encoder": ("vit_pe_core_tiny_patch16_384", SMALL),
    "rotary, mixed": ("vit_small_patch16_rope_mixed_224", SMALL),
    "rotary, axial": ("vit_small_patch16_rope_224", SMALL),
    "BEiT": ("beit_base_patch16_224", SMALL),
    "BEiTv2": ("beitv2_base_patch16_224", SMALL),
    "BEiT, one table for all layers": (
        "beit_base_patch16_224", SMALL | dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)),
    "relative positions": ("vit_relpos_small_patch16_224", SMALL),
    "relative positions, class token": ("vit_relpos_base_patch16_cls_224", SMALL),
    "relative positions, shared": ("vit_srelpos_small_patch16_224", SMALL),
    "relative positions, norms last": ("vit_relpos_base_patch16_rpn_224", SMALL),
    "Swin": ("swin_tiny_patch4_window7_224", STAGES),
    "Swin, windows that do not fit": ("swin_tiny_patch4_window7_224", STAGES | dict(window_size=3)),
    "Swin V2": ("swinv2_tiny_window8_256", STAGES),
    "SAM": ("samvit_base_patch16_224", SMALL | dict(
        img_size=80, window_size=2, global_attn_indexes=(1,), neck_chans=16)),
    "hybrid": ("vit_tiny_r_s16_p8_224", SMALL),
    "NaFlex": ("naflexvit_base_patch16_gap", {k: v for k, v in SMALL.items() if k != "img_size"}),
    "DeiT III": ("deit3_small_patch16_224", SMALL),
    "AIMv2": ("aimv2_large_patch14_224", SMALL | dict(img_size=56)),
}


def make_family(name, seed=0):
    "Build one of the examples, with weights that make its heads differ."
    architecture, arguments = EXAMPLES[name]
    torch.manual_seed(seed)
    model = timm.create_model(architecture, **arguments).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += (0.3 if p.ndim < 2 else 1.0) * torch.randn_like(p) / max(4, p[0].numel() if p.ndim > 1 else 4) ** 0.5
    return model


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
