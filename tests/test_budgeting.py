"Budgets asked for, and the models that come of them."
import copy
import dataclasses

import numpy as np
import pytest
import timm
import torch
from conftest import make, pictures

import learngene as lg
from learngene import budgeting
from learngene.inherited import check_same_ancestry
from learngene.budgeting import Budget, _by_width, _explained, ShrinkPath, _Spread, measure, prices
from learngene.methods import Shape, get
from learngene.refitting import refit
from learngene.vit import count_flops, count_params, vit_config


@pytest.fixture(scope="module", params=[{}, dict(init_values=0.5, reg_tokens=2, qk_norm=True), dict(qkv_bias=False, class_token=False, global_pool="avg")],
                ids=["plain", "layer scale, registers", "no class token"])
def made(request):
    torch.manual_seed(0)
    ancestry = timm.models.VisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=4, num_heads=4, num_classes=5, **request.param).eval()
    for p in ancestry.blocks.parameters():
        p.data.mul_(3)
    images = torch.randn(60, 3, 16, 16)
    return ancestry, images, lg.condense(ancestry, images, eps=1e-9)


@pytest.mark.parametrize("limits", [dict(params=0.7), dict(params=20_000), dict(flops=0.3), dict(memory_mb=0.1), dict(params=0.6, flops=0.4), dict(params=0.12)], ids=str)
def test_budgets_are_met_closely(made, limits):
    ancestry, images, learngene = made
    child = lg.inherit(learngene, budget=Budget(**limits), refit=images, ancestry=ancestry)
    whole, found = measure(vit_config(ancestry)), measure(vit_config(child))
    used = {k: found[k] / (v * whole[k] if k != "memory_mb" and v <= 1 else v) for k, v in limits.items()}
    assert max(used.values()) <= 1 and max(used.values()) > 0.98, used
    assert found["params"] == count_params(child) and found["flops"] == count_flops(child)
    assert child(images[:2]).isfinite().all()


def test_plan_is_what_is_built(made):
    ancestry, images, learngene = made
    budget = Budget(params=0.4)
    shape = lg.solve(learngene, budget, ancestry, images)
    child = lg.inherit(learngene, budget=budget, refit=images, ancestry=ancestry)
    assert [len(p.heads) for p in shape.layers] == [b.attn.num_heads for b in child.blocks]
    assert [p.ffn_width for p in shape.layers] == [b.mlp.fc1.out_features for b in child.blocks]
    assert "neurons" in str(shape) and shape.inherited_params <= count_params(child) + ancestry.embed_dim
    for p, b in zip(shape.layers, child.blocks):  # queries and keys of the chosen heads, untouched
        n = ancestry.blocks[0].attn.num_heads
        theirs = ancestry.blocks[p.source].attn.qkv.weight.view(3, n, 8, 32)[:2, list(p.heads)]
        assert torch.equal(b.attn.qkv.weight.view(3, len(p.heads), 8, 32)[:2], theirs)


def test_budget_with_a_fresh_classifier(made):
    ancestry, images, learngene = made
    child = lg.inherit(learngene, budget=Budget(params=20_000), num_classes=50, refit=images, ancestry=ancestry)
    assert child.num_classes == 50 and 19_600 < count_params(child) <= 20_000


def test_latency_budget_is_measured(made, monkeypatch):
    "On models that are built, here by a clock that no busy machine disturbs."
    ancestry, images, learngene = made
    measured = []

    def clock(model, *args, **kw):
        measured.append(count_params(model))
        return 1e-3 * measured[-1]
    monkeypatch.setattr(budgeting, "latency_ms", clock)
    limit = 0.5e-3 * count_params(ancestry)
    child = lg.inherit(learngene, budget=Budget(latency_ms=limit), refit=images, ancestry=ancestry)
    assert len(measured) > 1 and 0.9 * limit < 1e-3 * count_params(child) <= limit


