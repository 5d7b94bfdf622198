"Attention of two models side by side."

import pytest
import torch
from families import family_pictures

from learngene.attention_drawing import draw_attention, received_attention
from learngene.families.examples import small_model


@pytest.mark.parametrize("name", ["DINOv3", "Swin", "SAM"])
def test_received_attention_has_a_value_for_each_patch(name):
    model = small_model(name)
    image = family_pictures(model)[0]
    first, last = (received_attention(model, image, layer) for layer in (0, -1))
    assert first.shape[0] == first.shape[1] and last.shape[0] <= first.shape[0]
    for received in (first, last):
        assert received.min() > 0 and received.sum().item() == pytest.approx(1)


def test_equal_attention_falls_on_all_patches_alike():
    model = small_model("DeiT III")
    with torch.no_grad():
        model.blocks[1].attn.qkv.weight.zero_()
        model.blocks[1].attn.qkv.bias.zero_()
    received = received_attention(model, family_pictures(model)[0], 1)
    torch.testing.assert_close(received, torch.full((4, 4), 1 / 16))


def test_models_side_by_side():
    model = small_model("DeiT III")
    image = family_pictures(model)[0]
    fig = draw_attention({"ancestry": model, "descendant": small_model("DeiT III", 1)}, image, panels=2)
    titles = [ax.get_title() for ax in fig.axes]
    assert len(fig.axes) == 6 and titles[1:3] == ["layer 1 of 3", "layer 3 of 3"]
    assert fig.axes[3].get_ylabel() == "descendant"
    with pytest.raises(ValueError, match=r"shape \(3, 8, 8\), ancestry takes \(3, 64, 64\)"):
        draw_attention({"ancestry": model}, image[:, :8, :8])
