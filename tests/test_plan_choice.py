"Budgets of layers all alike, ranked plans, heads to choose from, and options that reach the refit."
import warnings

import pytest
import torch
from conftest import make, pictures

import learngene as lg
from learngene import budgeting
from learngene.budgeting import Budget, build_and_refit, prices, solve
from learngene.condensing import keep_all
from learngene.plan_choice import answer_divergence, scale_prices
from learngene.vit import measure, vit_config


@pytest.fixture(scope="module")
def plain():
    return make("plain")


@pytest.fixture(scope="module")
def images(plain):
    return pictures(plain, 80)


def shapes(plan):
    return {(len(p.heads), p.ffn_width) for p in plan.layers}


@pytest.mark.parametrize("limits", [dict(params=0.6), dict(flops=0.4, params=0.7), dict(memory_mb=0.1)], ids=str)
def test_layers_all_alike(plain, images, limits):
    budget = Budget(**limits, uniform=True, multiple_of=4)
    child = lg.inherit(None, budget=budget, refit=images, ancestry=plain)
    costs, wanted = measure(vit_config(child)), budget.against(measure(vit_config(plain)))
    assert all(costs[name] <= limit for name, limit in wanted.items())
    assert len({(b.attn.num_heads, b.mlp.fc1.out_features) for b in child.blocks}) == 1
    assert child.blocks[0].mlp.fc1.out_features % 4 == 0
    assert "all layers alike" in repr(budget)


def test_the_best_of_all_uniform_shapes(plain, images):
    "By trying every one."
    from learngene.shape_costs import KeptParts

    layer_prices = prices(keep_all(plain), plain, images)
    budget = Budget(params=0.5, uniform=True)
    path = budgeting.ShrinkPath(vit_config(plain), layer_prices, budget)
    limits = budgeting.PathLimits(path)
    best = budgeting.uniform_shape(limits)
    n, full = len(layer_prices), path.full_width[0]
    dearest = sorted(range(n), key=lambda i: -layer_prices[i].skip)
    every = [KeptParts(dict.fromkeys(sorted(dearest[:d]), h), dict.fromkeys(sorted(dearest[:d]), w))
             for d in range(1, n + 1) for h in range(1, len(layer_prices[0].heads) + 1) for w in range(1, full + 1)]
    assert path.total(best) == min(path.total(kept) for kept in every if not limits.exceeded(kept))


def test_layers_that_cannot_be_alike(plain, images):
    from families import family_pictures

    from learngene.families.examples import small_model

    swin = small_model("Swin")
    with pytest.raises(ValueError, match="layers differ in heads, neurons or stage; leave it out"):
        solve(None, Budget(params=0.8, uniform=True), swin, family_pictures(swin, 20))
    with pytest.raises(ValueError, match="no descendant is so small"):
        solve(None, Budget(params=100, uniform=True), plain, images)
    with pytest.raises(ValueError, match="uniform is 1; give True or False"):
        Budget(params=0.5, uniform=1)


def test_milliseconds_and_layers_alike(plain, images, monkeypatch):
    monkeypatch.setattr(budgeting, "fastest_ms", lambda *args: 1.0)
    times = 10.0, {part: [0.1] * 3 for part in ("head", "neuron", "rest")}
    monkeypatch.setattr(budgeting, "part_times", lambda *args: times)
    with pytest.raises(ValueError, match="uniform is True with a limit in milliseconds"):
        solve(None, Budget(latency_ms=5, uniform=True), plain, images)


def test_ranked_plans(plain, images):
    ranked = solve(None, Budget(params=0.5), plain, images, top=3)
    assert 1 <= len(ranked) <= 3
    assert [r.measured for r in ranked] == sorted(r.measured for r in ranked)
    for r in ranked:
        widths = [p.ffn_width for p in r.plan.layers]
        child = build_and_refit(keep_all(plain), r.plan, plain, images, widths)[0]
        assert answer_divergence(child, plain, images) == pytest.approx(r.measured, rel=1e-6)
        assert measure(vit_config(child))["params"] <= 0.5 * measure(vit_config(plain))["params"]
    assert solve(None, Budget(params=0.5), plain, images) in [r.plan for r in ranked]
    assert "nats measured" in repr(ranked[0])


