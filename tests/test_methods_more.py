"Whole-layer learngenes, Weight-Transformation and MiniViT: what is kept, what is fresh, what is counted; and runs."
import copy
import dataclasses

import numpy as np
import pytest
import timm
import torch
from _ddp_worker import recipe, saved_vit, vit
from conftest import SMALL, make, pictures, shake
from timm.models.vision_transformer import VisionTransformer

import learngene as lg
from learngene import running
from learngene.data import load_data
from learngene.ledger import Ledger
from learngene.methods import Shape
from learngene.methods.slices import block_features, cka_scores, debiased_cka
from learngene.methods.weight_transformation import Distillation
from learngene.recipe import DataSpec
from learngene.train import fit
from learngene.vit import count_flops, count_params

D, H, L = 32, 4, 6  # the small ancestry
BLOCK = 12 * D * D + 13 * D
STEM = 3 * 64 * D + D + D + 17 * D + 2 * D  # patches, class token, positions, final norm
HEAD = 5 * D + 5
CASES = [  # name, options, layers kept, where
    ("heuristic-learngene", {}, 3, "last"), ("heuristic-learngene", dict(blocks=2, weights="xavier"), 2, "last"),
    ("auto-learngene", dict(blocks=3), 3, "front"), ("slice", dict(part="front", blocks=4), 4, "front"),
    ("slice", dict(part="middle", blocks=3), 3, "middle"),
    ("slice", dict(part="last", blocks=4, weights="xavier"), 4, "last"),
]
SHAPES = [Shape(), Shape(depth=4, num_classes=7), Shape(depth=5, heads=4, num_classes=2)]


@pytest.fixture(scope="module")
def ancestry():
    return make("plain", seed=3, depth=L)


@pytest.fixture(scope="module")
def images(ancestry):
    return pictures(ancestry, 3)


def first_layer(part, k, depth):
    return dict(front=0, middle=(depth - k) // 2, last=depth - k)[part]


def one_step(model, x):
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    old = {k: p.detach().clone() for k, p in model.named_parameters()}
    loss = torch.nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 1]))
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        after = torch.nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 1]))
    assert after < loss and not [k for k, p in model.named_parameters() if torch.equal(old[k], p)]


# ---- whole layers

@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name, options, k, part", CASES)
def test_layers_kept_and_fresh(ancestry, images, name, options, k, part, shape):
    state = {n: t.clone() for n, t in ancestry.state_dict().items()}
    method, depth = lg.methods.get(name, **options), shape.depth or L
    payload = method.condense(ancestry, None)
    first, place = first_layer(part, k, L), first_layer(part, k, depth)
    assert payload.kept == list(range(first, first + k)) and payload.n_params == STEM + HEAD + k * BLOCK
    assert method.inherited_params(payload, shape) == STEM + k * BLOCK + (HEAD if shape.num_classes is None else 0)
    torch.manual_seed(0)
    model = method.expand(payload, shape)
    child = {n: t.clone() for n, t in model.state_dict().items()}
    torch.manual_seed(0)
    fresh = lg.methods.get("from-scratch", weights=method.weights)
    random = fresh.expand(fresh.condense(ancestry, None), shape).state_dict()
    assert child.keys() == random.keys()
    for n, t in child.items():
        if n.startswith("blocks."):
            _, i, rest = n.split(".", 2)
            inherited = 0 <= int(i) - place < k
            wanted = state[f"blocks.{int(i) - place + first}.{rest}"] if inherited else random[n]
        else:
            wanted = random[n] if n.startswith("head.") and shape.num_classes is not None else state[n]
        assert torch.equal(t, wanted), n
    assert model(images).shape == (3, shape.num_classes or 5) and len(model.blocks) == depth
    one_step(model, images)
    assert all(torch.equal(t, state[n]) for n, t in ancestry.state_dict().items())
    torch.manual_seed(0)
    assert all(torch.equal(t, child[n]) for n, t in method.expand(payload, shape).state_dict().items())


