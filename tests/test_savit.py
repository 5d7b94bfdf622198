"SAViT: scores and interactions by finite differences of a forward pass in numpy, masks, prices, refusals."
import numpy as np
import pytest
import torch
from conftest import make, pictures
from scipy.special import erf
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import learngene as lg
from learngene.methods import Shape
from learngene.methods.savit import (KINDS, PartFlops, best_units, gate_scores, open_gates, score_batches,
                                     search_shares, smaller_model)
from learngene.vit import count_flops, count_params, load_vit, save_vit, vit_config


def forward(model, images, heads, neurons, channels):
    "Classify in numpy; norms look at channels whose gate is open."
    W = {name: t.detach().double().numpy() for name, t in model.state_dict().items()}
    stays = channels != 0

    def norm(x, name, eps=model.blocks[0].norm1.eps):
        seen = x[..., stays]
        y = (x - seen.mean(-1, keepdims=True)) / np.sqrt(seen.var(-1, keepdims=True) + eps)
        return (y * W[f"{name}.weight"] + W[f"{name}.bias"]) * stays

    p, n = model.patch_embed.patch_size[0], len(images)
    grid = images.double().numpy().reshape(n, images.shape[1], images.shape[2] // p, p, -1, p)
    patches = grid.transpose(0, 2, 4, 1, 3, 5).reshape(n, -1, images.shape[1] * p * p)
    x = patches @ W["patch_embed.proj.weight"].reshape(len(channels), -1).T + W["patch_embed.proj.bias"]
    x = np.concatenate([np.broadcast_to(W["cls_token"], (n, 1, len(channels))), x], 1) + W["pos_embed"]
    x = x * channels
    for i, (of_heads, of_neurons) in enumerate(zip(heads, neurons)):
        b, H = f"blocks.{i}.", len(of_heads)
        qkv = norm(x, b + "norm1") @ W[b + "attn.qkv.weight"].T + W[b + "attn.qkv.bias"]
        q, k, v = qkv.reshape(n, x.shape[1], 3, H, -1).transpose(2, 0, 3, 1, 4)
        A = np.exp((S := q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])) - S.max(-1, keepdims=True))
        out = (A / A.sum(-1, keepdims=True)) @ v * of_heads[:, None, None]
        out = out.swapaxes(1, 2).reshape(n, x.shape[1], -1)
        x = (x + out @ W[b + "attn.proj.weight"].T + W[b + "attn.proj.bias"]) * channels
        h = (norm(x, b + "norm2") @ W[b + "mlp.fc1.weight"].T + W[b + "mlp.fc1.bias"]) * of_neurons
        h = h * (1 + erf(h / np.sqrt(2))) / 2
        x = (x + h @ W[b + "mlp.fc2.weight"].T + W[b + "mlp.fc2.bias"]) * channels
    return norm(x, "norm")[:, 0] @ W["head.weight"].T + W["head.bias"]


def loss(logits, y):
    z = logits - logits.max(-1, keepdims=True)
    return (np.log(np.exp(z).sum(-1)) - z[np.arange(len(y)), y]).mean()


def gates_of(model):
    return [[np.ones(len(g)) for g in of_kind] for of_kind in open_gates(model).values()]


@pytest.fixture(scope="module")
def plain():
    model = make("plain", depth=2, embed_dim=16, num_heads=2).double()
    model.requires_grad_(False)
    for block in model.blocks:
        block.attn.fused_attn = False
    return model, pictures(model, 6).double(), torch.tensor([0, 1, 2, 3, 4, 0])


def test_scores_by_finite_differences(plain):
    model, x, y = plain
    scored = gate_scores(model, [(x[:4], y[:4]), (x[4:], y[4:])])
    step = 1e-5
    for kind, layer, unit in [(0, 0, 1), (0, 1, 0), (1, 0, 7), (1, 1, 30), (2, 0, 0), (2, 0, 11)]:
        squares = []
        for part, labels in ((x[:4], y[:4]), (x[4:], y[4:])):
            at = []
            for sign in (1, -1):
                gates = gates_of(model)
                gates[kind][layer][unit] += sign * step
                at.append(loss(forward(model, part, gates[0], gates[1], gates[2][0]), labels.numpy()))
            squares.append(((at[0] - at[1]) / (2 * step)) ** 2)
        assert scored.scores[KINDS[kind]][layer][unit].item() == pytest.approx(np.mean(squares), rel=1e-4, abs=1e-12)


def test_interactions_by_finite_differences(plain):
    "One layer, so that no layer is drawn: the mixed second derivatives by the size of all gates of a kind."
    model = make("plain", depth=1, embed_dim=16, num_heads=2).double().requires_grad_(False)
    model.blocks[0].attn.fused_attn = False
    _, x, y = plain
    step, n = 1e-3, np.array([16, 64, 6 * 16])
    at = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            values = []
            for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                size = np.ones(3)
                size[i] += a * step
                size[j] += b * step
                gates = [[g * s for g in of_kind] for of_kind, s in zip(gates_of(model), size)]
                values.append(loss(forward(model, x, gates[0], gates[1], gates[2][0]), y.numpy()))
            at[i, j] = (values[0] - values[1] - values[2] + values[3]) / (4 * step**2)
    found = gate_scores(model, [(x, y)]).interactions * np.outer(n, n)
    assert np.allclose(found, at, rtol=1e-3, atol=1e-5)


