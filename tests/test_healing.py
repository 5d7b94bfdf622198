"Healing: what is compared, resumed, interrupted, found from notes, and refused; in all families."
import copy
import json
import warnings

import pytest
import torch
from conftest import make, pictures
from families import family_pictures
from torch.nn import functional as F

import learngene as lg
from learngene.condensing import keep_all
from learngene.families.examples import EXAMPLES, small_model
from learngene.healing import ModelPair, Healing, HealingTime, known_ancestry, heal, run_healing
from learngene.vit import eval_mode, fingerprint


def start(ancestry, **shape):
    return lg.build(keep_all(ancestry), lg.plan(keep_all(ancestry), **shape))


@pytest.fixture(scope="module")
def plain():
    return make("plain")


@pytest.fixture(scope="module")
def images(plain):
    return pictures(plain, 40)


def same(a, b):
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_family(name):
    ancestry = small_model(name)
    child, x = copy.deepcopy(ancestry), family_pictures(ancestry, 2)
    with eval_mode(child, ancestry):
        drift, answers, agreement = ModelPair(child, ancestry)(x)
        assert drift.abs().max() < 1e-5 and abs(answers) < 1e-5 and agreement in (1.0, None)
        with torch.no_grad():
            for p in child.parameters():
                p.mul_(0.9)
        drift, answers, _ = ModelPair(child, ancestry)(x)
        (drift.mean() + answers).backward()
    assert (drift > 0).all() and answers > 0
    blocks = [p for key, p in child.named_parameters() if "qkv.weight" in key or "fc2.weight" in key]
    assert blocks and all(p.grad is not None and p.grad.abs().sum() > 0 for p in blocks)
    assert all(p.grad is None for p in ancestry.parameters())


def test_blocks_stand_for_those_left_out_after_them(plain, images):
    child = start(plain, depth=2, layers=[0, 2])
    with torch.no_grad():
        compared = ModelPair(child, plain, [0, 2])(images[:5])
        x = plain.norm_pre(plain._pos_embed(plain.patch_embed(images[:5])))
        wanted = [plain.blocks[1](plain.blocks[0](x))]
        wanted.append(plain.blocks[2](wanted[0]))
        own = [child.blocks[0](x)]
        own.append(child.blocks[1](own[0]))
    for drift, a, b in zip(compared[0], own, wanted):
        cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
        assert drift == pytest.approx(1 - cosine.mean().item(), abs=1e-5)


def test_a_fresh_classifier_is_left_alone(plain, images):
    child = start(plain, heads=2, num_classes=3)
    before = child.head.weight.clone()
    report = heal(child, plain, images, steps=5)
    assert torch.equal(child.head.weight, before) and report.answers == "features"
    assert report.after["agreement"] is None and report.after["loss"] < report.before["loss"]
    assert "features" in str(report)


def test_it_learns_and_leaves_the_rest_alone(plain, images):
    child, kept, rng = start(plain, heads=2), fingerprint(plain), torch.get_rng_state()
    child.train()
    report = heal(child, plain, images, steps=30, lr=3e-3)
    assert report.after["loss"] < 0.8 * report.before["loss"] and report.steps == 30
    assert fingerprint(plain) == kept and torch.equal(torch.get_rng_state(), rng)
    assert child.training and all(p.grad is None for p in child.parameters())
    again = start(plain, heads=2)
    heal(again, plain, images, steps=30, lr=3e-3)
    assert same(child, again)
    json.dumps(report.to_dict())


def test_it_never_ends_worse_than_it_began(plain, images):
    child, before = start(plain, heads=2), start(plain, heads=2)
    report = heal(child, plain, images, steps=3, lr=30.0)
    assert report.after is report.before and same(child, before)


class Stop:
    "A log that interrupts when it is told something."
    def __call__(self, text):
        raise KeyboardInterrupt


def test_interrupted_and_resumed(plain, images, tmp_path):
    whole, child = start(plain, heads=2), start(plain, heads=2)
    wanted = heal(whole, plain, images, steps=60)
    with pytest.raises(KeyboardInterrupt):
        heal(child, plain, images, steps=60, folder=tmp_path, log=Stop())
    assert not same(child, start(plain, heads=2))  # the best of step 0 and step 50
    child = start(plain, heads=2)
    report = heal(child, plain, images, steps=60, folder=tmp_path)
    assert same(child, whole)
    assert [entry["loss"] for entry in report.history] == [entry["loss"] for entry in wanted.history]
    with pytest.raises(ValueError, match="another recipe"):
        heal(start(plain, heads=2), plain, images, steps=61, folder=tmp_path)
    for file in tmp_path.glob("*.pt"):
        file.write_bytes(file.read_bytes()[:1000])
    child = start(plain, heads=2)
    heal(child, plain, images, steps=60, folder=tmp_path)
    assert same(child, whole)


def test_interrupted_before_the_first_measurement(plain, images):
    child = start(plain, heads=2)
    healing = Healing(ModelPair(child, plain), images, images, 1e-3)
    healing.learn = Stop()
    with pytest.raises(KeyboardInterrupt):
        run_healing(healing, HealingTime(steps=9), print, print)
    assert same(child, start(plain, heads=2))


