"Models of all families in full size, with random weights: slow, so only run with LEARNGENE_FULL_SIZE=1."
import os
import resource

import pytest
import timm
import torch

import learngene as lg
from learngene.anatomy import image_shape
from learngene.inheriting import inherit
from learngene.vit import count_params

NAMES = ["vit_small_patch16_dinov3", "eva02_small_patch14_224", "beitv2_base_patch16_224",
         "vit_pe_core_small_patch16_384", "vit_relpos_small_patch16_224", "swin_tiny_patch4_window7_224",
         "swinv2_tiny_window8_256", "samvit_base_patch16_224", "aimv2_large_patch14_224"]

pytestmark = [pytest.mark.skipif(not os.environ.get("LEARNGENE_FULL_SIZE"), reason="set LEARNGENE_FULL_SIZE=1"),
              pytest.mark.filterwarnings("ignore:Eps")]


@pytest.mark.parametrize("name", NAMES)
def test_full_size(name):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    images = torch.randn(2, *image_shape(model))
    learngene = lg.condense(model, images, eps=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(inherit(learngene)(images), model(images), rtol=1e-4, atol=1e-4)
        child = inherit(learngene, heads=[max(1, n // 2) for n in learngene.config["heads"]], proj="aligned")
        assert child(images).isfinite().all()
    assert count_params(child) < count_params(model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name}: {count_params(model) / 1e6:.1f} M -> {count_params(child) / 1e6:.1f} M, peak {peak:.1f} GB")
