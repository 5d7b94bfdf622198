"What a model states of its images (normalisation, class order, size) is followed, or said."
import copy
import json
import warnings

import numpy as np
import pytest
import timm
import torch
from test_pictures import fill, spec
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import FakeData

import learngene as lg
from learngene.ancestry import new_model, stated_classes
from learngene.ancestry_sources import set_image_size
from learngene.inheriting import save_descendant
from learngene.ledger import Ledger
from learngene.matching import follow_class_order, stated_normalisation
from learngene.model_notes import note_classes
from learngene.recipe import Recipe
from learngene.running import ResolvedRun, load_ancestry_of
from learngene.vit import load_vit, save_vit

TEN = [str(i) for i in range(1, 12)]  # alphabetical order is 1, 10, 11, 2, ...
QUICK = dict(train=dict(epochs=0), method=dict(name="pretraining-finetuning", images=16))


def recipe(ancestry="vit_nano_p2_8.digits", **parts):
    return Recipe.from_dict(dict(name="r", ancestry=str(ancestry), shape=dict(depth=1)) | QUICK | parts)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "A cache of its own, and a tree that counts as clean."
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("learngene.running.code_version", lambda: dict(
        source="checkout", version=lg.__version__, commit="c0ffee", clean=True))


@pytest.fixture(scope="module")
def digits():
    return lg.load_data("digits")


@pytest.fixture
def other():
    "An ancestry that states another normalisation than the digits have."
    model = new_model(dict(img_size=8, patch_size=2, in_chans=1, embed_dim=16, depth=2, num_heads=2, num_classes=10))
    model.pretrained_cfg = dict(mean=(0.5,), std=(0.25,))
    return model.eval()


# ---- normalisation

def mismatches(call):
    "Messages of the warnings of another normalisation."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    caught = [w for w in caught if "normalised by" in str(w.message)]
    assert all(w.filename == __file__ for w in caught), "the caller's line"
    return [str(w.message) for w in caught]


def test_every_door_warns_once_of_another_normalisation(digits, other):
    images, quick = Subset(digits.train_plain, range(32)), recipe(train=dict(epochs=1, batch_size=640))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learngene = lg.condense(other, images, eps=1e-6)
    doors = dict(
        condense=lambda: lg.condense(other, DataLoader(images, 16), eps=1e-6),
        density=lambda: lg.mean_attention_distance(other, images),
        solve=lambda: lg.solve(learngene, lg.Budget(params=0.6), other, images),
        inherit=lambda: lg.inherit(learngene, budget=lg.Budget(params=0.6), refit=images, ancestry=other),
        refit=lambda: lg.refit(copy.deepcopy(other), other, images),
        evaluate=lambda: lg.evaluate(other, Subset(digits.test, range(8))),
        fit=lambda: lg.fit(other, digits, quick, on_epoch=False))
    for name, call in doors.items():
        texts = mismatches(call)
        assert len(texts) == 1, name
        for part in "mean [0.5] and std [0.25]", "mean [0.3052] and std [0.3758]", "data: {mean: [0.5], std: [0.25]}":
            assert part in texts[0]


def test_a_run_warns_once_of_another_normalisation(tmp_path, other):
    save_vit(other, tmp_path / "other")
    r = recipe(tmp_path / "other")
    assert len(mismatches(lambda: lg.run(r, Ledger(tmp_path / "l"), on_epoch=False, home=tmp_path))) == 1


def test_an_agreeing_normalisation_is_no_warning(digits, other):
    other.pretrained_cfg = dict(mean=digits.mean, std=digits.std)
    assert mismatches(lambda: lg.evaluate(other, Subset(digits.test, range(8)))) == []
    other.pretrained_cfg = dict(mean=(0.1, 0.3, 0.5156), std=(0.3758,) * 3)  # a grey picture's is their mean
    assert mismatches(lambda: lg.evaluate(other, Subset(digits.test, range(8)))) == []


def test_where_a_normalisation_is_looked_for():
    steps = transforms.Compose([transforms.ToTensor(), transforms.Compose([transforms.Normalize((0.5,), (0.25,))])])
    images = FakeData(4, (3, 8, 8), transform=steps)
    for holder in images, DataLoader(images), DataLoader(Subset(ConcatDataset([images, images]), [0])):
        assert stated_normalisation(holder) == ((0.5,), (0.25,))
    for holder in torch.zeros(2, 3, 8, 8), FakeData(4), [1], None, torch.utils.data.TensorDataset(torch.zeros(2, 1)):
        assert stated_normalisation(holder) is None


# ---- class order

@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    "Eleven classes, 1 to 11."
    return spec("folder", fill(tmp_path_factory.mktemp("numbered") / "train", classes=TEN, count=6))


def hub_folder(path, stated, classes=11):
    "A model in timm's folder layout whose config states its classes."
    shape = dict(img_size=16, embed_dim=24, depth=1, num_heads=3)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **shape)
    timm.models.save_for_hf(model, path, safe_serialization=True, model_config=dict(model_args=shape))
    config = json.loads((path / "config.json").read_text())
    config["pretrained_cfg"] |= stated.pop("pretrained_cfg", {})
    (path / "config.json").write_text(json.dumps(config | stated))
    return path


