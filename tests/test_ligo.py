"LiGO at known operators, against numpy."

import numpy as np
import pytest
import torch
from conftest import make, pictures

from learngene.methods import Shape, get
from learngene.methods.ligo import Growth, grow, new_operator, split_qkv
from learngene.vit import count_params, vit_config


class Train:
    "Two steps of gradient descent, in place of Stage1."

    cost = dict(steps=2, images=8, seconds=0.0)

    def __call__(self, model, steps, **settings):
        self.model, self.steps, self.settings = model, steps, settings
        x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        for _ in range(2):
            model.zero_grad()
            torch.nn.functional.cross_entropy(model(x), torch.arange(4)).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
        return model


def test_each_tensor_against_numpy():
    small = make("plain")
    state = split_qkv({n: t.detach() for n, t in small.state_dict().items()})
    operator = new_operator(state, dict(layers=(3, 4), E=(32, 40), ffn=(128, 160)))
    large, layer = grow(state, operator, 4), 3
    op = {n: t.numpy() for n, t in operator.items()}
    wide = {
        kind: np.concatenate([np.eye(n), op[key]])
        for kind, n, key in [
            ("E", 32, "E"),
            ("ffn", 128, "3.ffn"),
            ("q", 32, "3.q"),
            ("k", 32, "3.k"),
            ("v", 32, "3.v"),
            ("head", 32, "head"),
        ]
    }
    mix = lambda part: sum(w * state[f"blocks.{j}.{part}"].numpy() for j, w in enumerate(op[f"depth.{part}"][layer]))
    wanted = {
        "mlp.fc1.weight": wide["ffn"] @ mix("mlp.fc1.weight") @ wide["E"].T,
        "mlp.fc2.weight": wide["E"] @ mix("mlp.fc2.weight") @ wide["ffn"].T,
        "mlp.fc2.bias": wide["E"] @ mix("mlp.fc2.bias"),
        "norm1.weight": wide["E"] @ mix("norm1.weight"),
        "attn.proj.weight": wide["E"] @ mix("attn.proj.weight") @ wide["v"].T,
        "attn.qkv.weight": np.concatenate([wide[x] @ mix(f"attn.{x}.weight") @ wide["E"].T for x in "qkv"]),
        "attn.qkv.bias": np.concatenate([wide[x] @ mix(f"attn.{x}.bias") for x in "qkv"]),
    }
    for part, value in wanted.items():
        assert np.allclose(large[f"blocks.3.{part}"].numpy(), value, atol=1e-5), part
    assert np.allclose(large["head.weight"].numpy(), state["head.weight"].numpy() @ wide["head"].T, atol=1e-5)
    assert np.allclose(large["pos_embed"].numpy(), state["pos_embed"].numpy() @ wide["E"].T, atol=1e-5)
    assert torch.equal(large["head.bias"], state["head.bias"])


@pytest.mark.parametrize("name", ["plain", "registers", "dinov2", "clip", "avg"])
def test_an_identity_operator_changes_nothing(name):
    small = make(name)
    state = split_qkv(small.state_dict())
    operator = new_operator(state, dict(layers=(3, 3), E=(32, 32), ffn=(128, 128)))
    operator |= {n: torch.eye(3) for n in operator if n.startswith("depth.")}
    assert all(torch.equal(t, small.state_dict()[n]) for n, t in grow(state, operator, 3).items())


def test_what_is_expanded_is_what_was_trained():
    small, train = make("plain"), Train()
    before = {n: t.clone() for n, t in small.state_dict().items()}
    method = get("ligo", depth=4, width=48)
    payload, x = method.condense(small, None, train), pictures(small)
    child = method.expand(payload, Shape(depth=4, width=48))
    assert isinstance(train.model, Growth) and train.steps == 100 and train.settings["lr"] == 2e-4
    assert torch.allclose(child(x), train.model(x), atol=1e-5)
    assert all(torch.equal(t, before[n]) for n, t in small.state_dict().items()), "the ancestry is frozen"
    assert vit_config(child)["heads"] == [6] * 4 and child.embed_dim == 48
    F = 16 * 32
    assert payload.n_params == count_params(small) + F * (2 + 3 * 4) + 16 * F * 4 + 16 * 3 * 4
    fresh = method.inherited_params(payload, Shape(num_classes=7))
    assert payload.n_params - fresh == small.head.weight.numel() + 5 + F
    assert method.expand(payload, Shape(num_classes=7)).num_classes == 7


@pytest.mark.parametrize(
    "options, shape, words",
    [
        (dict(depth=2), None, "LiGO only grows"),
        (dict(width=16), None, "LiGO only grows"),
        (dict(width=50), None, "whole heads of 8"),
        (dict(width=48), Shape(depth=4), "learned for 3"),
        (dict(width=48), Shape(width=64), "learned for 48"),
        (dict(width=48), Shape(heads=4), "learned for 6"),
    ],
)
def test_refused_targets(options, shape, words):
    with pytest.raises(ValueError, match=words):
        method = get("ligo", **options)
        method.expand(method.condense(make("plain"), None, Train()), shape)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(steps=0), "steps is 0"),
        (dict(depth=0), "depth is 0"),
        (dict(width=1.5), "width is 1.5"),
        (dict(train=dict(lrr=1)), "lrr"),
    ],
)
def test_refused_options(options, words):
    with pytest.raises(ValueError, match=words):
        get("ligo", **options)


@pytest.mark.parametrize("name", ["qk norm", "swiglu", "mlp norm, no proj bias"])
def test_parts_without_a_map(name):
    with pytest.raises(TypeError, match="LiGO has no map for"):
        get("ligo", depth=4).condense(make(name), None, Train())