@pytest.mark.parametrize("size, width, millions", [("tiny", 192, 0.445), ("small", 384, 1.774), ("base", 768, 7.088)])
def test_payloads_of_deit(size, width, millions):
    with torch.device("meta"):
        model = timm.create_model(f"deit_{size}_patch16_224")
    stem = 16 * 16 * 3 * width + width + 197 * width + width + 2 * width
    block, head = 12 * width**2 + 13 * width, 1000 * width + 1000
    for name, options, k in [("heuristic-learngene", {}, 3), ("auto-learngene", {}, 6), ("slice", {}, 10),
                             ("slice", dict(part="middle"), 10)]:
        method = lg.methods.get(name, **options)
        payload = method.condense(model)
        assert payload.n_params == stem + k * block + head
        assert method.inherited_params(payload, Shape(num_classes=100)) == stem + k * block
    assert payload.kept == list(range(1, 11)) and str(payload).startswith("layers 2 to 11 of 12")
    assert round(block / 1e6, 3) == millions


def test_whole_layers_of_an_uneven_ancestry():
    model = make("plain", seed=5, depth=2)
    uneven = lg.inherit(lg.condense(model, pictures(model), eps=1e-6, ffn_eps=1e-9), heads=[4, 3], ffn="copy")
    method = lg.methods.get("heuristic-learngene", blocks=1)
    payload = method.condense(uneven)
    assert method.expand(payload, Shape(depth=1)).blocks[0].attn.num_heads == 3
    with pytest.raises(ValueError, match=r"heads asks for 4 in layer 2 \(from 1\), which is inherited whole with 3"):
        method.expand(payload, Shape(depth=2, heads=4))
    child = method.expand(payload, Shape(depth=2, heads=[9, 3]))
    assert [b.attn.num_heads for b in child.blocks] == [9, 3]


@pytest.mark.parametrize("name, options, shape, words", [
    ("slice", dict(part="top"), Shape(), "front, middle, last"), ("slice", dict(blocks=0), Shape(), "blocks is 0"),
    ("slice", dict(blocks=7), Shape(), "option `blocks` of slice is 7, but the ancestry has a depth of 6"),
    ("heuristic-learngene", dict(weights="he"), Shape(), "timm, xavier"),
    ("heuristic-learngene", {}, Shape(depth=2), "descendant has a depth of 2"),
    ("heuristic-learngene", {}, Shape(depth=7), "depth is 7"),
    ("auto-learngene", {}, Shape(heads=2), "inherited whole"),
    ("auto-learngene", {}, Shape(num_classes=-1), "num_classes"),
])
def test_whole_layers_raise_for(ancestry, name, options, shape, words):
    with pytest.raises(ValueError, match=words):
        method = lg.methods.get(name, **options)
        method.expand(method.condense(ancestry), shape)


@pytest.mark.parametrize("name", ["slice", "heuristic-learngene", "auto-learngene", "auto-learngene-cka",
                                  "weight-transformation", "minivit"])
def test_other_modules_raise(name):
    with pytest.raises(TypeError):
        lg.methods.get(name).condense(torch.nn.Linear(1, 1), torch.zeros(1, 3, 8, 8))


# ---- a run chosen by CKA

def plain_cka(X, Y):
    "The unbiased estimate, term by term."
    def hsic(K, M):
        n = len(K)
        total = np.trace(K @ M) + (K.sum() * M.sum()) / ((n - 1) * (n - 2)) - 2 * (K @ M).sum() / (n - 2)
        return total / (n * (n - 3))
    K, M = ((F @ F.T) * (1 - np.eye(len(F))) for F in (X.double().numpy(), Y.double().numpy()))
    return hsic(K, M) / np.sqrt(hsic(K, K) * hsic(M, M))


