"LeTs: its widening and mixing recomputed in numpy, its sizes, its selections, its refusals."
import numpy as np
import pytest
import torch
from conftest import make, pictures
from test_unfolded import Untrained, payload_of
from timm.models.vision_transformer import VisionTransformer

import learngene as lg
from learngene.methods import Shape
from learngene.methods.lets import SELECTIONS, coefficient_rows, select_rows

OPTIONS = dict(blocks=2, depth=4)  # a learngene of 2 layers and 2 heads for a network of 4 layers and 4 heads


@pytest.fixture(scope="module")
def ancestry():
    return make("plain", seed=3)


@pytest.fixture(scope="module")
def payload(ancestry):
    return payload_of(ancestry, "lets", **OPTIONS)


def expand(payload, shape, **options):
    return lg.methods.get("lets", **OPTIONS | options).expand(payload, shape)


def test_a_layer_in_numpy(payload):
    t = {name: tensor.double().numpy() for name, tensor in payload.tensors.items()}
    state = expand(payload, Shape(depth=4)).state_dict()
    E = np.concatenate([np.eye(16), t["map_E"]])
    for layer, row in enumerate([0, 0, 1, 1]):
        W = {s: t[f"blocks.{s}.attn.qkv.weight"] for s in (0, 1)}
        for i, name in enumerate("qkv"):
            rows = {s: np.concatenate([np.eye(16), t[f"map_{s}_{name}"]]) for s in (0, 1)}
            wanted = sum(t["coefficients"][0, row, 1 + i, s] * rows[s] @ W[s][16 * i:16 * i + 16] @ E.T for s in (0, 1))
            got = state[f"blocks.{layer}.attn.qkv.weight"][32 * i:32 * i + 32].numpy()
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
        f = {s: np.concatenate([np.eye(64), t[f"map_{s}_f"]]) for s in (0, 1)}
        wanted = sum(t["coefficients"][0, row, 7, s] * E @ t[f"blocks.{s}.mlp.fc2.weight"] @ f[s].T for s in (0, 1))
        np.testing.assert_allclose(state[f"blocks.{layer}.mlp.fc2.weight"].numpy(), wanted, rtol=1e-4, atol=1e-5)
        wanted = sum(t["coefficients"][1, row, 7, s] * E @ t[f"blocks.{s}.mlp.fc2.bias"] for s in (0, 1))
        np.testing.assert_allclose(state[f"blocks.{layer}.mlp.fc2.bias"].numpy(), wanted, rtol=1e-4, atol=1e-5)
    cls = np.concatenate([np.eye(16), t["map_cls"]])
    np.testing.assert_allclose(state["head.weight"].numpy(), t["head.weight"] @ cls.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["fc_norm.weight"].numpy(), E @ t["fc_norm.weight"], rtol=1e-4, atol=1e-5)


def test_continuous_selection_is_the_corner_of_the_wide_network(payload):
    wide, narrow = (expand(payload, Shape(depth=4, heads=heads)).state_dict() for heads in (4, 3))
    for name, t in narrow.items():
        big = wide[name]
        if "qkv" in name:
            big = torch.cat([third[:24] for third in big.chunk(3)])
        corner = big[tuple(slice(n) for n in t.shape)]
        assert torch.allclose(t, corner, atol=1e-5), name


@pytest.mark.parametrize("selection", SELECTIONS)
def test_selected_coordinates_are_those_of_the_wide_network(payload, selection):
    wide, narrow = (expand(payload, Shape(depth=2, heads=heads), selection=selection).state_dict() for heads in (4, 3))
    chosen = select_rows(payload.tensors["map_E"], 8, selection)
    stream = torch.cat([torch.arange(16), 16 + chosen])
    assert torch.allclose(narrow["fc_norm.weight"], wide["fc_norm.weight"][stream], atol=1e-5)
    assert torch.equal(narrow["pos_embed"], wide["pos_embed"][..., stream])
    assert torch.allclose(narrow["head.weight"], wide["head.weight"][:, stream], atol=1e-5)


@pytest.mark.parametrize("norm, p", [("l1", 1), ("l2", 2)])
def test_norms_by_numpy(norm, p):
    rows = torch.randn(12, 5, generator=torch.Generator().manual_seed(p))
    norms = np.linalg.norm(rows.numpy(), ord=p, axis=1)
    top, bottom = (set(select_rows(rows, 4, f"{which}-{norm}").tolist()) for which in ("top", "bottom"))
    assert top == set(np.argsort(-norms)[:4]) and bottom == set(np.argsort(norms)[:4])