def test_minutes(plain, images):
    report = heal(start(plain, heads=2), plain, images, minutes=0.005)
    assert 0.3 <= report.seconds < 20 and report.steps >= 1


def test_what_is_noted(tmp_path):
    ancestry = make("plain")
    x = pictures(ancestry, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few images
        child = lg.shrink(ancestry, x, params=0.5)
    assert known_ancestry(copy.deepcopy(child)) is ancestry
    report = lg.heal(child, steps=2)
    assert report.sources == [layer["source"] for layer in child.report.layers]
    assert "2 steps" in child.report.healed and "healed" in str(child.report)
    saved = lg.from_pretrained(lg.save_pretrained(child, tmp_path / "child"))
    assert saved.report.healed == child.report.healed
    assert "learngene.heal" in (tmp_path / "child" / "README.md").read_text()
    with pytest.raises(ValueError, match="no model|give|name"):
        lg.heal(saved, steps=2)
    with pytest.raises(ValueError, match="images .* are not known here"):
        lg.heal(saved, ancestry, steps=2)
    lg.save_descendant(ancestry, tmp_path / "ancestry")
    lg.heal(saved, tmp_path / "ancestry", x, steps=1)
    lg.save_descendant(make("plain", seed=1), tmp_path / "other")
    with pytest.raises(ValueError, match="give the model that it was made of"):
        lg.heal(saved, tmp_path / "other", x, steps=1)


@pytest.mark.parametrize("options, error, says", [
    (dict(), ValueError, "give steps or minutes, one of them; neither"),
    (dict(steps=1, minutes=1), ValueError, "one of them; steps is 1"),
    (dict(steps=0), ValueError, "steps is 0"), (dict(steps=True), ValueError, "steps is True"),
    (dict(minutes=0), ValueError, "minutes is 0; give a number above 0"),
    (dict(minutes=-1), ValueError, "minutes is -1"),
    (dict(minutes=float("nan")), ValueError, "minutes is nan"), (dict(minutes="5"), ValueError, "minutes is '5'"),
    (dict(steps=1, images=[]), ValueError, "no images"),
    (dict(steps=1, images=torch.full((9, 3, 32, 32), torch.nan)), ValueError, "not finite|loss is nan"),
    (dict(steps=1, images=torch.zeros(9, 3, 16, 16)), ValueError, "the model takes"),
    (dict(steps=1, lr=0), ValueError, "lr is 0"), (dict(steps=1, batch_size=0), ValueError, "batch_size is 0"),
    (dict(steps=1, max_images=0), ValueError, "max_images is 0"),
    (dict(steps=1, ancestry=make("plain", img_size=64)), ValueError, "do not match"),
    (dict(steps=1, ancestry=make("plain", in_chans=1)), ValueError, "images have 3 channels"),
    (dict(steps=1, ancestry="no/such/folder"), FileNotFoundError, "no folder"),
    (dict(steps=1, ancestry=torch.nn.Linear(1, 1)), TypeError, "Linear"),
])
def test_refused(plain, images, options, error, says):
    child = start(plain, heads=2)
    options = dict(ancestry=plain, images=images) | options
    with pytest.raises(error, match=says):
        heal(child, **options)
    assert same(child, start(plain, heads=2))


def test_models_that_cannot_be_healed(plain, images):
    for wrapped, says in [(torch.compile(plain), "_orig_mod"), (torch.nn.DataParallel(plain), r"\.module")]:
        with pytest.raises(TypeError, match=says):
            heal(wrapped, plain, images, steps=1)
    with pytest.raises(TypeError, match=r"give model\.float\(\)"):
        heal(start(plain, heads=2).half(), plain, images, steps=1)
    with pytest.raises(ValueError, match="the ancestry would change, too"):
        heal(plain, plain, images, steps=1)
    with pytest.raises(ValueError, match=r"no weight .* may change"):
        heal(start(plain, heads=2).requires_grad_(False), plain, images, steps=1)
    child = start(plain, depth=2)
    del child.ancestry_layers
    with pytest.raises(ValueError, match="2 layers, the ancestry 3, and nothing notes which"):
        heal(child, plain, images, steps=1)
    heal(child, plain, images, steps=1, sources=[0, 1])
    report = heal(start(plain, heads=2), copy.deepcopy(plain).half(), images, steps=1)  # half is enough for a teacher
    assert report.before["loss"] > 0


def test_the_divergence_is_that_of_torch(plain, images):
    child = start(plain, heads=2)
    with torch.no_grad():
        _, divergence, agreement = ModelPair(child, plain)(images)
        wanted = F.kl_div(child(images).log_softmax(1), plain(images).softmax(1), reduction="batchmean")
        equal = (child(images).argmax(1) == plain(images).argmax(1)).float().mean()
    assert divergence.item() == pytest.approx(wanted.item(), rel=1e-4) and agreement == equal
