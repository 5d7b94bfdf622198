"Damaged folders of models and learngenes: a model that computes finite numbers, or one error that names the folder."

import json
import random
import shutil
import tempfile
from functools import partial
from pathlib import Path

import timm
import torch
from conftest import make
from safetensors.torch import save_file

import learngene as lg
from fuzz.damage import change_bytes, change_value

QUICK = 60


def cases(seed):
    rng = random.Random(seed)
    owner = tempfile.TemporaryDirectory()  # lives as long as a case that holds it
    folder = Path(owner.name)
    model = make(rng.choice(["plain", "dinov2", "siglip", "qk norm", "swiglu", "distilled"]), seed)
    lg.save_descendant(model, folder / "vit")
    lg.condense(model, torch.randn(4, 3, 32, 32), eps=rng.choice([0.1, 1.0])).save(folder / "learngene")
    _save_for_timm(folder / "hub")
    args = dict(img_size=32, window_size=4, patch_size=2, embed_dim=16, depths=(1, 2), num_heads=(2, 4))
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, **args)
    lg.save_descendant(swin, folder / "swin")
    for i in range(300):
        kind = rng.choice(["vit", "learngene", "learngene", "hub", "swin"])
        file = "model.safetensors" if i % 4 == 0 else "config.json"
        raw = (folder / kind / file).read_bytes()
        if i % 4 > 1:
            changed, done = change_value(rng, json.loads(raw))
            raw = json.dumps(changed).encode()
        else:
            raw, done = change_bytes(rng, raw)
        case = folder / f"case-{i}"
        yield f"{i} {kind}/{file} {done}", partial(_load, owner, folder / kind, case, file, raw, kind), (case,)


def _save_for_timm(folder):
    model = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2, img_size=32, num_classes=3)
    args = dict(depth=1, embed_dim=24, num_heads=2, img_size=32)
    config = dict(architecture="vit_tiny_patch16_224", num_classes=3, model_args=args, pretrained_cfg={})
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")


def _load(owner, source, case, file, raw, kind):
    shutil.copytree(source, case)
    (case / file).write_bytes(raw)
    try:
        if kind == "learngene":
            learngene = lg.Learngene.load(case)
            repr(learngene)
            lg.inherit(learngene, depth=1)
        else:
            model = lg.load_ancestry(case)
            assert all(p.isfinite().all() for p in model.parameters())
    finally:
        shutil.rmtree(case, ignore_errors=True)
