"What captions say of their runs: steps by hand, and heads beside uniform attention."

import json

import pytest
import torch
from test_tables import record

from learngene import captions
from learngene.paper import published_distances, published_value
from learngene.tables import Results


def test_steps_are_whole_batches():
    assert captions.steps_of(record(epochs=3)) == 3 * 2  # 100 images in batches of 40
    few = record(epochs=3)
    few["meta_info"]["data_sizes"]["train"] = 20  # fewer than a batch: one batch of all
    assert captions.steps_of(few) == 3


def test_the_paper_trains_for_about_100_000_steps():
    assert captions.paper_steps() == 50 * (1281167 // 640) == 100050


def test_training_budget():
    assert captions.training_budget([]) == ""
    assert captions.training_budget([record(epochs=0)]) == "Nothing is trained here."
    one = captions.training_budget([record(epochs=1)])
    assert one == "A run here takes 2 optimiser steps (1 epoch); the paper's about 100,000 (50 epochs of ImageNet)."
    assert "2 to 1,000 optimiser steps (1 to 500 epochs)" in captions.training_budget(
        [record(epochs=500), record(epochs=1)]
    )


def test_outside_a_checkout_the_paper_is_left_out(monkeypatch):
    monkeypatch.setattr("learngene.paper.project_root", lambda: None)
    assert captions.training_budget([record(epochs=1)]) == "A run here takes 2 optimiser steps (1 epoch)."


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_uniform_distance_is_the_mean_over_all_tokens(prefix):
    at = torch.tensor([(8.0 * row, 8.0 * column) for row in range(2) for column in range(3)])
    summed = sum(float((a - b).norm()) for a in at for b in at)
    assert captions.uniform_distance((2, 3), (8, 8), prefix) == pytest.approx(summed / 6 / (6 + prefix))


def test_a_model_that_attends_to_all_tokens_alike_has_the_uniform_distance():
    from learngene import load_ancestry, mean_attention_distance

    blank = load_ancestry("vit_nano_p2_8.digits")
    for block in blank.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight), torch.nn.init.zeros_(block.attn.qkv.bias)
    distances = mean_attention_distance(blank, torch.zeros(1, 1, 8, 8))
    mean, most = captions.against_uniform(distances, captions.uniform_distance((4, 4), (2, 2), 1))
    assert mean == pytest.approx(1, abs=1e-5) and most == pytest.approx(0, abs=1e-5)


def test_heads_of_the_small_ancestries_are_more_alike_than_deit_bs():
    deit_b = captions.against_uniform(published_distances(), captions.uniform_distance(*captions.DEIT_B_PATCHES))
    assert deit_b == pytest.approx((0.743, 0.990), abs=1e-3)
    for ancestry, most in [("vit_nano_p2_8.digits", 0.123), ("vit_pico_p8_64.tin100", 0.159)]:
        assert captions.head_spread(ancestry)[1] == pytest.approx(most, abs=1e-3)


def test_every_caption_says_it(tmp_path):
    run = record(epochs=1)
    run["meta_info"]["recipe"]["ancestry"] = "vit_nano_p2_8.digits"
    results = Results("demo", tmp_path)
    results.publish("t", "T", "A caption.", records=[run])
    results.publish("u", "U", "A caption.")
    first, second = (json.loads((results.folder / f"tables/{name}.json").read_text())["caption"] for name in "tu")
    assert (
        first.startswith("A caption. A run here takes 2 optimiser steps")
        and "vit_nano_p2_8.digits" in first
        and second == "A caption."
    )


def test_published_value():
    assert published_value("table8", "10", "cifar100") == 85.38
    with pytest.raises(KeyError):
        published_value("table8", "10", "cifar10")
