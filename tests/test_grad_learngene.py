"Layers chosen by the share of large gradients, against numpy."

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make, pictures

from learngene.methods import Shape, get
from learngene.methods.grad_learngene import choose_layers, GradientProbe, large_shares, quantile_of
from learngene.methods.payload import Payload
from learngene.vit import count_params

IMAGES = 6


class Train:
    "Two steps of plain gradient descent, in place of Stage1."

    cost = dict(steps=2, images=12, seconds=0.0)

    def __call__(self, model, steps, **settings):
        self.asked = SimpleNamespace(steps=steps, **settings)
        for step in range(2):
            model.zero_grad()
            x = pictures(model, IMAGES, seed=step)
            torch.nn.functional.cross_entropy(model(x), torch.arange(IMAGES) % 5).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
        return model


@pytest.mark.parametrize("signed", [False, True])
def test_shares_against_numpy(signed):
    g = torch.Generator().manual_seed(0)
    layers = [[torch.randn(5, 3, generator=g), torch.randn(7, generator=g)] for _ in range(4)]
    flat = [np.concatenate([t.numpy().ravel() for t in layer]) for layer in layers]
    sigma = quantile_of(layers, 0.8)
    magnitudes = np.sort(np.abs(np.concatenate(flat)))
    assert sigma == pytest.approx(magnitudes[int(0.8 * len(magnitudes))])
    wanted = [((f if signed else np.abs(f)) > sigma).mean() for f in flat]
    assert large_shares(layers, sigma, signed) == pytest.approx(wanted)


def test_the_probe_sees_every_step_and_leaves_no_hook():
    model = make("plain")
    probe = GradientProbe(model, quantile=0.7)
    Train()(model, 2)
    assert len(probe.shares) == 2 and len(probe.scores()) == 3
    assert probe.scores(last=0.5) == pytest.approx(probe.shares[1])
    probe.scores()
    Train()(model, 2)
    assert len(probe.shares) == 2


@pytest.mark.parametrize("name", ["plain", "avg", "siglip", "packed swiglu"])
def test_the_calmest_layers_are_kept_at_the_top(name):
    ancestry = make(name)
    before, train = copy.deepcopy(ancestry.state_dict()), Train()
    method = get("grad-learngene", blocks=2, train=dict(lr=1e-3))
    payload = method.condense(ancestry, None, train)
    assert isinstance(payload, Payload) and train.asked.steps == 100 and train.asked.lr == 1e-3
    assert all(torch.equal(t, before[n]) for n, t in ancestry.state_dict().items()), "the probe trains a copy"
    scores, kept = payload.config["scores"], payload.config["kept"]
    assert max(scores[i] for i in kept) <= min(scores[i] for i in range(3) if i not in kept)
    child = method.expand(payload, Shape(depth=3, num_classes=4))
    for place, layer in zip((1, 2), kept):
        assert torch.equal(child.blocks[place].attn.qkv.weight, ancestry.blocks[layer].attn.qkv.weight)
    layer = sum(p.numel() for p in ancestry.blocks[0].parameters())
    assert payload.n_params == count_params(ancestry) - layer


@pytest.mark.parametrize("contiguous, kept", [(False, [1, 3]), (True, [1, 2])])
def test_choice_of_layers(contiguous, kept):
    method = get("grad-learngene", blocks=2, contiguous=contiguous)
    assert choose_layers([0.9, 0.1, 0.3, 0.2], method.blocks, method.contiguous) == kept
    assert choose_layers([0.5, 0.5, 0.5, 0.5], method.blocks, method.contiguous) == [2, 3], "of equal layers the last"


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(blocks=0), "blocks is 0"),
        (dict(quantile=0), "quantile is 0"),
        (dict(last=2), "last 2"),
        (dict(threshold=-1), "threshold is -1"),
        (dict(steps=0), "steps is 0"),
        (dict(weights="x"), "weights is 'x'"),
        (dict(train=dict(epochs=3)), "stage 1 gives itself"),
    ],
)
def test_refused_options(options, words):
    with pytest.raises(ValueError, match=words):
        get("grad-learngene", **options)


def test_refused_shapes():
    method = get("grad-learngene", blocks=2)
    payload = method.condense(make("plain"), None, Train())
    for shape, words in [
        (Shape(depth=1), "depth of 1"),
        (Shape(heads=2), "heads asks for 2"),
        (Shape(depth=4), "depth is 4"),
    ]:
        with pytest.raises(ValueError, match=words):
            method.expand(payload, shape)
    with pytest.raises(ValueError, match="the ancestry has a depth of 3"):
        get("grad-learngene", blocks=4).condense(make("plain"), None, Train())
