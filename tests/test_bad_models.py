"What cannot be cut, shared or asked is refused in one clear sentence."

import pytest
import timm
import torch
from conftest import make, pictures
from torch import nn

import learngene as lg


class ViTForImageClassification(nn.Module):
    "Stands for a model of the transformers library, which is not installed here."


ViTForImageClassification.__module__ = "transformers.models.vit.modeling_vit"
MODELS = {
    "CNN": (lambda: timm.create_model("resnet18"), "ResNet cannot be cut into heads"),
    "text": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 1), "TransformerEncoder cannot be cut"),
    "transformers": (ViTForImageClassification, "model of the transformers library"),
    "wrapped": (lambda: nn.DataParallel(make("plain")), r"give its `\.module`"),
    "compiled": (lambda: torch.compile(make("plain")), r"give its `\._orig_mod`"),
    "None": (lambda: None, "None is no model"), "number": (lambda: 5, "5 is no model"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_are_refused(name, tmp_path):
    build, says = MODELS[name]
    model, x = build(), torch.randn(2, 3, 32, 32)
    with pytest.raises(TypeError, match=says):
        lg.shrink(model, x, params=0.5)
    with pytest.raises(TypeError, match=says):
        lg.save_pretrained(model, tmp_path / "m")
    if name != "compiled":  # which computes as the model does
        with pytest.raises(TypeError, match=says):
            lg.predict(model, x)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    with pytest.raises(TypeError, match=r"weights are b?float16, too few bits .* give model\.float\(\)"):
        lg.shrink(make("plain").to(dtype), torch.randn(2, 3, 32, 32), params=0.5)


def test_mixed_head_counts():
    "Heads and FFN widths may differ from layer to layer: what was shrunk can be shrunk again."
    uneven = lg.inherit(lg.condensing.keep_all(make("plain")), heads=[4, 2, 1], ffn="copy")
    again = lg.shrink(uneven, pictures(uneven, 12), params=0.7)
    assert again.report.ancestry_heads == [4, 2, 1]
    narrowed = lg.shrink(make("plain"), pictures(uneven, 12), params=0.6)
    once_more = lg.shrink(narrowed, pictures(uneven, 12), params=0.7)
    assert lg.vit.count_params(once_more) <= 0.7 * lg.vit.count_params(narrowed)
