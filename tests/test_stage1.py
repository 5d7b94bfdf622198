"Stage 1: what a method trains before it has a payload, what that costs, and that it is done once."
import copy
from dataclasses import dataclass

import pytest
import torch
from _ddp_worker import recipe, saved_vit

import learngene as lg
from learngene import methods
from learngene import running as R
from learngene.ledger import Ledger
from learngene.methods import core
from learngene.methods.payload import Payload
from learngene.stage1 import Stage1, check_settings
from learngene.vit import build_vit, fill_vit, fingerprint, load_vit, vit_config


@dataclass(frozen=True)
class Student:
    "Trains a copy of the ancestry for an epoch and keeps all of it."
    rate: float = 1.0
    late: int = 0
    needs_training, of_expand = True, ("late",)

    def condense(self, ancestry, images, train):
        student = train(copy.deepcopy(ancestry), epochs=1)
        return Payload(vit_config(student), student.state_dict(), train.cost)

    def expand(self, payload, shape):
        model = fill_vit(build_vit(payload.config), {name: t.clone() for name, t in payload.tensors.items()})
        if shape.num_classes is not None:
            model.reset_classifier(shape.num_classes)
        return model

    def inherited_params(self, payload, shape):
        return payload.n_params


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, one_thread):
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(R, "code_version", lambda: dict(source="checkout", version="1", commit="c0ffee", clean=True))
    monkeypatch.setattr(core, "_methods", dict(core._methods))
    methods.register("student")(Student)
    return tmp_path / "home"


@pytest.fixture
def ancestry(tmp_path):
    return saved_vit(tmp_path / "ancestry")


def student(ancestry, options=None, **change):
    return recipe(ancestry, method=dict(name="student", images=8, options=options or {}), **change)


def payloads(cache):
    return sorted(path.name for path in (cache / "payloads").iterdir())


def test_one_payload_starts_all_descendants_and_its_cost_is_recorded(ancestry, cache, tmp_path):
    sweep = [student(ancestry), student(ancestry, dict(late=3)), student(ancestry, train=dict(epochs=1))]
    records = [lg.run(r, Ledger(tmp_path / "ledger"), on_epoch=False) for r in sweep]
    assert len(payloads(cache)) == 1 and not list(cache.glob("checkpoints/student*"))
    first, *others = [record["meta_info"]["stage1"] for record in records]
    assert first["steps"] == 4 and first["images"] == 128 and first["seconds"] > 0
    assert others == [first, first]
    changes = [dict(options=dict(rate=2.0)), dict(seed=1), dict(train=dict(lr=1e-2)), dict(data=dict(fraction=0.13))]
    for other in changes:
        resolved = R.ResolvedRun(student(ancestry, **other))
        assert R.payload_folder(resolved, load_vit(ancestry)).name not in payloads(cache)


def test_the_payload_was_trained_as_fit_trains(ancestry):
    r = student(ancestry)
    model = load_vit(ancestry)
    before = fingerprint(model)
    payload = R.condense_seeded(R.ResolvedRun(r), model)
    assert fingerprint(model) == before
    lg.fit(model, lg.load_data(r.data, r.augment), recipe(ancestry, train=dict(epochs=1)), on_epoch=False)
    assert fingerprint(payload.tensors) == fingerprint(model) != before


def test_nothing_is_trained_in_replay(ancestry, monkeypatch):
    monkeypatch.setenv("LEARNGENE_REPLAY", "1")
    with pytest.raises(R.NotRun, match="a replay trains nothing"):
        R.condense_seeded(R.ResolvedRun(student(ancestry)), load_vit(ancestry))


def test_an_ancestry_of_other_classes_cannot_teach(tmp_path):
    other = saved_vit(tmp_path / "other", num_classes=7)
    with pytest.raises(ValueError, match="for a method that trains, the ancestry's head is 7, but .* has 10 classes"):
        R.condense_seeded(R.ResolvedRun(student(other)), load_vit(other))


def test_payloads_are_read_as_they_were_written(tmp_path):
    payload = Payload(dict(depth=3), dict(w=torch.randn(2, 3)), dict(steps=5, images=10, seconds=0.5))
    payload.save(tmp_path / "p")
    again = Payload.load(tmp_path / "p")
    assert (again.config, again.cost, again.n_params) == (payload.config, payload.cost, 6)
    assert torch.equal(again.tensors["w"], payload.tensors["w"]) and "trained in 5 steps on 10 images" in str(again)
    with pytest.raises(ValueError, match="is of format"):
        Payload.load(saved_vit(tmp_path / "vit"))


@pytest.mark.parametrize("asked, steps", [(dict(epochs=2), 8), (dict(steps=3), 3), (dict(steps=9), 12)])
def test_steps_and_epochs_are_counted(ancestry, asked, steps):
    r = recipe(ancestry)
    train = Stage1(lg.load_data(r.data, r.augment), r)
    train(load_vit(ancestry), **asked, warmup_epochs=0)
    assert (train.cost["steps"], train.cost["images"]) == (steps, 32 * steps)


def test_stage1_wants_epochs_or_steps(ancestry):
    r = recipe(ancestry)
    train = Stage1(lg.load_data(r.data, r.augment), r)
    for asked in (dict(), dict(epochs=1, steps=1)):
        with pytest.raises(ValueError, match="give one of them"):
            train(load_vit(ancestry), **asked)


@pytest.mark.parametrize("settings, words", [
    (dict(epochs=3), "which stage 1 gives itself"), (dict(lr="fast"), "train: .*lr"), (dict(lrr=1), "lrr"),
])
def test_settings_of_stage1_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        check_settings(settings)
