"Gradients without labels, the weights of tokens, and backward elimination."
import numpy as np
import pytest
import torch
from conftest import make, pictures

import learngene as lg
from learngene import gradients as gradients_module
from learngene.anatomy import layers_of
from learngene.budgeting import build_and_refit, prices
from learngene.condensing import keep_all
from learngene.gradients import Judge, judge_of, stream_gradients
from learngene.methods import get
from learngene.refitting import Gram, choose_neurons, eliminate
from learngene.stream import after_attention, after_layers, embed_patches, record_inputs
from learngene.vit import count_params


def last_stream_gradient(model, images, drawn):
    "Gradient of the cross-entropy by the stream behind the last block, by hand."
    kept = []

    def keep(block, args, out):
        kept.append(out.detach().requires_grad_())
        return kept[0]

    hook = model.blocks[-1].register_forward_hook(keep)
    logits = model(images)
    hook.remove()
    torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
    return kept[0].grad


def test_gradients_are_those_of_drawn_classes():
    model = make("registers")
    images = pictures(model, 6)
    drawn = torch.multinomial(model(images).softmax(-1), 1, generator=torch.Generator().manual_seed(7)).flatten()
    g = last_stream_gradient(model, images, drawn).double()
    gradients = stream_gradients(model, images, seed=7)
    energy = g.square().sum(-1).mean(0)
    assert torch.allclose(gradients.energy[-1], torch.cat([energy[:4], energy[4:].mean()[None]]), rtol=1e-4)
    flat = g.flatten(0, 1)
    assert torch.allclose(gradients.fisher[-1], flat.T @ flat / len(flat), rtol=1e-4, atol=1e-8)
    assert gradients.answer == "classifier" and gradients.tokens == [20] * 3 and gradients.images == 6
    root = gradients.root(-1)
    assert torch.allclose(root @ root, gradients.fisher[-1], atol=1e-8)


def test_gradients_repeat_and_leave_the_model_alone():
    model = make("plain")
    before = [p.clone() for p in model.parameters()]
    a, b = (stream_gradients(model, pictures(model, 5), batch_size=size).fisher[0] for size in (2, 5))
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-9)  # also in other batches
    assert all(p.grad is None and torch.equal(p, q) for p, q in zip(model.parameters(), before))


def test_a_fisher_price_is_half_the_squared_change_of_the_answer():
    "The second-order change of the divergence, for a small error behind the last layer."
    model = make("avg")
    images = pictures(model, 400)
    F = stream_gradients(model, images).fisher[-1]
    e = 1e-2 * torch.randn(model.embed_dim, generator=torch.Generator().manual_seed(0))
    hook = model.blocks[-1].register_forward_hook(lambda m, a, out: out + e)
    with torch.no_grad():
        moved = model(images).log_softmax(-1).double()
        hook.remove()
        now = model(images).log_softmax(-1).double()
    measured = (now.exp() * (now - moved)).sum(-1).mean()
    tokens = 16  # the same error at every token of a mean: their gradients are equal
    predicted = tokens**2 / 2 * (e.double() @ F @ e.double())
    assert 0.7 < predicted / measured < 1.4


@pytest.mark.parametrize("name, answer", [("grey, no classes", "features"), ("siglip", "classifier"),
                                          ("distilled", "classifier"), ("avg", "classifier")])
def test_every_kind_of_answer(name, answer):
    model = make(name)
    gradients = stream_gradients(model, pictures(model, 4))
    assert gradients.answer == answer and all(F.isfinite().all() and F.trace() > 0 for F in gradients.fisher)
    prefix = model.num_prefix_tokens
    assert all(energy.shape == (prefix + 1,) for energy in gradients.energy)


def test_without_classifier_and_pooling_there_is_no_answer():
    model = make("plain", num_classes=0, global_pool="")
    with pytest.raises(ValueError, match="neither a classifier nor pooled features.*token_weights=None"):
        stream_gradients(model, pictures(model))
    with pytest.raises(ValueError, match="neither a classifier"):
        lg.refit(model, make("plain", num_classes=0, global_pool=""), pictures(model), token_weights="gradient")


def test_weights_of_tokens():
    model = make("registers")
    judge, stream = judge_of(model, pictures(model, 4), "gradient"), torch.zeros(2, 20, 32)
    weights = judge.weights(1, stream)
    assert weights.shape == (2, 20) and weights.mean().item() == pytest.approx(1)
    ratios = judge.gradients.energy[1][:-1] / judge.gradients.energy[1][-1]
    assert torch.allclose(weights[0, :4] / weights[0, 4], ratios.sqrt())
    by_number = judge_of(model, pictures(model, 4), 9.0).weights(0, stream)
    assert torch.allclose(by_number[0] / by_number[0, -1], torch.tensor([9.0] + 19 * [1.0], dtype=torch.float64))
    assert "classifier" in str(judge) and judge_of(model, None, None).weights(0, stream) is None


def test_models_without_such_tokens_weigh_all_alike():
    judge = judge_of(make("avg"), None)  # no image is looked at
    assert judge.weights(0, torch.zeros(1, 16, 32)) is None and str(judge).endswith("each has a place")
    assert Judge("gradient", prefix=1).weights(0, torch.zeros(1, 4, 4, 32)) is None  # windows


@pytest.mark.parametrize("bad", ["gradients", 0, -1, float("nan"), float("inf"), True])
def test_bad_token_weights(bad):
    with pytest.raises(ValueError, match="token_weights is .*what a class token weighs"):
        lg.refit(make("plain"), make("plain", seed=1), None, token_weights=bad)


