"The leaderboard: ranks, records and costs of made-up runs; a toy method that enters; the committed page."

import copy
import sys
from pathlib import Path

import pytest
from records import make_record

from learngene import methods, running
from learngene.app import cli, leaderboard
from learngene.app.leaderboard import Entry, lead, records_among, tasks_of, within_cost
from learngene.correctness import pack_bits
from learngene.tables import Results

ROOT = Path(__file__).parents[1]
IMAGES = 200


def record(right, seed=0, bits=True, date="2026-01-01", epochs=0, method="m", options=None, stage1=None):
    "A record of a model that is right on the first so many test images."
    recipe = dict(method=dict(name=method, options=options or {}), train=dict(epochs=epochs))
    return make_record(
        seed=seed, recipe=recipe,
        run_info=dict(finished=date),
        train_info=dict(test_accuracy=right / IMAGES,
                        test_correct=pack_bits([i < right for i in range(IMAGES)]) if bits else None),
        meta_info=dict(data_sizes=dict(test=IMAGES, train=100), stage1=stage1),
    )


def entry(name, *records, size="50 %"):
    return Entry(name, size, {r["run_info"]["seed"]: r for r in records})


def test_the_interval_is_over_seeds_or_over_images():
    mean, low, high = entry("one", record(100)).interval
    assert mean == 50 and 42 < low < 44 and 56 < high < 58  # Wilson's interval for 100 of 200
    mean, low, high = entry("three", *(record(n, s) for s, n in enumerate((98, 100, 102)))).interval
    assert mean == 50 and high - 50 == pytest.approx(4.303 * 1 / 3**0.5, rel=1e-3)  # t(2) times the error, in points


def test_a_lead_is_judged_by_what_the_records_hold():
    a, b = record(120), record(110)
    assert lead(entry("a", a), entry("b", b))["by"] == "images"
    paired = lead(entry("a", a), entry("b", b))["p"]
    a, b = record(120, bits=False), record(110, bits=False)
    unpaired = lead(entry("a", a), entry("b", b))
    assert unpaired["by"] == "two samples" and unpaired["difference"] == pytest.approx(5)
    assert paired < 0.01 < 0.2 < unpaired["p"]  # ten images more and none less is clear, by accuracy alone it is not
    seeds = [entry(name, *(record(n + s, s, bits=False) for s in range(3))) for name, n in (("a", 120), ("b", 110))]
    over_seeds = lead(*seeds)
    assert over_seeds.pop("by") == "seeds"
    assert over_seeds == pytest.approx(dict(difference=5, low=5, high=5, p=0, n=3))


def test_a_record_must_be_clear_when_it_comes():
    first, little, clear, late = (entry(name, record(n, date=date)) for name, n, date in (
        ("first", 100, "2026-01-01"), ("little", 103, "2026-01-02"), ("clear", 120, "2026-01-03"),
        ("late", 119, "2026-01-04")))
    marks = records_among([late, clear, little, first])
    assert list(marks) == ["first", "clear"] and marks["first"] == "first" and marks["clear"].endswith("(images)")


def test_training_before_the_descendant_is_no_training_track():
    plain, trained = entry("plain", record(90)), entry("trained", record(95, stage1=dict(images=1, seconds=1.0)))
    healed = entry("healed", record(96, method="x+heal"))
    longer = entry("longer", record(97, method="x+heal", options=dict(heal_steps=129)))
    tasks = tasks_of([plain, trained, healed, longer])
    assert [e.method for e in tasks["no training", "50 %"]] == ["plain"]
    assert [e.method for e in tasks["at most 128 steps of healing", "50 %"]] == ["healed"]
    assert tasks["equal descendant epochs: 1", "50 %"] == []
    assert ("equal descendant epochs: 10", "50 %") not in tasks