@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_coefficients_ascend_and_stay_in_range(rows):
    for depth in range(1, 2 * rows + 1):
        chosen = coefficient_rows(depth, rows)
        assert len(chosen) == depth and chosen == sorted(chosen) and set(chosen) <= set(range(rows))
        assert max(map(chosen.count, chosen)) <= 2 if depth > rows else len(set(chosen)) == depth


def test_the_auxiliary_network_is_its_own_descendant(ancestry):
    seen = {}

    def train(model, epochs, **settings):
        images = pictures(ancestry)
        seen["logits"] = model.eval()(images).detach()
        model.distillation(model(images), images, torch.tensor(7.0)).backward()
        seen["without"] = [n for n, p in model.named_parameters() if p.grad is None]
        return model

    train.cost = {}
    torch.manual_seed(0)
    payload = lg.methods.get("lets", **OPTIONS).condense(ancestry, None, train)
    assert torch.allclose(expand(payload, Shape(depth=4))(pictures(ancestry)), seen["logits"], atol=1e-4)
    assert seen["without"] == []


def test_a_descendant_is_plain_and_counted(ancestry, payload, tmp_path):
    method = lg.methods.get("lets", **OPTIONS)
    child = method.expand(payload, Shape(depth=3, heads=3, num_classes=7))
    assert type(child) is VisionTransformer and (child.embed_dim, child.num_classes) == (24, 7)
    assert method.expand(payload, Shape(width=24)).embed_dim == 24
    assert len(child.blocks) == 3 and child.blocks[0].mlp.fc1.out_features == 96
    lg.vit.save_vit(child, tmp_path / "child")
    assert child(pictures(ancestry)).shape == (3, 7)
    assert method.inherited_params(payload, Shape(depth=4)) == payload.n_params
    counts = [method.inherited_params(payload, Shape(depth=2, heads=heads)) for heads in (2, 3, 4)]
    assert counts == sorted(counts) and counts[2] == payload.n_params
    # without any new row only the learngene is left, its positions, and the coefficients
    d, f, n = 16, 64, 16
    learngene = 2 * (4 * d * d + 2 * d * f + 3 * d + 2 * d + f + 4 * d) + 3 * 64 * d + d + n * d + 2 * d + 5 * d + 5
    assert counts[0] == learngene + payload.tensors["coefficients"].numel()


@pytest.mark.parametrize("options", [dict(shared_rows=False), dict(identity=False), dict(alpha=0.0), dict(heads=1)])
def test_ablations_make_descendants(ancestry, options):
    payload = payload_of(ancestry, "lets", **OPTIONS | options)
    assert payload.tensors["coefficients"].shape[1] == (2 if options.get("shared_rows", True) else 4)
    assert payload.tensors["map_E"].shape == ((32, 16) if "identity" in options else (24, 8) if "heads" in options
                                              else (16, 16))
    for shape in (Shape(depth=4), Shape(depth=1, heads=2), Shape(depth=3, heads=3)):
        child = expand(payload, shape, **options)
        assert child(pictures(ancestry)).isfinite().all() and len(child.blocks) == shape.depth


@pytest.mark.parametrize("shape, words", [
    (Shape(heads=1), "2 to 4 heads"), (Shape(width=20), "width 20"), (Shape(heads=2, width=24), "width 24"),
    (Shape(heads=5), "2 to 4 heads"), (Shape(heads=[2, 3, 2]), "one number"),
    (Shape(depth=5), "1 to 4"), (Shape(depth=0), "1 to 4"), (Shape(depth=3, heads=[3, 3]), "heads lists 2"),
], ids=str)
def test_impossible_shapes_raise(payload, shape, words):
    with pytest.raises(ValueError, match=words):
        expand(payload, shape)


@pytest.mark.parametrize("options, words", [
    (dict(blocks=3), "come in pairs"), (dict(depth=12), "whole number of layers"), (dict(selection="top"), "selection"),
    (dict(shared_rows=1), "True or False"), (dict(heads=0), "heads"),
])
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        lg.methods.get("lets", **options)


@pytest.mark.parametrize("model, options, words", [
    ("plain", dict(heads=4), "cannot be widened"), ("qk norm", dict(), "differs in"), ("swiglu", dict(), "differs in"),
    ("dinov2", dict(), "differs in"),
])
def test_an_ancestry_with_other_parts_raises(model, options, words):
    with pytest.raises(ValueError, match=words):
        lg.methods.get("lets", **OPTIONS | options).condense(make(model), None, Untrained())
