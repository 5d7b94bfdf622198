"Methods whose layers unfold from fewer tensors: their equations recomputed, their networks, their refusals."
import numpy as np
import pytest
import torch
from conftest import make, pictures
from timm.models.vision_transformer import VisionTransformer

import learngene as lg
from learngene.distillation import Distillation
from learngene.methods import Shape
from learngene.methods.sws import repeated, stage_map
from learngene.methods.tleg import chebyshev, on_a_line
from learngene.methods.unfolded import layers_like, pooled_config, unfolded
from learngene.vit import build_vit


class Untrained:
    "Stands in for stage 1: trains nothing, and remembers what it was asked."
    def __init__(self):
        self.cost, self.asked = dict(steps=0, images=0, seconds=0.0), None

    def __call__(self, model, epochs, **settings):
        self.asked = (epochs, settings)
        with torch.no_grad():
            for p in model.parameters():  # as if something had been learned
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        return model


@pytest.fixture(scope="module")
def ancestry():
    return make("plain", seed=3)


def payload_of(ancestry, name, **options):
    torch.manual_seed(0)
    return lg.methods.get(name, **options).condense(ancestry, None, Untrained())


SMALL = {"tleg": dict(depth=4), "sws": dict(repeats=[2, 1])}
AUXILIARY = {"tleg": 4, "sws": 3}  # layers
LEAST = {"tleg": 1, "sws": 2}


@pytest.mark.parametrize("depth", [1, 3, 12, 17])
def test_layer_l_of_tleg_in_numpy(ancestry, depth):
    payload = payload_of(ancestry, "tleg", depth=4)
    method = lg.methods.get("tleg", depth=4)
    state = method.expand(payload, Shape(depth=depth)).state_dict()
    stored = {name: t.numpy() for name, t in payload.tensors.items()}
    for layer in range(depth):
        for part in ("norm1.weight", "attn.qkv.weight", "attn.qkv.bias", "mlp.fc2.weight"):
            wanted = stored[f"blocks.0.{part}"] + layer / depth * stored[f"blocks.1.{part}"]
            np.testing.assert_allclose(state[f"blocks.{layer}.{part}"].numpy(), wanted, rtol=1e-5, atol=1e-6)
    for name in ("pos_embed", "patch_embed.proj.weight", "fc_norm.bias", "head.weight"):
        assert torch.equal(state[name], payload.tensors[name])


@pytest.mark.parametrize("components", [1, 2, 3, 5])
def test_chebyshev_by_numpy(components):
    x = np.arange(7) / 7
    wanted = np.polynomial.chebyshev.chebvander(x, components - 1)
    np.testing.assert_allclose(chebyshev(components, 7).numpy(), wanted, atol=1e-6)


def test_a_series_of_several_components_unfolds(ancestry):
    payload = payload_of(ancestry, "tleg", depth=4, components=3)
    state = on_a_line(payload.tensors, 5)
    A = [payload.tensors[f"blocks.{n}.mlp.fc1.weight"].numpy() for n in range(3)]
    wanted = np.einsum("n,nij->ij", np.polynomial.chebyshev.chebvander(3 / 5, 2).ravel(), np.stack(A))
    np.testing.assert_allclose(state["blocks.3.mlp.fc1.weight"].numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("depth, stages", [(5, 5), (12, 5), (13, 4), (3, 1), (7, 3)])
def test_stage_maps_are_even_and_ascending(depth, stages):
    chosen = stage_map(depth, stages)
    counts = [chosen.count(stage) for stage in range(stages)]
    assert len(chosen) == depth and chosen == sorted(chosen) and max(counts) - min(counts) <= 1
    assert counts == sorted(counts, reverse=True)


def test_layers_of_sws(ancestry):
    method = lg.methods.get("sws", repeats=[2, 1])
    payload = payload_of(ancestry, "sws", repeats=[2, 1])
    state = method.expand(payload, Shape(depth=5)).state_dict()
    for layer, stage in enumerate([0, 0, 0, 1, 1]):
        for part in ("norm2.bias", "attn.proj.weight", "mlp.fc1.weight"):
            assert torch.equal(state[f"blocks.{layer}.{part}"], payload.tensors[f"blocks.{stage}.{part}"])
    assert repeated(payload.tensors, [0, 1]).keys() == payload.tensors.keys()


@pytest.mark.parametrize("name", SMALL)
def test_the_auxiliary_network_is_its_own_descendant(ancestry, name):
    "Stage 1 trains what `expand` makes, and gradients reach every stored tensor."
    seen = {}

    def train(model, epochs, **settings):
        images = pictures(ancestry)
        seen["logits"] = model.eval()(images).detach()
        model.distillation(model(images), images, torch.tensor(7.0)).backward()
        seen["without"] = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        return model

    train.cost = {}
    torch.manual_seed(0)
    method = lg.methods.get(name, **SMALL[name])
    payload = method.condense(ancestry, None, train)
    child = method.expand(payload, Shape(depth=AUXILIARY[name]))
    assert len(method.expand(payload, Shape()).blocks) == len(ancestry.blocks)
    assert torch.allclose(child(pictures(ancestry)), seen["logits"], atol=1e-5)
    assert not seen["without"]


@pytest.mark.parametrize("name", SMALL)
def test_a_descendant_is_plain(ancestry, name, tmp_path):
    method, payload = lg.methods.get(name, **SMALL[name]), payload_of(ancestry, name, **SMALL[name])
    child = method.expand(payload, Shape(depth=6, num_classes=3))
    assert type(child) is VisionTransformer and not hasattr(child, "distillation") and not child.training
    memory = [p.untyped_storage().data_ptr() for p in child.parameters()]
    assert len(memory) == len(set(memory)) and all(p.requires_grad for p in child.parameters())
    lg.vit.save_vit(child, tmp_path / "child")
    assert child(pictures(ancestry)).shape == (3, 3)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape, words", [
    (Shape(heads=2), "changes depth alone"), (Shape(heads=[4, 2]), "changes depth alone"),
    (Shape(depth=0), "depth is 0"), (Shape(depth=2.5), "depth is 2.5"), (Shape(num_classes=-1), "num_classes"),
    (Shape(depth=3, heads=[4]), "lists 1"),
], ids=str)
def test_impossible_shapes_raise(ancestry, name, shape, words):
    method, payload = lg.methods.get(name, **SMALL[name]), payload_of(ancestry, name, **SMALL[name])
    with pytest.raises(ValueError, match=words):
        method.expand(payload, shape)