def test_total_cost_counts_the_share_of_stage_1():
    cheap = [entry("cheap", record(90 + n, epochs=n)) for n in (0, 1, 10)]
    once = [entry("once", record(90 + n, epochs=n, stage1=dict(images=1200, seconds=1.0))) for n in (0, 1, 10)]
    chosen = {e.method: e.epochs for e in within_cost(cheap + once, 10)}
    assert chosen == dict(cheap=10, once=1)  # 1200 images for 12 models are an epoch of 100: ten more are too many


def test_an_entry_of_other_options_is_another_row():
    names = [leaderboard.labelled(labels, "tleg") for labels in (
        dict(method="tleg", parameters="25 %"), dict(point="tleg, 25 %"), dict(method="other rows", parameters="25 %"))]
    assert names == [("tleg", "25 %"), ("tleg", "25 %"), ("tleg, other rows", "25 %")]


# --- a method is entered as CONTRIBUTING says

TOY = '''
from dataclasses import dataclass
from learngene.methods import register
from learngene.methods.from_scratch import FromScratch

@register("toy-zeros")
@dataclass(frozen=True)
class Toy(FromScratch):
    "Start from scratch, with a classifier of zeros."
    def expand(self, payload, shape):
        model = super().expand(payload, shape)
        model.head.weight.data.zero_()
        return model
'''


def test_a_toy_method_enters_by_following_contributing(tmp_path, monkeypatch, capsys):
    line = next(text for text in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n")
                if text.startswith("**Enter a method into the leaderboard.**"))
    assert "`learngene leaderboard enter my-method --module my_module`" in line
    (tmp_path / "toy_module.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", copy.copy(sys.path))
    clean = running.code_version() | dict(clean=True)  # the records of a modified tree would be set aside
    monkeypatch.setattr(running, "code_version", lambda: clean)
    known = dict(methods.core._methods)
    try:
        command = "leaderboard enter toy-zeros --module toy_module --profile smoke --workers 1 --results".split()
        cli.main([*command, str(tmp_path)])
    finally:
        methods.core._methods.clear()
        methods.core._methods.update(known)
        sys.modules.pop("toy_module", None)
    page = capsys.readouterr().out
    tables = page.split("### ")[1:]
    shown = [table.splitlines()[0] for table in tables if "| 1 | toy-zeros |" in table]
    assert "smoke, 25 % of the parameters, no training" in shown and len(shown) >= 6
    stated = (tmp_path / "smoke/entries/toy-zeros.yaml").read_text(encoding="utf-8")
    assert "toy-zeros" in stated and "seeds" in stated


@pytest.mark.parametrize("arguments, says", [
    (["enter"], "give the METHOD"),
    (["enter", "tlegg"], "did you mean 'tleg'"),
    (["enter", "tleg", "--set", "epochs"], "--set wants NAME=VALUE"),
    (["enter", "tleg", "--profile", "paper2"], "there is no profile"),
    (["enter", "tleg", "--profile", "pico"], "--by params"),
    (["enter", "pretraining-finetuning", "--by", "params"], "has no option 'params'"),
])
def test_what_cannot_enter_is_refused_before_anything_is_written(arguments, says, tmp_path):
    with pytest.raises(SystemExit) as error:
        cli.main(["leaderboard", *arguments, "--results", str(tmp_path)])
    assert says in str(error.value) and not list(tmp_path.iterdir())


def test_the_committed_page_is_what_the_records_give():
    page = (ROOT / "docs/leaderboard.md").read_text(encoding="utf-8")
    assert page == leaderboard.leaderboard_page(committed=True), (
        "run `learngene leaderboard --committed --to docs/leaderboard.md`")


def test_entered_methods_have_their_records():
    for profile in leaderboard.PROFILES:
        results = Results(profile)
        for path in leaderboard.entry_files(results):
            missing = [r.name for _, r in leaderboard.Sweep.load(path).cells() if not results.ledger.find(r.key)]
            assert not missing, f"{path} states runs without a record"