def test_a_pruned_model_equals_the_masked_one(plain):
    model, x, y = plain
    method = lg.methods.get("savit", flops=0.6)
    payload = method.condense(model, TensorDataset(x, y))
    heads, neurons, (channels,) = kept = method.keep(payload)
    assert len(channels) < 16 and sum(map(len, neurons)) < 128
    gates = [[np.zeros_like(g) for g in of_kind] for of_kind in gates_of(model)]
    for of_kind, units in zip(gates, kept):
        for gate, stay in zip(of_kind, units):
            gate[stay] = 1
    masked = forward(model, x, gates[0], gates[1], gates[2][0])
    child = method.expand(payload)
    with torch.no_grad():
        assert np.allclose(child(x).numpy(), masked, atol=1e-9)
    assert 0.58 < count_flops(child) / count_flops(model) <= 0.6
    assert method.inherited_params(payload) == count_params(child)
    seven = method.expand(payload, Shape(num_classes=7))
    assert seven.num_classes == 7 and count_flops(seven) <= 0.6 * count_flops(model)
    assert method.inherited_params(payload, Shape(num_classes=7)) == count_params(seven) - 7 * (seven.embed_dim + 1)


@pytest.mark.parametrize("kind", ["plain", "distilled", "registers", "dinov2", "avg", "clip", "qk norm", "no qkv bias",
                                  "not square", "no final norm"])
def test_every_plain_kind(kind, tmp_path):
    model = make(kind)
    method = lg.methods.get("savit", flops=0.5, labels="drawn", generations=20)
    payload = method.condense(model, pictures(model, 4))
    child, price = method.expand(payload), PartFlops(vit_config(model))
    counts = sum(b.attn.num_heads for b in child.blocks), sum(b.mlp.fc1.out_features for b in child.blocks)
    assert price(*counts, child.embed_dim) == pytest.approx(count_flops(child), abs=1e-3)
    assert count_flops(child) <= 0.5 * count_flops(model)
    save_vit(child, tmp_path / "child")
    with torch.no_grad():
        assert torch.equal(load_vit(tmp_path / "child")(x := pictures(model, 2)), child(x))
        everything = [[range(len(s)) for s in payload.scored.scores[kind]] for kind in KINDS]
        assert torch.equal(smaller_model(payload, everything)(x), model(x))


def test_shares_against_a_grid():
    price = PartFlops(vit_config(make("plain")))
    rng = np.random.default_rng(0)
    c = (lambda m: m @ m.T)(rng.normal(size=(3, 3)))
    limit = 0.5 * price(*price.counts)
    found = search_shares(c, price, limit, (0.9, 0.95, 0.9))
    rise = lambda r: r @ c @ r
    least = np.inf
    for a in np.linspace(0, 0.9, 91):
        for e in np.linspace(0, 0.9, 91):
            b = 1 - price.neurons(limit, (1 - a) * price.counts[0], (1 - e) * price.counts[2]) / price.counts[1]
            if 0 <= b <= 0.95:
                least = min(least, rise(np.array([a, b, e])))
    assert rise(found) <= least + 1e-3 and price(*(1 - found) * price.counts) == pytest.approx(limit)


def test_the_best_of_each_layer_stays():
    scores = [torch.rand(40), torch.rand(40) / 1e6]
    first, second = best_units(scores, 30, 0.05)
    assert len(first) == 28 and second == sorted(scores[1].topk(2).indices.tolist())
    assert len(best_units(scores, 30, 0)[1]) == 1


def test_refused(plain):
    model, x, y = plain
    data = TensorDataset(x, y)
    get = lg.methods.get
    for options, words in [(dict(flops=0), "flops is 0"), (dict(flops=50), "did you mean"),
                           (dict(labels="own"), "given, drawn"), (dict(least=1), "least is 1"),
                           (dict(score_images=0), "score_images"), (dict(generations=0), "generations")]:
        with pytest.raises(ValueError, match=words):
            get("savit", **options)
    method = get("savit")
    for images, words in [(x, "without labels"), (TensorDataset(x), "without labels"),
                          (TensorDataset(x, y + 3), "up to 7"), (TensorDataset(x[:0], y[:0]), "no images"),
                          (TensorDataset(x[:, :1], y), "1 channel")]:
        with pytest.raises(ValueError, match=words):
            method.condense(model, images)
    payload = method.condense(model, DataLoader(data, batch_size=3))
    with pytest.raises(ValueError, match="leave shape.depth"):
        method.expand(payload, Shape(depth=1))
    with pytest.raises(ValueError, match="leave shape.depth"):
        method.expand(payload, Shape(heads=1))
    with pytest.raises(ValueError, match="keeps the ancestry's; leave shape.width out"):
        method.expand(payload, Shape(width=8))
    with pytest.raises(ValueError, match="cannot make a model so small"):
        get("savit", flops=0.001).expand(payload)
    with pytest.raises(ValueError, match="no classifier"):
        method.condense(make("grey, no classes"), data)
    for kind in ("siglip", "swiglu", "post norm", "mlp norm, no proj bias"):
        with pytest.raises(TypeError, match="savit cuts plain blocks"):
            method.condense(make(kind), data)
    with pytest.raises(TypeError):
        method.condense(nn.Linear(1, 1), data)
    broken = make("plain").double()
    broken.head.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        method.condense(broken, TensorDataset(pictures(broken, 4).double(), y[:4]))


def test_drawn_labels_follow_the_softmax(plain):
    model, x, _ = plain
    many = x[:1].repeat(2000, 1, 1, 1)
    classes = torch.cat([y for _, y in score_batches(model, many, 2000, labels="drawn")])
    with torch.no_grad():
        expected = model(x[:1]).softmax(-1)[0]
    assert torch.allclose(classes.bincount(minlength=5) / 2000, expected.to(torch.float32), atol=0.05)
