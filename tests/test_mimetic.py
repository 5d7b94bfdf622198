"Mimetic and structured starts, against numpy."
import numpy as np
import pytest
import torch
from conftest import make

import learngene as lg
from learngene.methods import Shape, get
from learngene.methods.mimetic import product_for_logits, sinusoids, split_product, window_logits


@pytest.mark.parametrize("shape, rank", [((6, 6), 6), ((6, 6), 2), ((5, 8), 5), ((8, 5), 3)])
def test_the_nearest_product_of_a_rank(shape, rank):
    M = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    A, B = split_product(M, rank)
    U, S, Vh = np.linalg.svd(M.numpy())
    wanted = (U[:, :rank] * S[:rank]) @ Vh[:rank]
    assert np.allclose((A.T @ B).numpy(), wanted, atol=1e-5)
    assert np.allclose(A.square().sum(1), B.square().sum(1), rtol=1e-4), "the factors share the singular values"


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_logits_are_a_gaussian_window_at_an_offset(grid):
    T, n = window_logits(grid, (1, -1), 1.5).numpy(), grid[0] * grid[1]
    for i in range(n):
        row = np.array([-((i // grid[1] + 1 - j // grid[1]) ** 2 + (i % grid[1] - 1 - j % grid[1]) ** 2) / 4.5
                        for j in range(n)])
        assert np.allclose(T[i], row - row.mean(), atol=1e-5)


def test_positions_are_left_alone_by_a_layer_norm_but_for_scale():
    P = sinusoids((4, 6), 64)
    assert torch.allclose(torch.nn.functional.layer_norm(P, (64,)), P / P.square().mean(1).sqrt()[0], atol=1e-4)
    assert P.std().item() == pytest.approx(1)


def test_a_product_gives_the_logits_it_was_solved_for():
    P, T = sinusoids((4, 4), 64), window_logits((4, 4), (0, 1), 1.0)
    product = product_for_logits(T, P)
    assert torch.allclose((P @ product @ P.T).softmax(1), T.softmax(1), atol=0.01)


@pytest.mark.parametrize("attention", ["mimetic", "structured"])
@pytest.mark.parametrize("name", ["plain", "registers", "avg", "qk norm", "not square", "rms norm, no positions"])
def test_every_plain_shape_is_made_and_trains(attention, name):
    ancestry = make(name)
    method = get("mimetic", attention=attention, weights="xavier", pos_std=0.5)
    torch.manual_seed(0)
    child = method.expand(method.condense(ancestry), Shape(depth=2, heads=[2, 6], num_classes=3))
    assert [b.attn.num_heads for b in child.blocks] == [2, 6] and child.num_classes == 3
    images = torch.randn(2, *lg.anatomy.image_shape(child), generator=torch.Generator().manual_seed(0))
    child(images).sum().backward()
    assert all(p.isfinite().all() for p in child.parameters())
    torch.manual_seed(0)
    again = method.expand(method.condense(ancestry), Shape(depth=2, heads=[2, 6], num_classes=3))
    assert lg.vit.fingerprint(again) == lg.vit.fingerprint(child)


def test_products_of_a_layer_against_numpy():
    method = get("mimetic", alpha_qk=0.0, alpha_vo=0.0)
    child = method.expand(method.condense(make("plain")))
    attn = child.blocks[0].attn
    q, k, v = attn.qkv.weight.detach().numpy().reshape(3, 4, 8, 32)
    assert np.allclose(v.reshape(32, 32).T @ attn.proj.weight.detach().numpy().T, -0.4 * np.eye(32), atol=1e-5)
    for head in range(4):  # a projection onto 8 directions, times 0.7
        product = q[head].T @ k[head]
        assert np.allclose(product @ product, 0.7 * product, atol=1e-5)
        assert np.trace(product) == pytest.approx(0.7 * 8, rel=1e-4)