@pytest.mark.parametrize("name", SMALL)
def test_fewer_layers_than_the_least_raise(ancestry, name):
    method, payload = lg.methods.get(name, **SMALL[name]), payload_of(ancestry, name, **SMALL[name])
    with pytest.raises(ValueError, match=f"of at least {LEAST[name]}"):
        method.expand(payload, Shape(depth=LEAST[name] - 1))


@pytest.mark.parametrize("name, options, words", [
    ("tleg", dict(alpha=1.5), "alpha is 1.5"), ("tleg", dict(alpha=True), "alpha"),
    ("tleg", dict(components=0), "components"),
    ("tleg", dict(divergence="class"), "did you mean 'classes'"), ("tleg", dict(temperature=0), "temperature"),
    ("tleg", dict(epochs=-1), "epochs"), ("tleg", dict(train=dict(epochs=3)), "stage 1 gives itself"),
    ("sws", dict(repeats=[]), "repeats"), ("sws", dict(repeats=[1, 0]), "repeats"), ("sws", dict(repeats=3), "repeats"),
])
def test_options_are_checked(name, options, words):
    with pytest.raises(ValueError, match=words):
        lg.methods.get(name, **options)


@pytest.mark.parametrize("name", SMALL)
def test_what_cannot_teach_or_share_raises(name):
    with pytest.raises(ValueError, match="has no classifier"):
        payload_of(make("grey, no classes"), name, **SMALL[name])
    with pytest.raises(TypeError):
        payload_of(torch.nn.Linear(2, 2), name, **SMALL[name])
    uneven = pooled_config(make("plain"), name) | dict(ffn_width=[8, 8, 16])
    with pytest.raises(ValueError, match="layers that share tensors must be alike"):
        layers_like(uneven, 4, name)


def test_settings_of_stage_1_arrive(ancestry):
    train = Untrained()
    lg.methods.get("tleg", depth=2, epochs=7, train=dict(lr=1e-2)).condense(ancestry, None, train)
    assert train.asked == (7, dict(lr=1e-2))


def test_divergences_by_numpy(ancestry):
    images, logits = pictures(ancestry), torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        teacher = ancestry(images).double().numpy()
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (teacher, logits.double().numpy()))
    kl = (p * np.log(p / q)).sum()
    wanted = dict(images=kl / 3, classes=kl / 15, hard=-np.log(q[range(3), p.argmax(1)]).mean())
    for divergence, value in wanted.items():
        for alpha in (1.0, 0.25):
            loss = Distillation(ancestry, alpha, divergence=divergence)(logits, images, torch.tensor(2.0))
            np.testing.assert_allclose(loss.item(), alpha * value + (1 - alpha) * 2.0, rtol=1e-4)


def test_an_unfolded_model_can_be_copied(ancestry):
    import copy

    config = pooled_config(ancestry, "x")
    model = build_vit(layers_like(config, 2, "x"), device="cpu")
    model = unfolded(model, layers_like(config, 3, "x"), lambda tensors: on_a_line(tensors, 3))
    images = pictures(ancestry)
    assert torch.equal(copy.deepcopy(model)(images), model(images))
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in model.target.parameters())
