"What travels with a model: preparation of images, class names, origin."

import pytest
import timm
import torch
from conftest import make

import learngene as lg
from learngene.ancestry import shipped
from learngene.anatomy import image_shape
from learngene.model_notes import class_names, input_config, note_classes, note_training
from learngene.vit import build_vit, load_vit, save_vit, vit_config


def named(**kw):
    "A timm model of five classes with names."
    shape = dict(img_size=32, embed_dim=32, depth=1, num_heads=4, num_classes=5)
    model = timm.create_model("vit_tiny_patch16_224", **shape | kw)
    note_classes(model, list("abcde"))
    return model.eval()


@pytest.mark.parametrize("name, size", [("vit_nano_p2_8.digits", (1, 8, 8)), ("vit_pico_p8_64.tin100", (3, 64, 64))])
def test_timm_knows_how_images_are_prepared_for_shipped_ancestries_and_descendants(name, size, tmp_path):
    ancestry = lg.load_ancestry(name)
    images = torch.rand(8, *size, generator=torch.Generator().manual_seed(0))
    child = lg.inherit(lg.condense(ancestry, images, eps=1e-6), depth=2, heads=3)
    lg.save_descendant(child, tmp_path / "child")
    for model in (ancestry, child, lg.load_descendant(tmp_path / "child")):
        config = timm.data.resolve_model_data_config(model)
        assert config == input_config(model) and config["input_size"] == size and config["crop_pct"] == 1.0
        assert len(config["mean"]) == len(config["std"]) == size[0]
        assert len(class_names(model)) == ancestry.num_classes and model.origin["name"] == name
        assert model.origin["licence"] == "Apache-2.0"
    assert set(shipped()) == {"vit_nano_p2_8.digits", "vit_pico_p8_64.tin100"}  # all are tested


def test_a_model_that_nothing_is_noted_of_still_has_a_size():
    model = build_vit(vit_config(make("not square")), device="cpu")
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 24, 40)
    assert class_names(model) is None and "pretrained_cfg" not in vit_config(model)
    grey = make("grey, no classes")
    with pytest.warns(UserWarning, match="no mean is noted for a model of 1 channel"):
        assert input_config(grey)["mean"] == pytest.approx((0.449,))
    assert image_shape(grey) == (1, 32, 32)


def test_class_names_travel(tmp_path):
    loaded = load_vit(save_vit(named(), tmp_path / "m"))
    assert class_names(loaded) == list("abcde")
    fresh = lg.inherit(lg.condense(loaded, torch.randn(4, 3, 32, 32), eps=1e-6), num_classes=5)
    assert class_names(fresh) is None, "a fresh classifier has other classes"
    with pytest.raises(ValueError, match="3 class names for a classifier of 5"):
        note_classes(loaded, list("abc"))


def test_imagenet_names_come_from_timm():
    model = lg.load_ancestry("deit_tiny_patch16_224", pretrained=False, depth=1)
    assert class_names(model)[285] == "Egyptian cat" and model.origin["licence"] == "apache-2.0"
    assert class_names(build_vit(vit_config(model)))[285] == "Egyptian cat"
    assert class_names(lg.load_ancestry("deit_tiny_patch16_224", pretrained=False, depth=1, num_classes=7)) is None


def test_training_notes_its_data():
    digits, model = lg.load_data("digits"), make("plain", img_size=8, patch_size=2, in_chans=1, num_classes=10)
    note_training(model, digits)
    config = input_config(model)
    assert (config["input_size"], config["mean"], config["std"]) == ((1, 8, 8), digits.mean, digits.std)
    assert class_names(model) == digits.classes


def test_data_for_a_model():
    pico = lg.load_ancestry("vit_pico_p8_64.tin100")
    data = lg.load_data("digits", for_model=pico)
    assert data.test[0][0].shape == (3, 64, 64) and data.mean == pytest.approx((0.485, 0.456, 0.406))
    again = lg.load_data(lg.DataSpec("digits", val_fraction=0.2), for_model=pico)
    assert (again.image_size, again.sizes["val"] > data.sizes["val"]) == (64, True)
    with pytest.raises(ValueError, match="24 x 40 pixels"):
        lg.load_data("digits", for_model=make("not square"))


def test_a_name_alone_warns_of_its_size(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNGENE_DATA", str(tmp_path))
    with pytest.warns(UserWarning, match=r"folder:pets are loaded at 8 x 8 pixels.*for_model=model"):
        with pytest.raises(FileNotFoundError):
            lg.load_data("folder:pets")