@pytest.mark.parametrize("size, n", [(1, 40), (3, 6)])
def test_elimination_equals_brute_force(size, n):
    "Greedy leave-one-out, every subset solved afresh with numpy."
    random = np.random.default_rng(size)
    X = random.normal(size=(300, n * size)) @ random.normal(size=(n * size, n * size))
    Y = X @ random.normal(size=(n * size, 4)) + random.normal(size=(300, 4))
    G, C = X.T @ X / 300, X.T @ Y / 300
    penalty = 1e-3 * np.diag(G).mean()

    def explained(groups):
        at = [group * size + i for group in groups for i in range(size)]
        return (C[at] * np.linalg.solve(G[np.ix_(at, at)] + penalty * np.eye(len(at)), C[at])).sum() if at else 0.0

    left, order, added = list(range(n)), [], []
    while left:
        losses = {i: explained(left) - explained([j for j in left if j != i]) for i in left}
        order.append(min(left, key=losses.get))
        added.append(losses[order[-1]])
        left.remove(order[-1])
    found, increments = eliminate(torch.tensor(G), torch.tensor(C), size, 1e-3)
    assert found == order and np.allclose(increments, added, rtol=1e-6)


def test_neurons_are_chosen_for_what_they_give():
    "What a neuron gives today counts, not what is missing alone."
    z = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([9, 1, 1.0])
    gram, W = Gram(3, 2), torch.tensor([[0, 1.0, 0], [0, 0, 2.0]], dtype=torch.float64)
    gram.add(z, torch.zeros(200, 2))
    assert choose_neurons(gram, 2, "obs", W) == [1, 2] and choose_neurons(gram, 2, "qr") != [1, 2]
    assert choose_neurons(gram, 1, "obs", W) == [2]


def test_fewer_images_than_the_widest_layer_warn_with_the_number():
    model = make("plain")
    with pytest.warns(UserWarning, match="100 images for a layer of 128 inputs"):
        lg.refit(make("plain"), model, pictures(model, 100), token_weights="gradient")


def test_fisher_prices_against_numpy():
    "Heads, neurons and a layer: the weighted least squares of targets in the metric, solved afresh."
    model = make("plain")
    images = pictures(model, 60)
    judge = judge_of(model, images, "gradient", metric=True)
    layer = prices(keep_all(model), model, images, ridge=1e-9, metric="fisher", token_weights=judge, neurons="obs")[1]
    with torch.no_grad():
        before = after_layers(layers_of(model)[:1], embed_patches(model, images))
        neurons, after = record_inputs(model.blocks[1].mlp.fc2, layers_of(model)[1], before)
        middle = after_attention(model.blocks[1], before)
    w = np.tile(judge.weights(1, after)[0].numpy(), 60)[:, None]
    M = judge.gradients.root(1).numpy()

    def left(inputs, target):
        z, y = (t.flatten(0, 1).double().numpy() for t in (inputs, target))
        z, y = (np.sqrt(w) * (t - (w * t).sum(0) / w.sum()) for t in (z, y @ M))
        rest = y - z @ np.linalg.lstsq(z, y, rcond=None)[0] if z.shape[1] else y
        return 17 / 2 * np.square(rest).sum() / w.sum()

    assert layer.skip == pytest.approx(left(after[..., :0], after - before), rel=1e-4)
    alone = min(range(128), key=lambda i: left(neurons[..., [j for j in range(128) if j != i]], after - middle))
    others = [j for j in range(128) if j != alone]
    assert layer.neurons[0] == pytest.approx(left(after[..., :0], after - middle), rel=1e-4)
    assert layer.neurons[127] == pytest.approx(left(neurons[..., others], after - middle), rel=1e-2, abs=1e-9)
    assert layer.neurons == sorted(layer.neurons, reverse=True) and layer.heads == sorted(layer.heads)


@pytest.mark.parametrize("name", ["plain", "registers", "packed swiglu", "swiglu", "avg"])
def test_budgets_in_nats(name):
    "Gated FFNs too; what was asked for is what comes out."
    model = make(name)
    images, budget = pictures(model, 60), lg.Budget(params=0.5, prices="fisher")
    plan = lg.solve(None, budget, model, images, token_weights="gradient", neurons="obs")
    child, report = build_and_refit(keep_all(model), plan, model, images, [p.ffn_width for p in plan.layers],
                                    token_weights="gradient", neurons="obs")
    assert 0.45 < count_params(child) / count_params(model) <= 0.5
    assert child(images[:2]).isfinite().all() and np.isfinite(report.after[-1])


def test_a_fresh_classifier_is_priced_by_features(monkeypatch):
    model, asked = make("plain"), []
    images, real = pictures(model, 60), stream_gradients
    monkeypatch.setattr(gradients_module, "stream_gradients",
                        lambda *args, **kw: asked.append(kw["answer"]) or real(*args, **kw))
    plan = lg.solve(None, lg.Budget(params=0.5, prices="fisher"), model, images, num_classes=7)
    build_and_refit(keep_all(model), plan, model, images, [p.ffn_width for p in plan.layers], token_weights="gradient")
    assert asked == ["features", "features"]


def test_unknown_prices_are_refused():
    with pytest.raises(ValueError, match="prices is 'fischer'.*did you mean 'fisher'"):
        lg.Budget(params=0.5, prices="fischer")
    with pytest.raises(ValueError, match="prices is 'nats'"):
        get("cluster-learngene+budget", params=0.5, prices="nats")


def test_shrink_by_the_models_answer():
    model = make("plain")
    images = pictures(model, 140)
    by_answer, plain = (lg.shrink(model, images, params=0.5, prices=rule) for rule in ("fisher", "variance"))
    assert by_answer.report.prices == "fisher" and " nats predicted" in str(by_answer.report)
    assert " nats" not in str(plain.report) and count_params(by_answer) <= 0.5 * count_params(model)
    again = type(by_answer.report).from_dict(by_answer.report.to_dict())
    assert again == by_answer.report
