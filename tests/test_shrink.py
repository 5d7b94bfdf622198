"`shrink`: any form of images, all heads to choose from, a report that stays with the model; and `predict`."

import json
import warnings

import numpy as np
import pytest
import torch
from conftest import make, pictures
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import learngene as lg
from learngene.budgeting import Budget
from learngene.condense_options import half_eps
from learngene.condensing import keep_all
from learngene.inputs import calibration_sets
from learngene.shrink_report import ShrinkReport
from learngene.vit import count_params, save_vit

SHARES = [dict(params=0.5), dict(flops=0.5), dict(memory_mb=0.05)]


@pytest.fixture(scope="module")
def plain():
    return make("plain")


@pytest.fixture(scope="module")
def small(plain):
    return lg.shrink(plain, pictures(plain, 24), params=0.5)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "Folders of photos: flat, and with classes; other sizes than the model's."
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(12):
        image = Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
        for place in ("flat", f"classes/train/{'ab'[i % 2]}"):
            (folder / place).mkdir(parents=True, exist_ok=True)
            image.save(folder / place / f"{i}.png")
    return folder


@pytest.mark.parametrize("limit", SHARES, ids=str)
def test_limits_hold(plain, limit):
    child = lg.shrink(plain, pictures(plain, 12), **limit)
    name, value = next(iter(limit.items()))
    assert child.report.after[name] <= (value * child.report.before[name] if name != "memory_mb" else value)
    assert child(pictures(plain)).isfinite().all() and not child.training


def test_all_heads_are_there_to_choose_from(plain, small):
    images = pictures(plain, 24)
    sets = calibration_sets(images, plain)
    by_hand = lg.inherit(None, budget=Budget(params=0.5), refit=sets.calibration, ancestry=plain)
    assert all(torch.equal(t, small.state_dict()[name]) for name, t in by_hand.state_dict().items())
    assert keep_all(plain).n_centroids == [4, 4, 4]
    one = lg.shrink(plain, images, params=0.9, eps=1e6)
    assert all(len(layer["heads"]) == 1 for layer in one.report.layers)


def test_the_ancestry_stays_as_it_was(plain):
    before = {name: t.clone() for name, t in plain.state_dict().items()}
    lg.shrink(plain.train(), pictures(plain, 12), params=0.5)
    assert plain.training and all(torch.equal(t, before[name]) for name, t in plain.state_dict().items())
    plain.eval()


def test_the_report_stays_with_the_model(small, tmp_path):
    loaded = lg.load_descendant(lg.save_descendant(small, tmp_path / "small"))
    assert str(loaded.report) == str(small.report) and loaded.report.to_dict() == small.report.to_dict()
    again = lg.load_ancestry(tmp_path / "small")
    assert again.report.layers == small.report.layers
    later = small.report.to_dict() | dict(from_a_later_version=1)
    assert ShrinkReport.from_dict(json.loads(json.dumps(later))).to_dict() == small.report.to_dict()


def test_what_the_report_says(plain, small):
    report = small.report
    assert report.after["params"] == count_params(small) and report.before["params"] == count_params(plain)
    assert 0 < report.measured < 1 and 0 < report.predicted and 0 <= report.agreement <= 1
    assert [len(layer["heads"]) for layer in report.layers] == [b.attn.num_heads for b in small.blocks]
    assert [layer["neurons"] for layer in report.layers] == [b.mlp.fc1.out_features for b in small.blocks]
    text, html = str(report), report._repr_html_()
    assert "calibration images of a tensor" in text and "<svg" in html
    for i, block in enumerate(small.blocks):
        assert len([d for d in report.distances_after[i] if d is not None]) == block.attn.num_heads
    assert len(report.draw().axes) == 3


def test_a_fresh_classifier(plain):
    child = lg.shrink(plain, pictures(plain, 12), params=0.5, num_classes=7)
    assert child.num_classes == 7 and child.report.agreement is None


def forms(plain, photos):
    x = pictures(plain, 12)
    files = sorted((photos / "flat").iterdir())
    opened = [Image.open(file).copy() for file in files]
    return {
        "tensor": x, "8-bit tensor": (x.clamp(0, 1) * 255).byte(), "dataset": TensorDataset(x, torch.zeros(12)),
        "loader": DataLoader(TensorDataset(x, torch.zeros(12)), batch_size=5), "generator": (b for b in x.split(4)),
        "files": files, "PIL": opened, "arrays": [np.asarray(image) for image in opened],
        "array": np.stack([np.asarray(image) for image in opened]), "dicts": [dict(image=image) for image in opened],
        "flat folder": photos / "flat", "class folders": str(photos / "classes"), "name": "folder:classes",
    }


@pytest.mark.parametrize("form", [
    "tensor", "8-bit tensor", "dataset", "loader", "generator", "files", "PIL", "arrays", "array", "dicts",
    "flat folder", "class folders", "name"])
