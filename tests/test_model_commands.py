"Commands for people with a model, in this process."

import json
import sys

import numpy as np
import pytest
from PIL import Image

from learngene.app.cli import main
from learngene.app.models import comments_of
from learngene.progress import show_progress

NANO = "vit_nano_p2_8.digits"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A shrunk model, made by the command itself."
    path = tmp_path_factory.mktemp("commands")
    main(["shrink", NANO, "digits", "--params", "0.3", "--max-images", "60", "--to", str(path / "small"), "--quiet"])
    return path


@pytest.fixture(autouse=True)
def quiet():
    yield
    show_progress(None)


def printed(capsys, *arguments):
    capsys.readouterr()
    main([str(a) for a in arguments])
    return capsys.readouterr().out


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code not in (0, None)
    return str(ended.value.code)


def test_shrink_and_info(folder, capsys):
    info = json.loads(printed(capsys, "info", folder / "small", "--json"))
    assert info["params"] <= 0.3 * 602_058 and info["report"]["ancestry"]["name"] == NANO
    assert "ShrinkReport" in printed(capsys, "info", folder / "small") and info["classes"][3] == "3"


def test_a_recipe_file_does_what_flags_do(folder, capsys, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(f"model: {NANO}\nimages: digits\nparams: 0.3\nmax_images: 60\nto: {tmp_path / 'again'}\n")
    made = json.loads(printed(capsys, "shrink", "--recipe", file, "--json"))
    info = json.loads(printed(capsys, "info", folder / "small", "--json"))
    assert made["layers"] == info["report"]["layers"] and (tmp_path / "again" / "config.json").exists()
    file.write_text("modle: x\n")
    assert "there is no option 'modle' (did you mean 'model'?)" in refused(capsys, "shrink", "--recipe", file)


def test_dry_run_writes_nothing(capsys, tmp_path):
    text = printed(capsys, "shrink", NANO, "digits", "--params", "0.3", "--to", tmp_path / "x", "--dry-run")
    assert "602,058 parameters" in text and "0.3 of the ancestry's parameters" in text and not list(tmp_path.iterdir())


def test_plan(capsys):
    shape = json.loads(printed(capsys, "plan", NANO, "digits", "--params", "0.1", "--max-images", "40", "--json"))
    assert len(shape["layers"]) <= 12 and all(layer["heads"] for layer in shape["layers"])


def test_the_papers_way(folder, capsys):
    printed(capsys, "condense", NANO, "digits", "--eps", "0.07", "--max-images", "60", "--to", folder / "gene")
    result = json.loads(printed(capsys, "inherit", folder / "gene", "--depth", 3, "--heads", 2, "--to",
                                folder / "child", "--json"))
    assert result["params"] < 200_000
    text = printed(capsys, "refit", folder / "small", NANO, "digits", "--max-images", "60", "--to", folder / "again")
    assert "relative error" in text and (folder / "again" / "README.md").exists()


def test_predict_and_evaluate(folder, capsys, tmp_path):
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "x.png")
    answers = json.loads(printed(capsys, "predict", folder / "small", tmp_path / "x.png", "--top", 2, "--json"))
    assert len(answers) == 1 and len(answers[0]["names"]) == 2 and answers[0]["source"].endswith("x.png")
    assert json.loads(printed(capsys, "evaluate", folder / "small", "digits", "--json"))["accuracy"] > 0.8
    assert "classes, the model 100" in refused(capsys, "evaluate", "vit_pico_p8_64.tin100", "digits")
    (tmp_path / "flat").mkdir()
    assert "images without labels cannot be evaluated" in refused(capsys, "evaluate", folder / "small",
                                                                  tmp_path / "flat")


def test_export(folder, capsys, tmp_path):
    assert "the same outputs" in printed(capsys, "export", folder / "small", tmp_path / "m.pt2")
    assert "ends in .x" in refused(capsys, "export", folder / "small", tmp_path / "m.x")


