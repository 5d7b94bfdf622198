"Weight selection, against numpy; and widths in shapes and recipes."
import numpy as np
import pytest
import torch
from conftest import make, pictures

from learngene.methods import Shape, get, names
from learngene.methods.weight_selection import even_indices
from learngene.recipe import Recipe
from learngene.vit import count_params


def ruler(n, m):
    "Positions by numpy."
    return np.arange(m) * (n // m) if n % m == 0 else np.rint(np.linspace(0, n - 1, m).astype(np.float32)).astype(int)


@pytest.mark.parametrize("n, m", [(8, 8), (8, 4), (12, 5), (32, 24), (96, 72), (7, 1), (384, 192), (768, 576)])
def test_indices_are_spread_evenly(n, m):
    indices = even_indices(n, m)
    assert indices.tolist() == ruler(n, m).tolist() and len(set(indices.tolist())) == m
    assert indices[0] == 0 and indices[-1] < n


@pytest.mark.parametrize("name", ["plain", "registers", "clip", "avg", "qk norm", "packed swiglu", "swiglu",
                                  "mlp norm, no proj bias", "rms norm, no positions"])
@pytest.mark.parametrize("shape", [Shape(width=16), Shape(width=24, depth=2, num_classes=3), Shape(width=20, heads=2),
                                   Shape(depth=2)], ids=str)
def test_every_tensor_is_the_selection_of_its_layer(name, shape):
    ancestry = make(name)
    method = get("weight-selection", layers="even")
    payload = method.condense(ancestry)
    if name == "qk norm" and shape.heads:  # heads of 10 from heads of 8
        with pytest.raises(ValueError, match="10 entries cannot be selected from 8"):
            method.expand(payload, shape)
        return
    child, state = method.expand(payload, shape), {n: t.numpy() for n, t in ancestry.state_dict().items()}
    sources = {2: [0, 2], None: [0, 1, 2]}[shape.depth]
    for key, got in child.state_dict().items():
        if key.startswith("head.") and shape.num_classes:
            continue
        *_, part = key.split(".", 2)
        source = state[f"blocks.{sources[int(key.split('.')[1])]}.{part}" if key.startswith("blocks.") else key]
        parts = 3 if ".qkv." in key else 2 if "packed" in name and ".fc1." in key else 1
        wanted = np.concatenate([piece[ruler(len(piece), len(got) // parts)] for piece in np.split(source, parts)])
        for axis in range(1, source.ndim):
            wanted = np.take(wanted, ruler(source.shape[axis], got.shape[axis]), axis)
        assert np.array_equal(got.numpy(), wanted), key
    fresh = shape.num_classes is not None
    classifier = child.head.weight.numel() + child.head.bias.numel() if fresh else 0
    assert method.inherited_params(payload, shape) == count_params(child) - classifier
    assert child(pictures(ancestry)).isfinite().all()


def test_rows_of_qkv_together_as_released():
    ancestry = make("plain")
    method = get("weight-selection", qkv="fused")
    child = method.expand(method.condense(ancestry), Shape(width=24))
    wanted = ancestry.blocks[1].attn.qkv.weight[ruler(96, 72)][:, ruler(32, 24)]
    assert torch.equal(child.blocks[1].attn.qkv.weight, wanted)
    both = [get("weight-selection", qkv=q) for q in ("fused", "separate")]
    halves = [m.expand(m.condense(ancestry), Shape(width=16)).state_dict() for m in both]
    assert all(torch.equal(t, halves[1][n]) for n, t in halves[0].items()), "equal at a whole ratio"


@pytest.mark.parametrize("shape, words", [
    (Shape(width=64), "cannot be selected from"), (Shape(heads=8), "cannot be selected from"),
    (Shape(width=20), "whole heads of 8"), (Shape(width=20, heads=3), "a multiple of 3"),
    (Shape(width=16, heads=[2, 2, 2]), "one number for all layers"), (Shape(width=0), "width is 0"),
    (Shape(width="x"), "width is 'x'"), (Shape(width=16, depth=4), "depth is 4"),
])
def test_what_cannot_be_selected(shape, words):
    method = get("weight-selection")
    with pytest.raises(ValueError, match=words):
        method.expand(method.condense(make("plain")), shape)


def test_models_whose_width_is_not_one_number():
    with pytest.raises(ValueError, match="only plain vision transformers can have another"):
        method = get("weight-selection")
        method.expand(method.condense(make("siglip")), Shape(width=16))


def test_methods_that_keep_the_width_say_so():
    for name in names():
        method = get(name, **(dict(params=0.5) if name.endswith("budget") else {}))
        if not getattr(method, "varies_width", False):
            with pytest.raises(ValueError, match=f"width is 16, but {name.replace('+', '.')} keeps the ancestry's"):
                method.expand(None, Shape(width=16))
    assert {"from-scratch", "weight-selection"} <= {n for n in names() if getattr(get(n), "varies_width", False)}


def test_only_a_stated_width_is_in_a_recipes_key():
    plain, wide = (Recipe("r", ancestry="a", shape=shape) for shape in ({}, dict(width=32)))
    assert "width" not in plain.to_dict()["shape"] and wide.to_dict()["shape"]["width"] == 32
    assert plain.key != wide.key and Recipe.from_dict(wide.to_dict()) == wide
