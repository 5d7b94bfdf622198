"Which heads can stand for each other, beside computations that know nothing of covariances."
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import make, pictures

from learngene import head_pairs as P


@pytest.fixture(scope="module")
def layer():
    "What enters W^O in the second layer of a small model (tokens, heads x head_dim), its covariance, W^O and heads."
    model = make("plain")
    images, caught = pictures(model), []
    proj = model.blocks[1].attn.proj
    hook = proj.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    with torch.no_grad():
        model.eval()(images)
    hook.remove()
    covariance = P.output_covariances(model, images, batch_size=3)[1]
    return caught[0].flatten(0, 1).double().numpy(), covariance, proj.weight.detach(), model.blocks[1].attn.num_heads


def test_covariances_are_those_of_all_tokens(layer):
    outputs, covariance, _, _ = layer
    assert np.allclose(covariance, np.cov(outputs.T, bias=True), atol=1e-8)


def test_no_more_images_than_asked_for(layer):
    model = make("plain")
    some = P.output_covariances(model, pictures(model), max_images=2)[1]
    assert torch.equal(some, P.output_covariances(model, pictures(model)[:2])[1])
    with pytest.raises(ValueError, match="no images"):
        P.output_covariances(model, [])


def test_cka_is_that_of_centred_outputs(layer):
    outputs, covariance, _, n = layer
    heads = np.split(outputs - outputs.mean(0), n, axis=1)
    cka = P.head_cka(covariance, n).numpy()
    for i in range(n):
        for j in range(n):
            K, L = heads[i] @ heads[i].T, heads[j] @ heads[j].T  # by the kernels of all pairs of tokens
            assert cka[i, j] == pytest.approx((K * L).sum() / np.sqrt((K * K).sum() * (L * L).sum()))
    assert np.allclose(cka.diagonal(), 1) and (cka <= 1 + 1e-12).all() and (cka >= 0).all()


def test_errors_are_those_of_least_squares(layer):
    outputs, covariance, proj, n = layer
    x, W = outputs - outputs.mean(0), proj.double().numpy()
    d = x.shape[1] // n
    for kept in [[0], [1], list(range(n - 1))]:
        columns = np.concatenate([np.arange(h * d, h * d + d) for h in kept])
        wanted = x @ W.T
        rest = wanted - x[:, columns] @ np.linalg.lstsq(x[:, columns], wanted, rcond=None)[0]
        error = P.kept_error(covariance, proj, n, kept)
        assert error == pytest.approx((rest**2).sum() / (wanted**2).sum(), abs=1e-7)
    assert P.kept_error(covariance, proj, n, range(n)) == pytest.approx(0, abs=1e-9)
    errors = P.stand_in_errors(covariance, proj, n)
    wanted = x[:, d : 2 * d] @ W[:, d : 2 * d].T
    rest = wanted - x[:, :d] @ np.linalg.lstsq(x[:, :d], wanted, rcond=None)[0]
    assert float(errors[0, 1]) == pytest.approx((rest**2).sum() / (wanted**2).sum(), abs=1e-6)
    assert torch.allclose(errors.diagonal(), torch.zeros(n, dtype=torch.float64), atol=1e-6)


def test_equal_heads_stand_for_each_other():
    "Of four heads, 0 and 1 hand on the same numbers, 2 and 3 independent ones."
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3, 2))
    x = np.stack([x[:, 0], x[:, 0], x[:, 1], x[:, 2]], 1).reshape(500, 8)
    covariance, proj = torch.tensor(np.cov(x.T, bias=True)), torch.eye(8)
    cka, errors = P.head_cka(covariance, 4), P.stand_in_errors(covariance, proj, 4)
    assert cka[0, 1] == pytest.approx(1) and cka[0, 2] < 0.05
    assert errors[0, 1] < 1e-6 and errors[2, 3] > 0.9
    one_of_each, both_equal = (P.rank_choice(covariance, proj, 4, kept) for kept in ([0, 2, 3], [0, 1, 2]))
    assert one_of_each["error"] < 1e-6 and one_of_each["best"] < 1e-6 and one_of_each["beats"] == pytest.approx(0.75)
    assert both_equal["error"] > 0.2 and both_equal["beats"] in (0.125, 0.25, 0.375)
    assert both_equal["mean"] == pytest.approx(
        np.mean([P.kept_error(covariance, proj, 4, s) for s in combinations(range(4), 3)]), abs=1e-6)


def test_many_choices_are_drawn(monkeypatch, layer):
    _, covariance, proj, n = layer
    whole = P.rank_choice(covariance, proj, n, [0])
    monkeypatch.setattr(P, "MOST_CHOICES", n - 1)
    drawn = P.rank_choice(covariance, proj, n, [0])
    assert drawn["error"] == whole["error"] and drawn["best"] >= whole["best"]