@pytest.mark.parametrize("stated", [
    dict(label_names=TEN), dict(class_to_idx={name: i for i, name in enumerate(TEN)}),
    dict(label_names={str(i): name for i, name in enumerate(TEN)}), dict(pretrained_cfg=dict(label_names=TEN))],
    ids=["label_names", "class_to_idx", "numbered", "pretrained_cfg"])
def test_a_kept_classifiers_order_is_followed(tmp_path, numbered, stated):
    folder = hub_folder(tmp_path / "timm", stated)
    assert stated_classes(lg.load_ancestry(folder)) == TEN
    data = dict(name="folder", path=numbered.path, image_size=16, mean=0.5, std=0.5)
    kept, fresh = (ResolvedRun(recipe(folder, data=data, shape=dict(classifier=c))).data for c in ("ancestry", "fresh"))
    assert kept.classes == TEN and fresh.classes == sorted(TEN) and kept.fingerprint == fresh.fingerprint
    for split in "train", "val", "test", "train_plain":
        names = [[d.classes[label] for label in getattr(d, split).labels] for d in (kept, fresh)]
        assert names[0] == names[1] and len(names[0])
        assert [label for _, label in getattr(kept, split)] == getattr(kept, split).labels.tolist()


def test_class_orders_that_are_not_stated(numbered, digits):
    data = lg.load_data(numbered)
    with pytest.warns(UserWarning, match="alphabetically .1, 10, 11, ...., and it, whose classifier"):
        assert follow_class_order(data, None, "it") is data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert follow_class_order(digits, None, "it") is digits
        assert follow_class_order(data, sorted(TEN), "it") is data


def test_class_names_that_do_not_agree(numbered):
    data = lg.load_data(numbered)
    with pytest.raises(ValueError, match="it states classes 1, 2, 3, ..., and .* has 11, which it does not know"):
        follow_class_order(data, [*TEN[:-1], "12"], "it")
    with pytest.warns(UserWarning, match="no name agrees"):
        assert follow_class_order(data, [f"n{i}" for i in range(11)], "it") is data
    reordered = data.in_class_order([*TEN[::-1]])
    assert reordered.classes[reordered.test[0][1]] == data.classes[data.test[0][1]]
    with pytest.raises(ValueError, match="give the same names"):
        data.in_class_order(TEN[:-1])


def test_a_saved_model_states_its_classes(tmp_path, other):
    note_classes(other, list("abcdefghij"))
    save_vit(other, tmp_path / "m")
    assert stated_classes(lg.load_ancestry(tmp_path / "m")) == list("abcdefghij")


@pytest.mark.parametrize("noted", [None, [], [1, 2], "ab", {"a": 0, "b": 2}, {"x": "a"}, 7], ids=str)
def test_statements_that_are_none(noted):
    model = torch.nn.Module()
    model.pretrained_cfg = dict(label_names=noted)
    assert stated_classes(model) is None


# ---- image size

def test_an_ancestry_of_another_image_size(tmp_path):
    grown = lg.load_ancestry("vit_nano_p2_8.digits", img_size=12)
    by_hand = lg.load_ancestry("vit_nano_p2_8.digits")
    by_hand.set_input_size(img_size=(12, 12))
    assert torch.equal(grown.pos_embed, by_hand.pos_embed) and grown.pos_embed.shape[1] == 37
    x = torch.zeros(2, 1, 12, 12)
    save_vit(grown, tmp_path / "grown")
    assert torch.equal(load_vit(tmp_path / "grown")(x), grown(x))
    learngene = lg.condense(grown, torch.randn(8, 1, 12, 12), eps=0.1)
    child = lg.inherit(learngene, depth=2, heads=2, num_classes=10)
    save_descendant(child, tmp_path / "child")
    assert lg.load_descendant(tmp_path / "child")(x).shape == (2, 10)
    for size in 9, 1, (12, 13):
        with pytest.raises(ValueError, match="do not divide into patches of 2 x 2; choose a multiple"):
            set_image_size(by_hand, size)
    with pytest.raises(TypeError, match="leave depth out"):
        lg.load_ancestry("vit_nano_p2_8.digits", depth=3)


def test_a_recipe_states_the_ancestrys_size(tmp_path):
    plain = recipe(data=dict(image_size=12))
    r = recipe(ancestry_size=12, data=dict(image_size=12))
    assert "ancestry_size" not in plain.to_dict() and r.key != plain.key
    assert load_ancestry_of(ResolvedRun(r)).patch_embed.img_size == (12, 12)
    record = lg.run(r, Ledger(tmp_path / "l"), save=tmp_path / "m", on_epoch=False, home=tmp_path)
    assert lg.run(r, Ledger(tmp_path / "l")) == record, "found again"
    assert load_vit(tmp_path / "m").patch_embed.img_size == (12, 12)
    with pytest.raises(ValueError, match="'ancestry_size' changes an 'ancestry'"):
        Recipe.from_dict(dict(name="r", model={}, method=dict(name="from-scratch"), ancestry_size=12))
    with pytest.raises(ValueError, match="the model takes 8; set data.image_size: 8, or ancestry_size: 12"):
        lg.run(plain, Ledger(tmp_path / "l"), on_epoch=False, home=tmp_path)


def test_labels_below_zero_stay():
    from learngene.images import Images

    images = Images([b""] * 3, np.array([-1, 0, 1]), ["a", "b"], "", range(3))
    assert images.in_class_order("ba").labels.tolist() == [-1, 1, 0]