def test_forms_of_images(plain, photos, form, monkeypatch):
    monkeypatch.setenv("LEARNGENE_DATA", str(photos))
    sets = calibration_sets(forms(plain, photos)[form], plain, max_images=8)
    held_by_the_dataset = form in ("class folders", "name")  # a fifth of every class is for testing
    assert sets.calibration.shape[1:] == (3, 32, 32) and len(sets.calibration) == (6 if held_by_the_dataset else 8)
    assert sets.held_out and 0 < len(sets.others) <= 4 and sets.calibration.isfinite().all()


def test_images_are_drawn_from_all_of_a_dataset(plain):
    x = torch.arange(100.0).view(100, 1, 1, 1).expand(100, 3, 32, 32)
    sets = calibration_sets(x, plain, max_images=20, max_others=20)
    drawn = [set(t[:, 0, 0, 0].tolist()) for t in (sets.calibration, sets.others)]
    assert max(drawn[0]) > 50 and not drawn[0] & drawn[1] and len(drawn[0]) == 20
    assert torch.equal(calibration_sets(x, plain, max_images=20).calibration, sets.calibration)


@pytest.mark.parametrize("images, error, says", [
    (None, ValueError, "images is None; give a tensor"), (5, ValueError, "images is 5"), ([], ValueError, "no images"),
    ("no/such/place", FileNotFoundError, "there is no folder, image or dataset 'no/such/place'"),
    ("foldr:pets", FileNotFoundError, "there is no folder, image or dataset 'foldr:pets'"),
    (torch.randn(2, 3, 8, 8), ValueError, "images have 3 channels of 8 x 8 pixels, the model takes"),
    ([np.full((4, 4), -1.0)], ValueError, "outside 0 to 1"), ([object()], ValueError, "image 0 is a object"),
    ([dict(label=1)], ValueError, "wanted one of image"),
])
def test_bad_images(plain, images, error, says):
    with pytest.raises(error, match=says):
        lg.shrink(plain, images, params=0.5)


def test_an_image_that_is_none(plain, tmp_path):
    (tmp_path / "x.jpg").write_text("no image")
    for images in (tmp_path, [tmp_path / "x.jpg"]):
        with pytest.raises(ValueError, match=r"x\.jpg cannot be read as an image"):
            lg.shrink(plain, images, params=0.5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no images"):
        lg.shrink(plain, tmp_path / "empty", params=0.5)


def test_units():
    for limit in (dict(params=25), dict(flops=2)):
        with pytest.raises(ValueError, match=r"did you mean \d+e6 .* or 0\.\d+"):
            Budget(**limit)
    assert "0.25 of the ancestry's parameters" in repr(Budget(params=0.25))
    assert "2 G operations" in repr(Budget(flops=2e9)) and "milliseconds" in repr(Budget(latency_ms=3))


def test_the_warning_names_an_eps_for_half_the_heads():
    model = lg.load_ancestry("vit_nano_p2_8.digits")
    images = lg.load_data("digits").train_plain
    with pytest.warns(UserWarning, match="keeps about half, 4[0-9] of 96 heads") as caught:
        learngene = lg.condense(model, images, max_images=100)
    eps = float(str(caught[0].message).split("eps=")[1].split()[0])
    assert eps == half_eps(list(learngene.distances))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 40 <= sum(lg.condense(model, images, eps=eps, max_images=100).n_centroids) <= 56


# ---- predict

@pytest.fixture(scope="module")
def named():
    from learngene.model_notes import note_classes

    model = make("plain")
    note_classes(model, ["ant", "bee", "cat", "dog", "eel"])
    return model


def test_predict_every_form_alike(named, photos, tmp_path):
    file = photos / "flat" / "3.png"
    image = Image.open(file)
    first = lg.predict(named, file)
    assert first.label in "ant bee cat dog eel".split() and sum(first.probabilities) == pytest.approx(1)
    assert first.source == str(file) and len(first) == 5 and list(first)[0] == (first.label, first.probability)
    for form in (str(file), image, np.asarray(image), torch.from_numpy(np.asarray(image).copy()).movedim(-1, 0)):
        assert lg.predict(named, form).probabilities == first.probabilities
    several = lg.predict(named, photos / "flat", top=2)
    assert len(several) == 12 and all(len(p) == 2 for p in several)
    assert {p.source: p for p in several}[str(file)].names == first.names[:2]
    assert [p.names for p in lg.predict(named, [image, file])] == [first.names] * 2
    save_vit(named, tmp_path / "m")
    assert lg.predict(tmp_path / "m", file).probabilities == pytest.approx(first.probabilities)


def test_predict_prepares_photos_as_timm_does(named, photos):
    import timm

    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(named) | dict(input_size=(3, 32, 32)))
    image = Image.open(photos / "flat" / "3.png")
    with torch.no_grad():
        wanted = named(transform(image)[None]).softmax(1).sort(descending=True).values[0].tolist()
    assert lg.predict(named, image).probabilities == pytest.approx(wanted)


def test_predict_refuses(named, photos, tmp_path):
    with pytest.raises(ValueError, match="the model has no classifier"):
        lg.predict(make("grey, no classes"), photos / "flat")
    with pytest.raises(FileNotFoundError, match="there is no folder, image or dataset"):
        lg.predict(named, "photo.jpg")
    with pytest.raises(ValueError, match="top is 0"):
        lg.predict(named, photos / "flat", top=0)
