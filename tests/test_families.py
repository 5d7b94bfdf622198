"Models of all families through density, condensing, inheriting and files, beside other code."
import copy

import pytest
import torch
from families import density_by_loops, family_pictures

import learngene as lg
from learngene import vit
from learngene.anatomy import blocks_of, layers_of
from learngene.families.blocks import shares_heads
from learngene.families.cuts import cut_heads, hidden_units
from learngene.families.examples import EXAMPLES, small_model
from learngene.families.table import support_of
from learngene.inherited import check_same_ancestry
from learngene.inheriting import PROJ, inherit

pytestmark = pytest.mark.filterwarnings("ignore:Eps|.* unknowns a channel|the refit ends")


@pytest.fixture(scope="module", params=EXAMPLES)
def ancestry(request):
    "A small model of one family, its images, what it says of them, and its learngene with every head."
    model = small_model(request.param)
    images = family_pictures(model)
    with torch.no_grad():
        return model, images, model(images), lg.condense(model, images, eps=1e-9, ffn_eps=1e-9)


def test_density_is_that_of_plain_loops(ancestry):
    model, images, _, _ = ancestry
    measured, by_loops = lg.mean_attention_distance(model, images[:2]), density_by_loops(model, images[:2])
    for row, wanted in zip(measured, by_loops):
        assert row[:len(wanted)].tolist() == pytest.approx(wanted, rel=1e-4)
        assert row[len(wanted):].isnan().all()


@torch.no_grad()
def test_nothing_removed_is_the_same_function(ancestry):
    model, images, logits, learngene = ancestry
    for proj in PROJ:
        torch.testing.assert_close(inherit(learngene, proj=proj)(images), logits, rtol=1e-5, atol=1e-5)
    twice = inherit(learngene, heads=[2 * h for h in learngene.config["heads"]], proj="folded")
    torch.testing.assert_close(twice(images), logits, rtol=1e-5, atol=1e-5)  # each copy brings half


@torch.no_grad()
def test_heads_in_another_order_are_the_same_function(ancestry):
    model, images, logits, _ = ancestry
    model = copy.deepcopy(model)
    for block in blocks_of(model):
        n = block.attn.num_heads
        order = [*range(1, n), 0]
        cut_heads(block.attn, order, order if shares_heads(model) else None)
    torch.testing.assert_close(model(images), logits, rtol=1e-5, atol=1e-5)


def test_fewer_heads_train_and_are_saved(ancestry, tmp_path):
    model, images, _, learngene = ancestry
    halves = [max(1, n // 2) for n in learngene.config["heads"]]
    child = inherit(learngene, heads=halves, proj="aligned", num_classes=3)
    assert [layer.n_heads for layer in layers_of(child)] == halves
    child.train()(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in child.parameters())
    vit.save_vit(child.eval(), tmp_path / "child")
    loaded = vit.load_vit(tmp_path / "child")
    with torch.no_grad():
        assert vit.fingerprint(loaded) == vit.fingerprint(child)
        torch.testing.assert_close(loaded(images), child(images), rtol=1e-6, atol=1e-6)
        again = inherit(lg.condense(loaded, images, eps=1e-9))  # an ancestry that was cut itself
        torch.testing.assert_close(again(images), child(images), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_fewer_layers_are_the_kept_ones(ancestry):
    model, images, _, learngene = ancestry
    depth = len(learngene.clusters)
    stages = learngene.config.get("stages", [0] * depth)
    kept = [i for i in range(depth) if i != depth - 1 or stages.count(stages[-1]) == 1]
    child = inherit(learngene, layers=kept)
    skipped, dropped = copy.deepcopy(model), set(range(depth)) - set(kept)
    for i, block in enumerate(blocks_of(skipped)):
        if i in dropped:
            block.forward = lambda x, *a, **k: x
    torch.testing.assert_close(child(images), skipped(images), rtol=1e-5, atol=1e-5)


def test_other_weights_are_another_ancestry(ancestry):
    model, _, _, learngene = ancestry
    check_same_ancestry(learngene, model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        blocks_of(other)[0].attn.proj.weight[0, 0] += 1
    with pytest.raises(ValueError, match="not the model that was condensed"):
        check_same_ancestry(learngene, other)


def test_costs_are_those_of_the_model(ancestry):
    model, _, _, learngene = ancestry
    costs = vit.measure(learngene.config)
    assert costs["params"] == vit.count_params(model) and costs["flops"] == vit.count_flops(model)


@pytest.mark.parametrize("name", ["rotary, mixed", "EVA-02, packed FFN", "BEiT", "Swin"])
def test_methods_take_families(name):
    from learngene import methods

    model = small_model(name)
    images, shape = family_pictures(model), methods.core.Shape(depth=3, num_classes=4)
    for method in ("from-scratch", "pretraining-finetuning", "slice", "cluster-learngene"):
        options = dict(blocks=2) if method == "slice" else {}
        chosen = methods.core.get(method, **options)
        if method == "slice" and name == "Swin":
            with pytest.raises(ValueError, match="stages of different widths"):
                chosen.condense(model, images)
            continue
        child = chosen.expand(chosen.condense(model, images), shape)
        assert child(images).shape == (3, 4) and len(blocks_of(child)) == 3


def test_refit_lessens_the_error(ancestry):
    model, images, _, learngene = ancestry
    child = inherit(learngene, heads=[max(1, n // 2) for n in learngene.config["heads"]], proj="aligned")
    able = support_of(model)  # what the table of families says
    if not able["refit"]:
        with pytest.raises(ValueError, match="normalise after W"):
            lg.refit(child, model, images)
        return
    many = torch.cat([images, images.flip(-1), images.flip(-2), images.transpose(-1, -2)])
    report = lg.refit(child, model, many)
    assert report.after[-1] < report.before[-1]
    assert lg.stream_errors(child, model, many)[-1] == pytest.approx(report.after[-1], rel=1e-3)
    if not able["neurons"]:
        with pytest.raises(ValueError, match="norm over their neurons"):
            lg.refit(child, model, many, ffn_width=0.75)
        return
    full = [hidden_units(block.mlp) for block in blocks_of(child)]
    lg.refit(child, model, many, ffn_width=0.75)
    assert [hidden_units(block.mlp) for block in blocks_of(child)] == [round(0.75 * n) for n in full]
    with torch.no_grad():
        assert child(images).isfinite().all()


def test_budget_is_kept(ancestry):
    model, images, _, learngene = ancestry
    if not support_of(model)["neurons"]:
        with pytest.raises(ValueError, match="normalise after W|norm over their neurons"):
            lg.solve(learngene, lg.Budget(params=0.7), model, images)
        return
    stem = sum(t.numel() for name, t in learngene.tensors.items() if not name.startswith("blocks."))
    limit = (vit.count_params(model) + stem) / 2  # half of what layers hold
    child = lg.inherit(learngene, refit=images, ancestry=model, budget=lg.Budget(params=limit))
    assert 0.9 * limit < vit.count_params(child) <= limit
    assert set(vit.vit_config(child).get("stages", [0])) == set(learngene.config.get("stages", [0]))
    with torch.no_grad():
        assert child(images).isfinite().all()


@torch.no_grad()
def test_refit_of_a_copy_changes_nothing(ancestry):
    model, images, logits, learngene = ancestry
    if layers_of(model)[0].adds_last:
        child = inherit(learngene)
        assert lg.refit(child, model, images).after[-1] < 1e-4
        torch.testing.assert_close(child(images), logits, rtol=1e-3, atol=1e-3)
