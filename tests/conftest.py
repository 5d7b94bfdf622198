"A zoo of tiny vision transformers, built by timm alone, with weights that make heads and layers differ."
import gc
import hashlib
import os
import random
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
# other processes must find the library, too, where it is not installed
search_path = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(search_path)

from functools import partial

import numpy as np
import pytest
import torch

import learngene  # noqa: F401  first: it lets timm import torchvision
import timm
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ResPostBlock, VisionTransformer

torch.set_num_threads(1)



def seed_all(*names):
    "Seed torch, NumPy and random from names: every place draws the same numbers, in any order and on any worker."
    seed = int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:4], "little")
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_collectstart(collector):
    seed_all(collector.name)  # what a module draws when it is imported


def pytest_collection_finish(session):
    gc.freeze()  # what is imported is no garbage; looking through it takes longer than most tests


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    seed_all(fixturedef.baseid, fixturedef.argname, request.param_index)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    seed_all(item.path.name, item.name)  # not the node id: pytest-xdist adds a test's group to it


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

ROOT = Path(__file__).parents[1]
SMALL = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=5)
TINY = dict(embed_dim=32, depth=2, num_heads=4, num_classes=5)  # for timm's own names


def _rms(dim, **kw):
    return timm.layers.RmsNorm(dim, eps=1e-5)


ZOO = {
    "plain": lambda **kw: VisionTransformer(**SMALL | kw),
    "distilled": lambda **kw: VisionTransformerDistilled(**SMALL | kw),
    "registers": lambda **kw: VisionTransformer(reg_tokens=3, **SMALL | kw),
    "dinov2": lambda **kw: VisionTransformer(reg_tokens=4, no_embed_class=True, init_values=1e-5, **SMALL | kw),
    "clip": lambda **kw: VisionTransformer(
        pre_norm=True, act_layer=timm.layers.QuickGELU, norm_layer=partial(timm.layers.LayerNorm, eps=1e-5),
        **SMALL | kw),
    "avg": lambda **kw: VisionTransformer(class_token=False, global_pool="avg", **SMALL | kw),
    "avg with class token": lambda **kw: VisionTransformer(global_pool="avg", fc_norm=False, **SMALL | kw),
    "qk norm": lambda **kw: VisionTransformer(qk_norm=True, qkv_bias=False, **SMALL | kw),
    "no qkv bias": lambda **kw: VisionTransformer(qkv_bias=False, **SMALL | kw),
    "siglip": lambda **kw: VisionTransformer(class_token=False, global_pool="map", act_layer="gelu_tanh", **SMALL | kw),
    "packed swiglu": lambda **kw: VisionTransformer(
        mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU, mlp_ratio=3, **SMALL | kw),
    "swiglu": lambda **kw: VisionTransformer(
        mlp_layer=timm.layers.SwiGLU, act_layer=torch.nn.SiLU, mlp_ratio=3, **SMALL | kw),
    "post norm": lambda **kw: VisionTransformer(
        block_fn=ResPostBlock, class_token=False, global_pool="avg", init_values=1e-5, **SMALL | kw),
    "mlp norm, no proj bias": lambda **kw: VisionTransformer(scale_mlp_norm=True, proj_bias=False, **SMALL | kw),
    "rms norm, no positions": lambda **kw: VisionTransformer(norm_layer=_rms, pos_embed="none", **SMALL | kw),
    "no final norm": lambda **kw: VisionTransformer(final_norm=False, **SMALL | kw),
    "not square": lambda **kw: VisionTransformer(**SMALL | dict(img_size=(24, 40), patch_size=(4, 8)) | kw),
    "grey, no classes": lambda **kw: VisionTransformer(**SMALL | dict(in_chans=1, num_classes=0) | kw),
    "timm deit": lambda **kw: timm.create_model("deit_tiny_distilled_patch16_224", img_size=64, **TINY | kw),
    "timm dinov2": lambda **kw: timm.create_model("vit_small_patch14_reg4_dinov2", img_size=56, **TINY | kw),
    "timm clip": lambda **kw: timm.create_model("vit_base_patch32_clip_quickgelu_224", img_size=128, **TINY | kw),
    "timm siglip": lambda **kw: timm.create_model("vit_base_patch16_siglip_224", img_size=64, **TINY | kw),
}


def shake(model, seed=0, strength=1.0):
    "Give every parameter a value that matters: sharp attention, biases and norms that are not 0 and 1."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if p.ndim == 1:
                is_norm = "norm" in name and name.endswith("weight")
                p.copy_((1.0 if is_norm else 0.5 if "gamma" in name else 0.0) + 0.2 * noise)
            elif "qkv" in name:
                p.copy_(noise * strength * 1.5 / p.shape[1] ** 0.5)
            elif "embed" in name or "token" in name:
                p.copy_(noise * 0.7)
            else:
                p.copy_(noise * strength / max(1, p[0].numel()) ** 0.5)
        if getattr(model, "patch_embed", None) is not None:
            w = model.patch_embed.proj.weight
            w.copy_(torch.randn(w.shape, generator=g) / w[0].numel() ** 0.5)
    return model.eval()


def make(name, seed=0, **kw):
    "Build one of the zoo, with weights that make its heads differ."
    return shake(ZOO[name](**kw), seed)


def pictures(model, n=3, seed=1):
    "Draw random images of the model's size."
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, model.patch_embed.proj.in_channels, *model.patch_embed.img_size, generator=g)


@pytest.fixture(scope="session")
def zoo():
    "name, seed, options -> model"
    return make


@pytest.fixture
def one_thread():
    "Compute on one thread, so that sums have one order and can be compared to the last bit."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