@pytest.mark.parametrize("what", ["layers", "heads", "neurons"])
def test_latency_budget_gives_back_what_takes_the_time(made, monkeypatch, what):
    "Where only layers take time, all heads and neurons of those that stay are kept; and so on."
    ancestry, images, learngene = made

    def count(model):
        return dict(layers=len(model.blocks), heads=sum(b.attn.num_heads for b in model.blocks), neurons=sum(b.mlp.fc1.out_features for b in model.blocks))
    whole = count(ancestry)
    monkeypatch.setattr(budgeting, "latency_ms", lambda model, *args: float(count(model)[what]))
    found = count(lg.inherit(learngene, budget=Budget(latency_ms=whole[what] / 2), refit=images, ancestry=ancestry))
    assert 0.35 * whole[what] <= found[what] <= 0.5 * whole[what]
    if what == "layers":
        assert found == {k: v // 2 for k, v in whole.items()}
    else:
        other = dict(heads="neurons", neurons="heads")[what]
        assert found[other] / whole[other] >= found["layers"] / whole["layers"] >= 0.5  # what takes no time goes with its layer alone


def test_smallest_model_is_named(made):
    ancestry, images, learngene = made
    with pytest.raises(ValueError, match="the smallest, one layer of one head and one neuron, has params ([0-9,.]+e?[+0-9]*) \\(wanted 100\\)"):
        lg.solve(learngene, Budget(params=100), ancestry, images)


@pytest.mark.parametrize("bad, message", [({}, "needs a limit"), (dict(params=-1), "params is -1"), (dict(latency_ms=0), "latency_ms is 0"), (dict(params=float("nan")), "params is nan"),
                                          (dict(params=float("inf")), "params is inf"), (dict(params=0.5, batch_size=0), "batch_size is 0"), (dict(params=0.5, batch_size=1.5), "batch_size is 1.5")])
def test_bad_budgets(bad, message):
    with pytest.raises(ValueError, match=message):
        Budget(**bad)


def test_prices_by_brute_force(made):
    "The head that is given back first is the one whose loss is least, measured by solving without it."
    ancestry, images, learngene = made
    tag = prices(learngene, ancestry, images)[0]
    assert tag.heads[0] < 1e-3 and tag.neurons[-1] < 1e-3 and tag.heads == sorted(tag.heads)
    assert tag.neurons == sorted(tag.neurons, reverse=True)
    gone = (set(range(4)) - set(tag.positions[1])).pop()
    losses = []
    for head in range(4):
        method = get("pretraining-finetuning")
        payload = method.condense(ancestry)
        from learngene.inheriting import build, plan, with_heads
        stay = [h for h in range(4) if h != head]
        child = build(payload, with_heads(payload, plan(payload, depth=1, heads=3, proj="aligned", ffn="copy"), [stay]))
        refit(child, _first_block(ancestry), images, ffn=False)
        losses.append(_loss_after_attention(child, ancestry, images))
    assert int(np.argmin(losses)) == gone


def _first_block(ancestry):
    import copy

    one = copy.deepcopy(ancestry)
    one.blocks = one.blocks[:1]
    return one


def _loss_after_attention(child, ancestry, x):
    with torch.no_grad():
        streams = []
        for m in (child, ancestry):
            h, b = m._pos_embed(m.patch_embed(x)), m.blocks[0]
            streams.append(h + b.ls1(b.attn(b.norm1(h))))
    return (streams[0] - streams[1]).square().mean().item()


def test_widths_by_brute_force():
    torch.manual_seed(0)
    gram = _Spread(10, 3, "cpu")
    z = torch.randn(200, 10, dtype=torch.float64) @ torch.randn(10, 10, dtype=torch.float64)
    gram.add(z, z @ torch.randn(10, 3, dtype=torch.float64))
    from learngene.refitting import choose_neurons
    curve = _by_width(gram, 1e-10)
    for k in (1, 4, 10):
        assert np.isclose(curve[k], gram.spread - _explained(gram, choose_neurons(gram, k), 1e-10), rtol=1e-5, atol=1e-6 * gram.spread)


def test_path_only_shrinks(made):
    ancestry, images, learngene = made
    path = ShrinkPath(learngene.config, prices(learngene, ancestry, images), Budget(params=0.5))
    sizes = [path.costs(s)["params"] for s in path.states]
    assert all(a > b for a, b in zip(sizes, sizes[1:]))
    last = path.states[-1]
    assert list(last.heads.values()) == [1] and list(last.widths.values()) == [1]


def test_a_layer_that_does_nothing_goes_first():
    torch.manual_seed(0)
    ancestry = timm.models.VisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=4, num_heads=4, num_classes=5).eval()
    for p in ancestry.blocks.parameters():
        p.data.mul_(3)
    for part in (ancestry.blocks[2].attn.proj, ancestry.blocks[2].mlp.fc2):
        part.weight.data.zero_()
    images = torch.randn(60, 3, 16, 16)
    learngene = lg.condense(ancestry, images, eps=1e-9)
    shape = lg.solve(learngene, Budget(params=0.7), ancestry, images)
    assert [p.source for p in shape.layers] == [0, 1, 3]