@pytest.mark.parametrize("arguments, says", [
    (["shrink"], "model, images is missing"), (["shrink", NANO, "digits"], "needs a limit"),
    (["shrink", NANO, "digits", "--params", "25"], "did you mean 25e6"),
    (["shrink", "no/such", "digits", "--params", "0.5"], "no/such"), (["predict", NANO, "x.jpg"], "x.jpg"),
    (["inherit"], "learngene is missing"), (["info", "resnet18"], "cannot be cut into heads"),
])
def test_errors_in_one_line(capsys, arguments, says):
    message = refused(capsys, *arguments)
    assert says in message and "\n" not in message


def test_interrupted(monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("learngene.shrinking.shrink", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["shrink", NANO, "digits", "--params", "0.3"])
    assert ended.value.code == 130 and "interrupted; nothing was written" in capsys.readouterr().err


def test_help_comes_from_the_library(capsys):
    assert comments_of("shrinking", "shrink")["batch_size"] == "images at once, for latency and memory"
    with pytest.raises(ValueError, match="no function nothing"):
        comments_of("shrinking", "nothing")
    assert "torch" in sys.modules  # it is loaded here; `learngene --help` needs no import of it


def test_heal(folder, capsys, tmp_path):
    options = ["--steps", 3, "--max-images", 60]
    made = json.loads(printed(capsys, "heal", folder / "small", "digits", *options, "--to", tmp_path / "healed",
                              "--json"))
    assert made["steps"] == 3 and made["after"]["loss"] <= made["before"]["loss"] and made["folder"]
    assert "3 steps" in printed(capsys, "info", tmp_path / "healed")
    text = printed(capsys, "heal", folder / "small", "digits", *options, "--ancestry", NANO, "--quiet")
    assert "HealReport: 3 steps" in text and "not saved; give --to" in text
    assert "give steps or minutes" in refused(capsys, "heal", folder / "small", "digits")
    assert "minutes is 0.0" in refused(capsys, "heal", folder / "small", "digits", "--minutes", 0)
    assert "images is missing" in refused(capsys, "heal", folder / "small", "--steps", 3)


def test_an_interrupted_healing_is_written(folder, capsys, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("learngene.healing.Healing.learn", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["heal", str(folder / "small"), "digits", "--steps", "3", "--max-images", "60", "--to",
              str(tmp_path / "healed")])
    assert ended.value.code == 130 and (tmp_path / "healed" / "config.json").exists()
    assert "the best model so far was written" in capsys.readouterr().err


def test_dry_runs_of_all_commands(folder, capsys, tmp_path):
    small, target = folder / "small", tmp_path / "x"
    printed(capsys, "condense", NANO, "digits", "--eps", "0.07", "--max-images", "40", "--to", tmp_path / "gene")
    for arguments, says in (
        (["plan", NANO, "digits", "--params", "0.3"], "0.3 of the ancestry's parameters"),
        (["condense", NANO, "digits", "--eps", "0.07", "--to", target], "602,058 parameters"),
        (["inherit", tmp_path / "gene", "--depth", 3, "--to", target], "descendant of 3 layers"),
        (["refit", small, NANO, "digits", "--to", target], "images of digits"),
        (["heal", small, "digits", "--steps", 9, "--to", target], "steps 9"),
        (["predict", small, "digits", "--top", 2], "top 2"),
        (["evaluate", small, "digits", "--split", "val"], "val images "),
        (["export", small, tmp_path / "x.onnx"], "x.onnx"),
    ):
        assert says in printed(capsys, *arguments, "--dry-run")
        assert [path.name for path in tmp_path.iterdir()] == ["gene"]
    assert "nothing was computed" in printed(capsys, "predict", small, "digits", "--dry-run")
    assert "ends in .x" in refused(capsys, "export", small, tmp_path / "m.x", "--dry-run")
    assert "holds other files" in refused(capsys, "condense", NANO, "digits", "--to", small, "--dry-run")


def test_the_families(capsys):
    listed = json.loads(printed(capsys, "info", "--families", "--json"))
    by_name = {row["family"]: row for row in listed["families"]}
    assert by_name["DINOv3"]["refit"] == "yes" and by_name["Swin V2"]["refit"] == "no"
    assert by_name["Swin"]["stages"] == "yes" and any(row["class in timm"] == "Hiera" for row in listed["refused"])
    text = printed(capsys, "info", "--families")
    assert "Perception Encoder" in text and "talking heads" in text
