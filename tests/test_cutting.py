"Published ways to cut without training: budgets met, nothing lost when nothing goes, every family, refusals."
import pytest
import torch
from conftest import make, pictures
from families import family_pictures
from torch import nn

import learngene as lg
from learngene.families.examples import small_model
from learngene.methods import Shape
from learngene.methods.cutting import input_moments
from learngene.vit import count_params, eval_mode

NAMES = [name for name in lg.methods.names() if name in ("magnitude", "vbp", "grail", "corp", "kwon")]


@pytest.fixture(scope="module")
def plain():
    return make("plain")


@pytest.fixture(scope="module")
def images(plain):
    return pictures(plain, 60)


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_is_met_and_used(plain, images, name):
    for limit in (dict(params=0.8), dict(flops=0.7)):
        method = lg.methods.get(name, **limit)
        payload = method.condense(plain, images)
        child = method.expand(payload)
        now, before = (count_params(m) if "params" in limit else lg.vit.count_flops(m) for m in (child, plain))
        share = next(iter(limit.values()))
        assert (share - 0.05) * before < now <= share * before
        assert method.inherited_params(payload) <= count_params(plain)
        assert method.expand(payload, Shape(num_classes=3)).num_classes == 3
        with torch.no_grad():
            assert child(images).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_goes_nothing_changes(plain, images, name):
    method = lg.methods.get(name, params=1.0)
    child = method.expand(method.condense(plain, images))
    with torch.no_grad():
        assert torch.allclose(child(images), plain(images), atol=1e-4)


@pytest.mark.parametrize("name, family", [(name, "EVA-02, packed FFN") for name in NAMES] + [("grail", "Swin")])
def test_families(name, family):
    ancestry = small_model(family)
    method = lg.methods.get(name, params=0.85)
    child = method.expand(method.condense(ancestry, x := family_pictures(ancestry, 4)))
    assert count_params(child) <= 0.85 * count_params(ancestry)
    with torch.no_grad():
        assert child(x).isfinite().all()


@pytest.mark.parametrize("name", ["grail", "corp"])
def test_mending_helps(plain, images, name):
    method = lg.methods.get(name, params=0.7)
    payload = method.condense(plain, images)
    mended = method.expand(payload)
    object.__setattr__(method, "mend", lambda *args: None)
    plain_cut = method.expand(payload)
    with torch.no_grad():
        wanted = plain(images)
        assert (mended(images) - wanted).norm() < (plain_cut(images) - wanted).norm()


def test_moments_against_all_activations():
    ancestry = small_model("Swin")
    x, caught = family_pictures(ancestry, 2), []
    block = ancestry.layers[1].blocks[1]
    hooks = [m.register_forward_pre_hook(lambda m, a: caught.append(a[0])) for m in (block.attn.proj, block.mlp.fc2)]
    with eval_mode(ancestry), torch.no_grad():
        ancestry(x)
    for hook in hooks:
        hook.remove()
    sums = input_moments(ancestry.eval(), list(x.split(1)))[2]
    for of_layer, z in zip(sums, caught):
        z = z.flatten(0, -2).double()
        assert of_layer.count == len(z)
        assert torch.allclose(of_layer.mean, z.mean(0), atol=1e-5)
        assert torch.allclose(of_layer.covariance, z.T.cov(correction=0), atol=1e-4)


@pytest.mark.parametrize("name, options, says", [
    ("magnitude", dict(params=25), "did you mean"), ("vbp", dict(params=0), "params is 0"),
    ("grail", dict(selector="random"), "selector is 'random'"), ("grail", dict(ridge=0), "ridge is 0"),
    ("corp", dict(heads="all"), "heads is 'all'"), ("magnitude", dict(cut_images=0), "cut_images is 0"),
])
def test_options(name, options, says):
    with pytest.raises(ValueError, match=says):
        lg.methods.get(name, **options)


def test_refused(plain, images):
    method = lg.methods.get("vbp", params=0.1)
    payload = method.condense(plain, images)
    with pytest.raises(ValueError, match="vbp cannot make a model so small: its smallest has"):
        method.expand(payload)
    with pytest.raises(ValueError, match="chooses heads itself"):
        method.expand(payload, Shape(depth=2))
    with pytest.raises(ValueError, match="a budget needs a limit"):
        lg.methods.get("vbp").expand(payload)
    with pytest.raises(ValueError, match="no images"):
        method.condense(plain, images[:0])
    with pytest.raises(TypeError, match="ResNet|cannot be cut"):
        method.condense(nn.Linear(1, 1), images)
    with pytest.raises(ValueError, match="norm over their neurons"):
        method.condense(make("mlp norm, no proj bias"), images)