def test_cka_against_the_formula():
    g = torch.Generator().manual_seed(0)
    for n, p, q in [(8, 3, 5), (40, 30, 10), (100, 200, 50)]:
        X, noise = torch.randn(n, p, generator=g), torch.randn(n, q, generator=g)
        Y = X @ torch.randn(p, q, generator=g) + noise
        assert debiased_cka(X, Y) == pytest.approx(plain_cka(X, Y), abs=1e-8)
        assert debiased_cka(X, 5 * X + 3) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="at least 4"):
        debiased_cka(X[:3], Y[:3])


def test_unrelated_features_have_no_similarity():
    g = torch.Generator().manual_seed(1)
    values = [debiased_cka(torch.randn(60, 80, generator=g), torch.randn(60, 80, generator=g)) for _ in range(30)]
    assert abs(np.mean(values)) < 0.02


def test_features_are_the_mean_over_patches(ancestry):
    x, wanted = pictures(ancestry, 5), []
    model = copy.deepcopy(ancestry)
    for block in model.blocks:
        block.register_forward_hook(lambda m, args, out: wanted.append(out[:, 1:].mean(1)))
    with torch.no_grad():
        model(x)
    features = block_features(ancestry.train(), x)
    assert ancestry.training and len(features) == L
    ancestry.eval()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(features, wanted))
    assert [len(f) for f in block_features(ancestry, x, max_images=2)] == [2] * L


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("itself", [True, False])
def test_the_best_run_is_kept(ancestry, k, itself):
    x = pictures(ancestry, 20)
    small = VisionTransformer(**SMALL | dict(embed_dim=16, depth=2, num_heads=2, num_classes=3))
    reference = None if itself else shake(small, 9)
    method = lg.methods.get("auto-learngene-cka", blocks=k, reference=reference)
    payload = method.condense(ancestry, x)
    others = block_features(reference or ancestry, x)
    scores = [np.mean([plain_cka(a, b) for b in others]) for a in block_features(ancestry, x)]
    assert payload.scores == pytest.approx(scores, abs=1e-6) == cka_scores(ancestry, reference or ancestry, x)
    best = max(range(L - k + 1), key=lambda i: np.mean(scores[i:i + k]))
    assert payload.kept == list(range(best, best + k)) and payload.n_params == STEM + HEAD + k * BLOCK
    model = method.expand(payload, Shape(depth=5, num_classes=3))
    for i in range(k):
        assert torch.equal(model.blocks[i].mlp.fc1.weight, ancestry.blocks[best + i].mlp.fc1.weight)
    one_step(model, x[:3])


# ---- Weight-Transformation and MiniViT