def test_ranked_by_prediction_without_images(plain, images):
    layer_prices = prices(keep_all(plain), plain, images)
    ranked = solve(None, Budget(params=0.5), plain, None, layer_prices=layer_prices, top=9)
    assert [r.predicted for r in ranked] == sorted(r.predicted for r in ranked)
    assert all(r.measured is None for r in ranked) and "not measured" in repr(ranked[0])
    assert len({str(r.plan) for r in ranked}) == len(ranked)
    with pytest.raises(ValueError, match="needs the ancestry that was condensed and some images"):
        solve(None, Budget(params=0.5), plain, None)
    for top in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"top is {top!r}; give a whole number"):
            solve(None, Budget(params=0.5), plain, images, top=top)


def test_the_divergence_is_that_of_torch(plain, images):
    child = lg.inherit(None, budget=Budget(params=0.5), refit=images, ancestry=plain)
    with torch.no_grad():
        answer, wanted = (m(images).double().log_softmax(-1) for m in (child, plain))
    expected = torch.nn.functional.kl_div(answer, wanted, log_target=True, reduction="batchmean").item()
    assert answer_divergence(child, plain, images) == pytest.approx(expected, rel=1e-5)
    assert answer_divergence(plain, plain, images) == 0
    fresh = lg.inherit(None, budget=Budget(params=0.5), num_classes=3, refit=images, ancestry=plain)
    assert answer_divergence(fresh, plain, images) is None


def test_scaled_prices_keep_their_heads(plain, images):
    layer_prices = prices(keep_all(plain), plain, images)
    twice = scale_prices(layer_prices, "heads", 2.0)
    assert [p.heads for p in twice] == [[2 * x for x in p.heads] for p in layer_prices]
    assert [(p.positions, p.neurons, p.skip) for p in twice] == [
        (p.positions, p.neurons, p.skip) for p in layer_prices]
    assert scale_prices(layer_prices, "skip", 0.5)[0].skip == layer_prices[0].skip / 2


def test_a_budget_chooses_among_all_heads_and_says_so(plain, images):
    few = lg.condense(plain, images, eps=100)
    kept, heads = sum(map(len, few.clusters)), sum(vit_config(plain)["heads"])
    assert kept < heads
    with pytest.warns(UserWarning, match=f"among all {heads} heads of the ancestry, not the learngene's {kept}"):
        child = lg.inherit(few, budget=Budget(params=0.9), refit=images, ancestry=plain)
    everything = lg.inherit(None, budget=Budget(params=0.9), refit=images, ancestry=plain)
    assert all(torch.equal(p, q) for p, q in zip(child.parameters(), everything.parameters()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held = lg.solve(few, Budget(params=0.9, keep="learngene"), plain, images)
    assert all(set(p.heads) <= {c.centroid for c in few.clusters[p.source]} for p in held.layers)
    with pytest.raises(ValueError, match="keep is 'learngen'"):
        Budget(params=0.5, keep="learngen")


def test_what_errors_weigh_reaches_the_refit(plain, images, monkeypatch):
    given, real = [], budgeting.refit

    def watch(*args, **options):
        given.append(options)
        return real(*args, **options)

    monkeypatch.setattr(budgeting, "refit", watch)
    options = dict(token_weights=16, neurons="obs")
    lg.inherit(None, budget=Budget(params=0.5), refit=images, ancestry=plain, **options)
    lg.inherit(lg.condense(plain, images), depth=2, refit=images, ancestry=plain, **options)
    assert [(o["token_weights"], o["neurons"]) for o in given] == [(16, "obs")] * 2
    with pytest.raises(ValueError, match="token_weights is -1"):
        lg.inherit(None, budget=Budget(params=0.5), refit=images, ancestry=plain, token_weights=-1)


def test_shrink_takes_multiples_and_layers_alike(plain, images):
    child = lg.shrink(plain, images, params=0.6, multiple_of=8, uniform=True)
    assert len({(len(layer["heads"]), layer["neurons"]) for layer in child.report.layers}) == 1
    assert child.report.layers[0]["neurons"] % 8 == 0
