"Teachers: any classifier of timm is trained, saved, loaded, and its answers are learned."
import dataclasses

import numpy as np
import pytest
import timm
import torch
from conftest import make, pictures

import learngene as lg
from learngene.data import load_data
from learngene.distillation import Distillation, check_teacher
from learngene.ledger import Ledger
from learngene.recipe import Recipe
from learngene.running import ResolvedRun, find_record, run, trained_folder
from learngene.teachers import load_teacher

NET = dict(architecture="resnet18", channels=[8, 8, 8, 8], in_chans=1, num_classes=10)
OFF = dict(crop="none", hflip=0, rand_augment=None, erasing=0, mixup=0, cutmix=0)
SHORT = dict(epochs=1, batch_size=32, warmup_epochs=0)


def recipe(name, **settings):
    return Recipe.from_dict(dict(name=name, data=dict(fraction=0.1), augment=OFF, train=SHORT) | settings)


@pytest.fixture
def teacher(tmp_path):
    "The file of a recipe that trains a convolutional network."
    return recipe("teacher", model=NET, method=dict(name="untrained")).save(tmp_path / "teacher.yaml")


def learner(by, **train):
    return recipe("student", ancestry="vit_nano_p2_8.digits", method=dict(name="from-scratch"), shape=dict(depth=2),
                  train=SHORT | dict(teacher=str(by)) | train)


def test_a_recipe_trains_its_teacher_first_and_learns_from_it(teacher, tmp_path):
    ledger, home = Ledger(tmp_path / "results"), tmp_path / "home"
    record = run(learner(teacher), ledger, on_epoch=False, home=home)
    folder = trained_folder(ResolvedRun(Recipe.load(teacher)), home)
    net = load_teacher(folder)
    assert type(net).__name__ == "ResNet" and not net.training
    assert record["meta_info"]["teacher_recipe"] == Recipe.load(teacher).key
    assert record["meta_info"]["teacher"] == lg.vit.fingerprint(net)
    assert net.pretrained_cfg["mean"] == pytest.approx(load_data(Recipe.load(teacher).data).mean)
    again = run(learner(folder), Ledger(tmp_path / "again"), on_epoch=False, home=home)
    assert again["meta_info"]["weights"] == record["meta_info"]["weights"], "by recipe or by folder, it is one teacher"
    alone = run(learner(None, teacher=None), Ledger(tmp_path / "alone"), on_epoch=False, home=home)
    assert alone["meta_info"]["weights"] != record["meta_info"]["weights"]
    assert "teacher" not in alone["meta_info"]


def test_a_record_of_another_teacher_is_not_found(teacher, tmp_path):
    ledger = Ledger(tmp_path / "results")
    student = learner(teacher)
    record = run(student, ledger, on_epoch=False, home=tmp_path / "home")
    clean = record["run_info"] | dict(code=record["run_info"]["code"] | dict(clean=True))
    ledger.add(record | dict(run_info=clean))
    assert find_record(student, ledger)
    dataclasses.replace(Recipe.load(teacher), seed=1).save(teacher)
    assert find_record(student, ledger) is None


def test_the_key_of_a_recipe_without_teacher_is_as_before():
    settings = recipe("r", ancestry="a").to_dict()
    assert not [name for name in settings["train"] if "teacher" in name]
    assert "teacher" in learner("t").to_dict()["train"]
    assert learner("t").key != learner("t", teacher_weight=0.9).key != learner("t", teacher_temperature=2.0).key


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_the_loss_against_numpy():
    student, teacher = make("plain", seed=1), make("plain", seed=2)
    x = pictures(student, 4)
    with torch.no_grad():
        q, p = (softmax(model(x).double().numpy() / 3) for model in (student, teacher))
        loss = Distillation(teacher, alpha=0.3, temperature=3.0)(student(x), x, torch.tensor(2.0))
    wanted = 0.3 * 9 * (p * np.log(p / q)).sum(1).mean() + 0.7 * 2
    assert loss.item() == pytest.approx(wanted, rel=1e-4)


def test_a_teacher_sees_images_of_its_own_size():
    sizes = []
    teacher = make("plain")
    teacher.pretrained_cfg = dict(input_size=(3, 32, 32))
    teacher.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape[2:])))
    loss = Distillation(teacher)
    loss.teacher.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape[2:])))
    loss(torch.randn(2, 5), torch.randn(2, 3, 16, 16), torch.tensor(0.0))
    assert set(sizes) == {(32, 32)}


def test_bad_teachers(tmp_path):
    model = make("plain")
    with pytest.raises(TypeError, match="the teacher is a int"):
        check_teacher(3, model)
    with pytest.raises(ValueError, match="the teacher has 7 classes, its student 5; give a teacher"):
        check_teacher(make("plain", num_classes=7), model)
    model.distillation = Distillation(make("plain"))
    with pytest.raises(ValueError, match="brings its own teacher"):
        check_teacher(make("plain"), model)
    with pytest.raises(ValueError, match="there is no"):
        load_teacher("resnet_of_nobody")
    lg.save_descendant(make("plain", num_classes=0), tmp_path / "headless")
    with pytest.raises(ValueError, match="has no classifier, so it cannot teach"):
        load_teacher(tmp_path / "headless")
    with pytest.raises(TypeError, match="cannot be cut into heads"):
        lg.load_ancestry("resnet18", pretrained=False)


def test_no_stochastic_depth_for_other_networks(tmp_path):
    net = timm.create_model("resnet18", **{k: v for k, v in NET.items() if k != "architecture"})
    data = load_data(lg.DataSpec("digits", fraction=0.1))
    with pytest.raises(ValueError, match="drop_path is 0.1, and ResNet is no vision transformer"):
        lg.fit(net, data, recipe("r", ancestry="a", train=SHORT | dict(drop_path=0.1)), on_epoch=False)
