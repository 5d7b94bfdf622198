"""Speed of what this library adds, each beside its peer, in one run: `make bench` or `python -m learngene.bench`.

The density pass stands beside the same model's plain forward pass, and beside the usual way to read attention: fused
kernels off, the attention matrices kept by hooks and reduced afterwards. Building a descendant is timed for an ancestry
of DeiT-B's size. Times are medians; the three passes take turns, so a busy machine slows them alike.
"""
import argparse
import statistics
import time
from pathlib import Path

from . import _files

MODELS = {  # name -> (arguments of timm.create_model, images)
    "deit_tiny_patch16_224": ({}, 16),
    "deit_small_patch16_224": ({}, 16),
    "deit_base_patch16_224": ({}, 8),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 224}, 8),
}


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

    from .density import mean_attention_distance, patch_distances

    model = timm.create_model(name, **kwargs).eval().to(device)
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


def bench_inherit(repeats):
    "Seconds to build a 6-layer descendant of an ancestry of DeiT-B's size."
    import timm

    from .cluster import HeadCluster
    from .condensing import gather
    from .inheriting import inherit

    ancestry = timm.create_model("deit_base_patch16_224")
    learngene = gather(ancestry, [[HeadCluster((h,), h, 0.0) for h in range(12)]] * 12, [[i] for i in range(12)])
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        inherit(learngene, depth=6, heads=6)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main(argv=None):
    "Run the benchmarks and write results/bench/density-DEVICE-torchVERSION.csv."
    parser = argparse.ArgumentParser(prog="learngene.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(argv)
    import pandas as pd
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for name, (kwargs, images) in MODELS.items():
        rows.append(bench_density(name, kwargs, images, args.repeats, device))
        print(rows[-1], flush=True)
    kind = torch.cuda.get_device_name().replace(" ", "-") if device.type == "cuda" else f"cpu-{torch.get_num_threads()}-threads"
    path = (_files.project_root() or Path.cwd()) / "results" / "bench" / f"density-{kind}-torch{torch.__version__.split('+')[0]}.csv"
    _files.write_atomic(path, pd.DataFrame(rows).to_csv(index=False))
    print(f"written to {path}")
    print(f"a 6-layer descendant of an ancestry of DeiT-B's size: {bench_inherit(args.repeats):.2f} s")


if __name__ == "__main__":
    main()
