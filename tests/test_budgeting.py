"Budgets, and the models that are found within them."
import copy
import dataclasses

import numpy as np
import pytest
import timm
import torch
from conftest import make, pictures

import learngene as lg
from learngene import budgeting, shape_costs
from learngene.budgeting import Budget, ShrinkPath, TargetGram, explained_variance, losses_by_width, prices
from learngene.condensing import keep_all
from learngene.inherited import check_same_ancestry
from learngene.inheriting import build, plan, with_heads
from learngene.methods import Shape, get
from learngene.refitting import choose_neurons, refit
from learngene.shape_costs import KeptParts, ShapeCosts
from learngene.stream import after_attention, embed_patches
from learngene.vit import count_flops, count_params, measure, vit_config

VARIANTS = {
    "plain": {},
    "layer scale, registers": dict(init_values=0.5, reg_tokens=2, qk_norm=True),
    "no class token": dict(qkv_bias=False, class_token=False, global_pool="avg"),
}


def random_vit(**options):
    "A small model whose blocks matter."
    torch.manual_seed(0)
    options = dict(img_size=16, patch_size=4, embed_dim=32, depth=4, num_heads=4, num_classes=5) | options
    model = timm.models.VisionTransformer(**options).eval()
    for p in model.blocks.parameters():
        p.data.mul_(3)
    return model


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def condensed(request):
    "(ancestry, calibration images, learngene that keeps all heads)"
    ancestry = random_vit(**request.param)
    images = torch.randn(60, 3, 16, 16)
    return ancestry, images, lg.condense(ancestry, images, eps=1e-9)


@pytest.mark.parametrize("limits", [dict(params=0.7), dict(params=20_000), dict(flops=0.3), dict(memory_mb=0.1),
                                    dict(params=0.6, flops=0.4), dict(params=0.12)], ids=str)
def test_budgets_are_met_closely(condensed, limits):
    ancestry, images, learngene = condensed
    child = lg.inherit(learngene, budget=Budget(**limits), refit=images, ancestry=ancestry)
    whole, costs = measure(vit_config(ancestry)), measure(vit_config(child))
    used = {k: costs[k] / (v * whole[k] if k != "memory_mb" and v <= 1 else v) for k, v in limits.items()}
    assert max(used.values()) <= 1 and max(used.values()) > 0.98, used
    assert costs["params"] == count_params(child) and costs["flops"] == count_flops(child)
    assert child(images[:2]).isfinite().all()


def test_the_plan_is_what_is_built(condensed):
    ancestry, images, learngene = condensed
    budget = Budget(params=0.4)
    solved = lg.solve(learngene, budget, ancestry, images)
    child = lg.inherit(learngene, budget=budget, refit=images, ancestry=ancestry)
    assert [len(p.heads) for p in solved.layers] == [b.attn.num_heads for b in child.blocks]
    assert [p.ffn_width for p in solved.layers] == [b.mlp.fc1.out_features for b in child.blocks]
    assert all(f"FFN <- {p.ffn + 1}: {p.ffn_width}" in str(solved) for p in solved.layers)
    assert solved.inherited_params <= count_params(child) + ancestry.embed_dim
    for p, b in zip(solved.layers, child.blocks):  # queries and keys of the chosen heads, untouched
        n = ancestry.blocks[0].attn.num_heads
        wanted = ancestry.blocks[p.source].attn.qkv.weight.view(3, n, 8, 32)[:2, list(p.heads)]
        assert torch.equal(b.attn.qkv.weight.view(3, len(p.heads), 8, 32)[:2], wanted)


def test_a_budget_with_a_fresh_classifier(condensed):
    ancestry, images, learngene = condensed
    child = lg.inherit(learngene, budget=Budget(params=20_000), num_classes=50, refit=images, ancestry=ancestry)
    assert child.num_classes == 50 and 19_600 < count_params(child) <= 20_000


def test_a_latency_budget_is_measured(condensed, monkeypatch):
    "On models that are built, here by a clock that no busy machine disturbs."
    ancestry, images, learngene = condensed
    measured = []

    def clock(model, *args, **kw):
        measured.append(count_params(model))
        return 1e-3 * measured[-1]

    monkeypatch.setattr(shape_costs, "latency_ms", clock)
    limit = 0.5e-3 * count_params(ancestry)
    child = lg.inherit(learngene, budget=Budget(latency_ms=limit), refit=images, ancestry=ancestry)
    assert len(measured) > 1 and 0.9 * limit < 1e-3 * count_params(child) <= limit


