"What figures need beside records: payloads, a look at a run's models, an ancestry's distances."
import dataclasses
import json

import learngene as lg

import pytest
import torch
from _ddp_worker import recipe, saved_vit

from learngene import running
from learngene.distances import DISTANCES, known_distances, measure_distances
from learngene.inspection import inspect_run, payload_of
from learngene.ledger import Ledger
from learngene.running import NotRun, ResolvedRun, start_model
from learngene.vit import load_vit

LEARNGENE = dict(name="cluster-learngene", images=40, options=dict(eps=0.3))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, one_thread):
    "A cache of its own, one thread, and a tree that counts as clean: others may be editing this one."
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    code = dict(source="checkout", version=lg.__version__, commit="c0ffee", clean=True)
    monkeypatch.setattr(running, "code_version", lambda: code)


@pytest.fixture
def ancestry(tmp_path):
    return saved_vit(tmp_path / "ancestry")


def test_the_payload_is_that_of_the_run(tmp_path, ancestry, monkeypatch):
    r = recipe(ancestry, method=LEARNGENE)
    payload, data = payload_of(r)
    record = lg.run(r, Ledger(tmp_path / "ledger"), on_epoch=False)
    assert str(payload) == record["meta_info"]["payload"] and len(data.classes) == 10
    absent = [recipe(ancestry, method=LEARNGENE, data=dict(name="parquet:nowhere")),
              dataclasses.replace(r, ancestry=str(tmp_path / "x" / "y"))]
    for missing in absent:
        with pytest.raises(FileNotFoundError):
            payload_of(missing)
    monkeypatch.setenv("LEARNGENE_REPLAY", "1")
    assert [payload_of(missing) for missing in absent] == [(None, None)] * 2


def scores(model, images):
    with torch.no_grad():
        return dict(scores=model(images[:3]))


def test_tensors_are_kept_beside_the_record(tmp_path, ancestry, monkeypatch):
    ledger, r = Ledger(tmp_path / "ledger"), recipe(ancestry, method=LEARNGENE, shape=dict(depth=2, heads=3))
    saved = lg.run(r, ledger, save=tmp_path / "model", on_epoch=False)
    record, tensors = inspect_run(r, ledger, scores)
    assert record["meta_info"]["weights"] == saved["meta_info"]["weights"]
    assert sorted(tensors) == ["ancestry.scores", "start.scores", "trained.scores"]
    resolved = ResolvedRun(r)
    images = torch.stack([x for x, _ in resolved.data.val])
    models = dict(ancestry=load_vit(ancestry), start=start_model(resolved)[0], trained=load_vit(tmp_path / "model"))
    for stage, model in models.items():
        torch.testing.assert_close(scores(model.eval(), images)["scores"], tensors[f"{stage}.scores"])
    monkeypatch.setenv("LEARNGENE_REPLAY", "1")
    again, kept = inspect_run(r, ledger, lambda model, images: 1 / 0)
    assert again == record and kept.keys() == tensors.keys()
    assert all(torch.equal(kept[name], tensors[name]) for name in tensors)


def test_tensors_of_other_weights_are_not_used(tmp_path, ancestry, monkeypatch):
    ledger, r = Ledger(tmp_path / "ledger"), recipe(ancestry, train=dict(epochs=1))
    record, _ = inspect_run(r, ledger, scores)
    (path,) = ledger.places(record)
    record["meta_info"]["weights"] = "0" * 16
    path.write_text(json.dumps(record))
    monkeypatch.setenv("LEARNGENE_REPLAY", "1")
    with pytest.raises(NotRun):
        inspect_run(r, ledger, scores)


def test_a_look_needs_validation_images(tmp_path, ancestry):
    with pytest.raises(ValueError, match="no validation images to look at"):
        inspect_run(recipe(ancestry, data=dict(val_fraction=0)), Ledger(tmp_path / "ledger"), None)


def test_distances_are_kept_with_an_ancestry(tmp_path):
    r, folder = recipe(train=dict(epochs=1), data=dict(val_fraction=0.3)), tmp_path / "model"
    record = lg.run(r, Ledger(tmp_path / "ledger"), save=folder, on_epoch=False)
    with pytest.raises(FileNotFoundError, match="learngene distances"):
        known_distances(folder)
    measured = measure_distances(folder, images=30)
    assert measured["weights"] == record["meta_info"]["weights"]
    assert measured["data_fingerprint"] == record["meta_info"]["data_fingerprint"]
    assert (measured["part"], measured["images"]) == ("validation", 30)
    (folder / DISTANCES).write_text(json.dumps(measured))
    assert known_distances(folder) == measured and len(measured["distances"]) == len(load_vit(folder).blocks)
    (folder / DISTANCES).write_text(json.dumps(measured | dict(weights="x")))
    with pytest.raises(ValueError, match="other weights"):
        known_distances(folder)


def test_distances_of_a_model_without_a_record(ancestry):
    with pytest.raises(ValueError, match="does not say which dataset"):
        measure_distances(ancestry)