def test_budget_as_a_method(made):
    ancestry, images, _ = made
    method = get("cluster-learngene+budget", eps=1e-9, params=0.5, values=1)
    payload = method.condense(ancestry, images)
    child = method.expand(payload, Shape())
    assert 0.49 < count_params(child) / count_params(ancestry) <= 0.5
    assert 0 < method.inherited_params(payload, Shape()) <= count_params(child) + 100
    with pytest.raises(ValueError, match="chooses depth and heads itself"):
        method.expand(payload, Shape(depth=2))


@pytest.mark.parametrize("option", [dict(proj="foldd"), dict(proj="folded"), dict(ffn="copy"), dict(order="x"), dict(ffn_width=4)], ids=str)
def test_what_a_budget_gives_is_not_given_besides(made, option):
    ancestry, images, learngene = made
    with pytest.raises(ValueError, match=f"{next(iter(option))} is .* given by the budget, leave it out"):
        lg.inherit(learngene, budget=Budget(params=0.5), refit=images, ancestry=ancestry, **option)


def test_a_budget_replaces_a_shape(made):
    ancestry, images, learngene = made
    for shape in (dict(depth=2), dict(heads=2), dict(omega=2), dict(layers="last")):
        with pytest.raises(ValueError, match="a budget or a shape .*, not both"):
            lg.inherit(learngene, budget=Budget(params=0.5), refit=images, ancestry=ancestry, **shape)
    with pytest.raises(ValueError, match="budget is 0.5, wanted a Budget"):
        lg.solve(learngene, 0.5, ancestry, images)


def test_budget_of_a_model_that_pools_by_attention(tmp_path):
    "What pools has an FFN of its own, as wide as ever when the first layer's is narrowed."
    model = make("siglip")
    images = pictures(model, 40)
    child = lg.inherit(lg.condense(model, images, eps=1e-9), budget=Budget(params=0.6), refit=images, ancestry=model)
    assert 0.58 < count_params(child) / count_params(model) <= 0.6 and child.attn_pool.mlp.fc1.out_features == model.attn_pool.mlp.fc1.out_features
    lg.save_descendant(child, tmp_path / "m")
    assert torch.equal(lg.load_descendant(tmp_path / "m")(images[:2]), child(images[:2]))


@pytest.mark.parametrize("name", ["packed swiglu", "swiglu", "mlp norm, no proj bias", "post norm"])
def test_models_without_budgets_are_refused_with_a_remedy(name, monkeypatch):
    model = make(name)
    learngene = lg.condense(model, pictures(model), eps=1e-9)
    if name != "post norm":
        monkeypatch.setattr(budgeting, "prices", None)  # before anything is computed
    with pytest.raises(ValueError, match="(cannot be narrowed neuron by neuron|normalise after W.O).*choose a shape yourself"):
        lg.solve(learngene, Budget(params=0.5), model, pictures(model))


def test_another_ancestry_of_the_same_shape_is_refused(made):
    ancestry, images, learngene = made
    other, known = copy.deepcopy(ancestry), learngene.provenance["ancestry"]
    other.blocks[1].mlp.fc1.weight.data[0, 0] += 1
    for call in (lambda m: lg.inherit(learngene, refit=images, ancestry=m), lambda m: lg.inherit(learngene, budget=Budget(params=0.5), refit=images, ancestry=m),
                 lambda m: lg.solve(learngene, Budget(params=0.5), m, images)):
        with pytest.raises(ValueError, match=f"not the model that was condensed: its weights are [0-9a-f]+, those of the learngene's ancestry {known}"):
            call(other)
        with pytest.raises(TypeError, match="give its `.module`"):
            call(torch.nn.DataParallel(ancestry))
    same = copy.deepcopy(ancestry)
    same.reset_classifier(7)  # an ancestry with another classifier has the same stream
    lg.inherit(learngene, depth=1, refit=images, ancestry=same)
    check_same_ancestry(learngene, copy.deepcopy(ancestry).double())  # another type has other bytes
    check_same_ancestry(dataclasses.replace(learngene, provenance={}), other)  # nothing is known of where it comes from