@pytest.mark.parametrize("slow", ["layers", "heads", "neurons"])
def test_a_latency_budget_removes_what_takes_the_time(condensed, monkeypatch, slow):
    "Where only layers take time, the ones that stay keep all heads and neurons; and so on."
    ancestry, images, learngene = condensed

    def count(model):
        return dict(layers=len(model.blocks), heads=sum(b.attn.num_heads for b in model.blocks),
                    neurons=sum(b.mlp.fc1.out_features for b in model.blocks))

    whole = count(ancestry)
    monkeypatch.setattr(shape_costs, "latency_ms", lambda model, *args: float(count(model)[slow]))
    kept = count(lg.inherit(learngene, budget=Budget(latency_ms=whole[slow] / 2), refit=images, ancestry=ancestry))
    assert 0.35 * whole[slow] <= kept[slow] <= 0.5 * whole[slow]
    if slow == "layers":
        assert kept == {k: v // 2 for k, v in whole.items()}
    else:  # what takes no time goes with its layer alone
        other = dict(heads="neurons", neurons="heads")[slow]
        assert kept[other] / whole[other] >= kept["layers"] / whole["layers"] >= 0.5


def test_a_budget_that_is_too_small_names_the_smallest_model(condensed):
    ancestry, images, learngene = condensed
    smallest = "the smallest, one layer of one head and one neuron, has params ([0-9,.]+e?[+0-9]*) \\(wanted 100\\)"
    with pytest.raises(ValueError, match=smallest):
        lg.solve(learngene, Budget(params=100), ancestry, images)


def test_limits_of_any_number_type():
    assert Budget(params=np.int64(5000), latency_ms=25, memory_mb=3).limits["params"] == 5000
    assert Budget(params=1).limits == {"params": 1} and Budget(flops=np.float32(0.5)).limits == {"flops": 0.5}


@pytest.mark.parametrize("kind, count", [("params", count_params), ("flops", count_flops)])
@pytest.mark.parametrize("classes, new", [(5, 300), (0, 300), (300, 0), (300, None)])
def test_a_share_is_of_the_ancestry_as_it_is(kind, count, classes, new):
    "Whatever classifier it has, and whatever classifier the descendant gets."
    ancestry, images = random_vit(num_classes=classes, depth=2), torch.randn(60, 3, 16, 16)
    learngene, share = lg.condense(ancestry, images, eps=1e-9), 0.5
    child = lg.inherit(learngene, budget=Budget(**{kind: share}), num_classes=new, refit=images, ancestry=ancestry)
    assert 0.98 * share * count(ancestry) < count(child) <= share * count(ancestry)
    assert child.num_classes == (classes if new is None else new)


def test_a_classifier_that_outgrows_the_share_is_named():
    ancestry, images = random_vit(depth=1), torch.randn(60, 3, 16, 16)
    learngene = lg.condense(ancestry, images, eps=1e-9)
    with pytest.raises(ValueError, match=r"has params [0-9,.e+]+ \(wanted [0-9,.e+]+\), with a classifier of 9000 cl"):
        lg.solve(learngene, Budget(params=0.5), ancestry, images, num_classes=9000)


def test_a_budget_as_a_method_is_checked_when_it_is_made():
    with pytest.raises(ValueError, match="cluster-learngene.budget.*params is 25, .*did you mean"):
        get("cluster-learngene+budget", params=25)


@pytest.mark.parametrize("limits, message", [
    ({}, "needs a limit"), (dict(params=-1), "params is -1"), (dict(latency_ms=0), "latency_ms is 0"),
    (dict(params=float("nan")), "params is nan"), (dict(params=float("inf")), "params is inf"),
    (dict(params=True), "params is True"), (dict(params="0.5"), "params is '0.5'"),
    (dict(params=25), "params is 25, .*did you mean 25e6 .* or 0.25 .a share of the ancestry's"),
    (dict(flops=99.9), "flops is 99.9, .*did you mean"), (dict(params=1.5), "params is 1.5, .*did you mean"),
    (dict(params=0.5, batch_size=0), "batch_size is 0"),
    (dict(params=0.5, batch_size=1.5), "batch_size is 1.5")], ids=str)
def test_bad_budgets(limits, message):
    with pytest.raises(ValueError, match=message):
        Budget(**limits)


def test_prices_by_brute_force(condensed):
    "The head that goes first is the one whose loss is least, measured by solving without it."
    ancestry, images, learngene = condensed
    layer_prices = prices(learngene, ancestry, images)[0]
    assert layer_prices.heads[0] < 1e-3 and layer_prices.neurons[-1] < 1e-3
    assert layer_prices.heads == sorted(layer_prices.heads)
    assert layer_prices.neurons == sorted(layer_prices.neurons, reverse=True)
    gone = (set(range(4)) - set(layer_prices.positions[1])).pop()
    losses = []
    for head in range(4):
        payload = get("pretraining-finetuning").condense(ancestry)
        three_heads = plan(payload, depth=1, heads=3, proj="aligned", ffn="copy")
        child = build(payload, with_heads(payload, three_heads, [[h for h in range(4) if h != head]]))
        first_layer = copy.deepcopy(ancestry)
        first_layer.blocks = first_layer.blocks[:1]
        refit(child, first_layer, images, ffn=False)
        losses.append(_loss_after_attention(child, ancestry, images))
    assert int(np.argmin(losses)) == gone


def _loss_after_attention(child, ancestry, images):
    with torch.no_grad():
        stream, wanted = (after_attention(m.blocks[0], embed_patches(m, images)) for m in (child, ancestry))
    return (stream - wanted).square().mean().item()


def test_losses_by_width_are_those_of_problems_solved_afresh():
    torch.manual_seed(0)
    gram = TargetGram(10, 3)
    z = torch.randn(200, 10, dtype=torch.float64) @ torch.randn(10, 10, dtype=torch.float64)
    gram.add(z, z @ torch.randn(10, 3, dtype=torch.float64))
    losses = losses_by_width(gram, 1e-10)
    for k in (1, 4, 10):
        afresh = gram.target_variance - explained_variance(gram, choose_neurons(gram, k), 1e-10)
        assert np.isclose(losses[k], afresh, rtol=1e-5, atol=1e-6 * gram.target_variance)


def test_losses_of_a_noisy_target_are_those_of_problems_solved_afresh():
    torch.manual_seed(0)
    gram = TargetGram(12, 5)
    z = torch.randn(400, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    noise = torch.randn(400, 5, dtype=torch.float64)
    gram.add(z, z @ torch.randn(12, 5, dtype=torch.float64) + noise)
    losses = losses_by_width(gram, 1e-9)
    assert np.isclose(losses[12], gram.target_variance - explained_variance(gram, range(12), 1e-9), rtol=1e-6)
    assert np.isclose(losses[0], gram.target_variance, rtol=1e-9)


def test_the_path_only_shrinks(condensed):
    ancestry, images, learngene = condensed
    path = ShrinkPath(learngene.config, prices(learngene, ancestry, images), Budget(params=0.5))
    sizes = [path.costs(kept)["params"] for kept in path.states]
    assert all(a > b for a, b in zip(sizes, sizes[1:]))
    last = path.states[-1]
    assert list(last.heads.values()) == [1] and list(last.widths.values()) == [1]


def test_costs_counted_by_parts_are_those_of_the_model(condensed):
    config = vit_config(condensed[0])
    costs = ShapeCosts(config, batch_size=3)
    everything = KeptParts(dict.fromkeys(range(4), 4), dict.fromkeys(range(4), 128))
    smaller = everything.with_heads(1, 2).with_width(3, 17).without_layer(0)
    for kept in (everything, smaller, KeptParts({2: 1}, {2: 1})):
        assert costs(kept) == measure(kept.config(config), batch_size=3)
    assert everything.heads == dict.fromkeys(range(4), 4) and sorted(smaller.heads) == [1, 2, 3]


def test_a_layer_that_does_nothing_goes_first():
    ancestry = random_vit()
    for part in (ancestry.blocks[2].attn.proj, ancestry.blocks[2].mlp.fc2):
        part.weight.data.zero_()
    images = torch.randn(60, 3, 16, 16)
    learngene = lg.condense(ancestry, images, eps=1e-9)
    solved = lg.solve(learngene, Budget(params=0.7), ancestry, images)
    assert [p.source for p in solved.layers] == [0, 1, 3]


def test_a_budget_as_a_method(condensed):
    ancestry, images, _ = condensed
    method = get("cluster-learngene+budget", eps=1e-9, params=0.5, values=1)
    payload = method.condense(ancestry, images)
    child = method.expand(payload, Shape())
    assert 0.49 < count_params(child) / count_params(ancestry) <= 0.5
    assert 0 < method.inherited_params(payload, Shape()) <= count_params(child) + 100
    with pytest.raises(ValueError, match="chooses depth and heads itself"):
        method.expand(payload, Shape(depth=2))


@pytest.mark.parametrize("option", [dict(proj="foldd"), dict(proj="folded"), dict(ffn="copy"), dict(order="x"),
                                    dict(ffn_width=4)], ids=str)
def test_what_a_budget_decides_cannot_be_given_with_it(condensed, option):
    ancestry, images, learngene = condensed
    with pytest.raises(ValueError, match=f"{next(iter(option))} is .* given by the budget; leave it out"):
        lg.inherit(learngene, budget=Budget(params=0.5), refit=images, ancestry=ancestry, **option)


def test_a_budget_replaces_a_shape(condensed):
    ancestry, images, learngene = condensed
    for shape in (dict(depth=2), dict(heads=2), dict(omega=2), dict(layers="last")):
        with pytest.raises(ValueError, match="a budget or a shape .*, not both"):
            lg.inherit(learngene, budget=Budget(params=0.5), refit=images, ancestry=ancestry, **shape)
    with pytest.raises(ValueError, match="budget is 0.5; give a Budget"):
        lg.solve(learngene, 0.5, ancestry, images)


def test_a_budget_for_a_model_that_pools_by_attention(tmp_path):
    "The pooling has an FFN of its own, which keeps its width when the first layer's is narrowed."
    model = make("siglip")
    images = pictures(model, 40)
    child = lg.inherit(lg.condense(model, images, eps=1e-9), budget=Budget(params=0.6), refit=images, ancestry=model)
    assert 0.58 < count_params(child) / count_params(model) <= 0.6
    assert child.attn_pool.mlp.fc1.out_features == model.attn_pool.mlp.fc1.out_features
    lg.save_descendant(child, tmp_path / "m")
    assert torch.equal(lg.load_descendant(tmp_path / "m")(images[:2]), child(images[:2]))


@pytest.mark.parametrize("name", ["mlp norm, no proj bias", "post norm"])
def test_models_without_budgets_are_refused_with_a_remedy(name, monkeypatch):
    model = make(name)
    learngene = lg.condense(model, pictures(model), eps=1e-9)
    if name != "post norm":
        monkeypatch.setattr(budgeting, "prices", None)  # before anything is computed
    reason = "(cannot be narrowed one by one|normalise after W.O)"
    with pytest.raises(ValueError, match=f"{reason}.*choose a shape yourself"):
        lg.solve(learngene, Budget(params=0.5), model, pictures(model))


@pytest.mark.parametrize("name", ["packed swiglu", "swiglu"])
def test_a_hidden_unit_of_a_gated_ffn_is_a_row_of_both_input_matrices(name):
    model = make(name)
    images = pictures(model)
    child = lg.inherit(lg.condense(model, images, eps=1e-9), budget=Budget(params=0.6), refit=images, ancestry=model)
    assert 0.55 < count_params(child) / count_params(model) <= 0.6
    assert all(block.mlp(torch.ones(1, 32)).shape == (1, 32) for block in child.blocks)


def test_another_ancestry_of_the_same_shape_is_refused(condensed):
    ancestry, images, learngene = condensed
    other, known = copy.deepcopy(ancestry), learngene.provenance["ancestry"]
    other.blocks[1].mlp.fc1.weight.data[0, 0] += 1
    budget = Budget(params=0.5)
    for call in (lambda m: lg.inherit(learngene, refit=images, ancestry=m),
                 lambda m: lg.inherit(learngene, budget=budget, refit=images, ancestry=m),
                 lambda m: lg.solve(learngene, budget, m, images)):
        reason = f"its weights are [0-9a-f]+, those of the learngene's ancestry {known}"
        with pytest.raises(ValueError, match=f"not the model that was condensed: {reason}"):
            call(other)
        with pytest.raises(TypeError, match="give its `.module`"):
            call(torch.nn.DataParallel(ancestry))
    same = copy.deepcopy(ancestry)
    same.reset_classifier(7)  # an ancestry with another classifier has the same stream
    lg.inherit(learngene, depth=1, refit=images, ancestry=same)
    check_same_ancestry(learngene, copy.deepcopy(ancestry).double())  # another type has other bytes
    check_same_ancestry(dataclasses.replace(learngene, provenance={}), other)  # its ancestry is not recorded


def test_widths_in_multiples():
    ancestry, images = random_vit(mlp_ratio=3.2), torch.randn(40, 3, 16, 16)  # 102 neurons
    for limits in (dict(params=0.6), dict(params=0.6, flops=0.5), dict(params=0.2)):
        solved = lg.solve(None, Budget(**limits, multiple_of=8), ancestry, images)
        assert all(p.ffn_width % 8 == 0 or p.ffn_width == 102 for p in solved.layers)
        child = build(keep_all(ancestry), solved)
        assert len(child.blocks) == len(solved.layers)
    assert "multiples of 8" in repr(Budget(params=0.5, multiple_of=8))
    with pytest.raises(ValueError, match="multiple_of is 128, but the narrowest layer has 102 neurons"):
        lg.solve(None, Budget(params=0.5, multiple_of=128), ancestry, images)
    with pytest.raises(ValueError, match="one head and 8 neurons, has params"):
        lg.solve(None, Budget(params=100, multiple_of=8), ancestry, images)
    with pytest.raises(ValueError, match="multiple_of is 0; give a whole number"):
        Budget(params=0.5, multiple_of=0)