def talking(block, x):
    "Attention with mixed heads, written out."
    a = block.attn
    qkv = torch.nn.functional.linear(x, a.qkv.weight, a.qkv.bias)
    q, k, v = qkv.view(*x.shape[:2], 3, H, D // H).permute(2, 0, 3, 1, 4)

    def mix(S, linear):
        out = torch.einsum("gh,bhij->bgij", linear.weight, S)
        return out if linear.bias is None else out + linear.bias.view(1, H, 1, 1)

    A = mix(mix(q @ k.transpose(-2, -1) / (D // H) ** 0.5, a.proj_l).softmax(-1), a.proj_w)
    return a.proj((A @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("name, tokens", [("weight-transformation", 17), ("minivit", 16)])
def test_heads_are_mixed_as_the_equation_says(ancestry, name, tokens):
    method = lg.methods.get(name)
    model = shake(method.expand(method.condense(ancestry), Shape()), 2)
    x = torch.randn(2, tokens, D)
    with torch.no_grad():
        assert torch.allclose(model.blocks[1].attn(x), talking(model.blocks[1], x), atol=1e-4)


@pytest.mark.parametrize("shape", [Shape(), Shape(depth=2, num_classes=5), Shape(depth=4, heads=4)], ids=str)
def test_weight_transformation(ancestry, images, shape):
    method = lg.methods.get("weight-transformation", weights="xavier", pos_std=0.3)
    payload, depth, state = method.condense(ancestry), shape.depth or L, ancestry.state_dict()
    model = method.expand(payload, shape)
    assert count_params(model) == STEM + HEAD + depth * (BLOCK + 2 * (H * H + H))
    assert method.inherited_params(payload, shape) == 0
    matrices = [n for n, t in model.state_dict().items() if t.ndim > 1]
    assert not any(torch.equal(model.state_dict()[n], state[n]) for n in matrices if n in state and n != "cls_token")
    n, macs = 17, 16 * 3 * 64 * D + 5 * D
    assert count_flops(model) == 2 * (macs + depth * (12 * D * D * n + 2 * n * n * D + 2 * H * H * n * n))
    one_step(model, images)


@pytest.mark.parametrize("shape", [Shape(), Shape(depth=2, num_classes=5), Shape(depth=4, heads=4)], ids=str)
@pytest.mark.parametrize("repeats", [1, 2])
def test_minivit(ancestry, images, shape, repeats):
    method, depth = lg.methods.get("minivit", repeats=repeats), shape.depth or L
    payload = method.condense(ancestry)
    model = method.expand(payload, shape)
    stem = STEM - 2 * D  # no class token, and no position for it
    assert count_params(model) == stem + HEAD + depth // repeats * (12 * D * D + 9 * D) + depth * (4 * D + 2 * H * H)
    assert method.inherited_params(payload, shape) == 0 and model.cls_token is None
    for i, block in enumerate(model.blocks):
        first = model.blocks[i - i % repeats]
        assert block.mlp is first.mlp and block.attn.qkv is first.attn.qkv and block.attn.proj is first.attn.proj
        assert torch.equal(block.attn.proj_l.weight, torch.eye(H))
        if block is not first:
            assert block.norm1 is not first.norm1 and block.attn.proj_w is not first.attn.proj_w
    one_step(model, images)


@pytest.mark.parametrize("name, options, shape, words", [
    ("weight-transformation", {}, Shape(heads=2), "2 \\* 8 and 32; leave shape.heads out"),
    ("minivit", {}, Shape(depth=3), "multiple of 2"), ("minivit", {}, Shape(num_classes=4), "same classes"),
    ("minivit", dict(repeats=0), Shape(), "repeats is 0"), ("minivit", dict(alpha=2.0), Shape(), "alpha 2.0"),
    ("minivit", dict(temperature=0.0), Shape(), "temperature 0.0"),
])
def test_transformations_raise_for(ancestry, name, options, shape, words):
    with pytest.raises(ValueError, match=words):
        method = lg.methods.get(name, **options)
        method.expand(method.condense(ancestry), shape)


@pytest.mark.parametrize("zoo, words", [("grey, no classes", "no classifier"), ("qk norm", "norm of queries")])
def test_minivit_raises_for_ancestries(zoo, words):
    method = lg.methods.get("minivit")
    with pytest.raises(ValueError, match=words):
        method.expand(method.condense(make(zoo)), Shape(depth=2))


def test_distillation(ancestry, images):
    other = make("plain", seed=8)
    for alpha, T in [(1.0, 1.0), (0.3, 2.0), (0.0, 1.0)]:
        with torch.no_grad():
            p, q = ((m(images).double() / T).softmax(1) for m in (ancestry, other))
            kl = (p * (p.log() - q.log())).sum(1).mean() * T * T
        loss = Distillation(ancestry, alpha, T)(other(images), images, torch.tensor(4.0))
        assert loss.item() == pytest.approx(alpha * kl.item() + (1 - alpha) * 4, rel=1e-4)


class Mislabelled(torch.utils.data.Dataset):
    "A dataset with other labels."
    def __init__(self, base):
        self.base = base

    def __len__(self):
        return len(self.base)

    def __getitem__(self, i):
        return self.base[i][0], 9 - self.base[i][1]


def test_fit_uses_the_teacher():
    "With alpha=1 labels do not matter, with alpha=0 the teacher does not; the teacher stays out of the weights."
    data, teacher = load_data(DataSpec("digits", fraction=0.12)), vit(1)
    wrong = dataclasses.replace(data, train=Mislabelled(data.train))
    before = copy.deepcopy(teacher.state_dict())

    def trained(alpha, teacher, data=data):
        model = vit(2)
        model.distillation = Distillation(teacher, alpha)
        result = fit(model, data, recipe(), on_epoch=False)
        return model.state_dict(), result

    def same(a, b):
        return all(torch.equal(t, b[n]) for n, t in a.items())

    distilled, result = trained(1.0, teacher)
    assert same(distilled, trained(1.0, teacher, wrong)[0]) and not same(distilled, trained(1.0, vit(5))[0])
    labelled = trained(0.0, teacher)[0]
    assert same(labelled, trained(0.0, vit(5))[0]) and not same(labelled, trained(0.0, teacher, wrong)[0])
    plain = vit(2)
    fit(plain, data, recipe(), on_epoch=False)
    assert same(labelled, plain.state_dict())
    assert result.history[-1]["train_loss"] < result.history[1]["train_loss"]
    assert same(teacher.state_dict(), before) and distilled.keys() == before.keys()


def test_minivit_resumes_from_a_checkpoint(tmp_path):
    data, teacher, r = load_data(DataSpec("digits", fraction=0.12)), vit(1), recipe(train=dict(ema=0.9))
    method = lg.methods.get("minivit")

    def start():
        torch.manual_seed(3)
        return method.expand(method.condense(teacher), Shape(depth=2))

    uninterrupted, stopped, resumed = start(), start(), start()
    fit(uninterrupted, data, r, on_epoch=False)
    fit(stopped, data, r, tmp_path / "c", on_epoch=False, stop_after=1)
    assert fit(resumed, data, r, tmp_path / "c", on_epoch=False).resumed_at == 1
    assert all(torch.equal(t, resumed.state_dict()[n]) for n, t in uninterrupted.state_dict().items())
    first, second = resumed.blocks[0].mlp, resumed.blocks[1].mlp
    assert first is second and first.fc1.weight is second.fc1.weight


# ---- runs

ABLATIONS = dict(cluster_by="kmeans", k=1, order="descending", centroid="averaged", ffn_centroid="averaged")


@pytest.mark.parametrize("method, more_params", [
    (dict(name="heuristic-learngene", options=dict(blocks=1)), None),
    (dict(name="auto-learngene", options=dict(blocks=1)), None),
    (dict(name="slice", options=dict(part="middle", blocks=1)), None),
    (dict(name="auto-learngene-cka", options=dict(blocks=1), images=20), None),
    (dict(name="weight-transformation"), 2 * 2 * (2 * 2 + 2)), (dict(name="minivit"), None),
    (dict(name="cluster-learngene-released", images=20, options=dict(eps=0.3, mean=0.3, std=0.4)), None),
    (dict(name="cluster-learngene", images=20, options=ABLATIONS), None),
], ids=lambda m: m["name"] if isinstance(m, dict) else "")
def test_runs(tmp_path, monkeypatch, method, more_params):
    code = dict(source="checkout", version=lg.__version__, commit="c0ffee", clean=True)
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(running, "code_version", lambda: code)
    ancestry, ledger = saved_vit(tmp_path / "ancestry"), Ledger(tmp_path / "ledger")
    r = recipe(ancestry, method=method, shape=dict(depth=2), train=dict(epochs=1))
    record = lg.run(r, ledger, on_epoch=False)
    info, width = record["meta_info"], 16
    layers = 2 * (12 * width**2 + 13 * width)
    plain = 4 * 4 * width + width + 6 * width + 2 * width + 10 * width + 10 + layers
    if more_params is not None:
        assert info["params"] == plain + more_params
    assert info["flops"] > 0 and record["train_info"]["test_accuracy"] >= 0
    nothing = method["name"] in ("weight-transformation", "minivit")
    assert (info["inherited_params"] == 0) == nothing == (info["payload"] is None)
    assert lg.run(r, ledger, on_epoch=False) == record
    if nothing:
        with pytest.raises(TypeError, match="heads are not separate"):
            lg.run(r, ledger, save=tmp_path / "model", on_epoch=False)
