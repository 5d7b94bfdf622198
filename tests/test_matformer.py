"MatFormer: nested FFNs against numpy, the masked model and the engine."

import numpy as np
import pytest
import torch
from conftest import make, pictures

from learngene.methods import Shape, get
from learngene.methods.matformer import first_units, masked, nest, nested_size
from learngene.methods.payload import Payload
from learngene.vit import count_params, vit_config


class Train:
    "Notes what it was given, in place of Stage1."

    cost = dict(steps=1, images=1, seconds=0.0)

    def __call__(self, model, epochs, **settings):
        self.model, self.epochs, self.settings = model, epochs, settings
        return model


def payload_of(model):
    return Payload(vit_config(model), model.state_dict())


@pytest.mark.parametrize("n, share, m", [(3072, 0.125, 384), (768, 0.25, 192), (10, 0.3, 3), (4, 0.01, 1), (7, 1, 7)])
def test_sizes_of_nested_ffns(n, share, m):
    assert nested_size(n, share) == m


def test_an_ffn_of_m_neurons_against_numpy():
    mlp, x = make("plain").blocks[0].mlp, np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    state = {f"blocks.0.mlp.{n}": t for n, t in mlp.state_dict().items()}
    cut = {n.rpartition("mlp.")[2]: t.numpy() for n, t in first_units(state, [20]).items()}
    hidden = torch.nn.functional.gelu(torch.tensor(x @ cut["fc1.weight"].T + cut["fc1.bias"])).numpy()
    wanted = hidden @ cut["fc2.weight"].T + cut["fc2.bias"]
    mlp.fc2.register_forward_pre_hook(lambda _, a: (torch.cat([a[0][..., :20], 0 * a[0][..., 20:]], -1),))
    assert cut["fc1.weight"].shape == (20, 32) and np.allclose(mlp(torch.tensor(x)).detach(), wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["plain", "registers", "dinov2", "clip", "avg", "qk norm", "siglip", "not square"])
@pytest.mark.parametrize("share", [0.125, 0.5, 1])
def test_the_cut_model_is_the_masked_one(name, share):
    ancestry = make(name)
    method, x = get("matformer", ffn=share), pictures(ancestry)
    child = method.expand(payload_of(ancestry))
    with torch.no_grad(), masked(ancestry, share):
        assert torch.allclose(child(x), ancestry(x), atol=1e-4)
    assert method.inherited_params(payload_of(ancestry)) == count_params(child)
    fresh = method.expand(payload_of(ancestry), Shape(num_classes=7))
    head = fresh.head.weight.numel() + 7
    assert method.inherited_params(payload_of(ancestry), Shape(num_classes=7)) == count_params(fresh) - head


def test_losses_of_all_widths_add_up():
    ancestry = make("plain")
    x, y = pictures(ancestry, 4), torch.arange(4)
    loss = torch.nn.functional.cross_entropy
    wanted = 0
    for share in (0.25, 1):
        with masked(ancestry, share):
            wanted = wanted + loss(ancestry(x), y)
    summed = sum(loss(z, y) for z in nest(ancestry, (0.25, 1)).train()(x))
    assert torch.allclose(summed, wanted, atol=1e-5)
    sampled = nest(ancestry, (0.25, 1), "sampled").train()
    drawn = {round(loss(sampled(x)[0], y).item(), 4) for _ in range(20)}
    assert len(drawn) == 2, "one width at a time, and both of them"


def test_stage_1_trains_a_copy():
    ancestry, train = make("plain"), Train()
    payload = get("matformer", epochs=3, train=dict(lr=1e-3)).condense(ancestry, None, train)
    assert (train.epochs, train.settings) == (3, dict(lr=1e-3)) and train.model is not ancestry
    assert all(torch.equal(t, payload.tensors[n]) for n, t in ancestry.state_dict().items())
    get("matformer", start="scratch").condense(ancestry, None, train)
    assert not torch.equal(train.model.blocks[0].mlp.fc1.weight, ancestry.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize("name", ["swiglu", "packed swiglu", "mlp norm, no proj bias", "distilled"])
def test_ffns_that_cannot_be_nested(name):
    with pytest.raises(TypeError, match="MatFormer nests plain FFNs"):
        get("matformer").condense(make(name), None, Train())


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(ffn=0.3), "one that is trained"),
        (dict(ffn=[0.5, 0.3]), "one that is trained"),
        (dict(ffn=0), "a share of the FFN"),
        (dict(shares=[2, 1]), "a share of the FFN"),
        (dict(training="x"), "training is 'x'"),
        (dict(start="x"), "start is 'x'"),
        (dict(epochs=0), "epochs is 0"),
        (dict(train=dict(lrr=1)), "lrr"),
    ],
)
def test_refused_options(options, words):
    with pytest.raises(ValueError, match=words):
        get("matformer", **options)


@pytest.mark.parametrize(
    "options, shape, words",
    [
        ({}, Shape(depth=2), "alone; leave both out"),
        ({}, Shape(heads=2), "alone; leave both out"),
        (dict(ffn=[0.5, 1]), Shape(), "ffn lists 2 layers"),
        ({}, Shape(width=16), "keeps the ancestry's"),
        ({}, Shape(num_classes=-1), "num_classes is -1"),
    ],
)
def test_refused_shapes(options, shape, words):
    with pytest.raises(ValueError, match=words):
        get("matformer", **options).expand(payload_of(make("plain")), shape)
