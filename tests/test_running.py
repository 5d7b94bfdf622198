"Runs: one record each, repeatable, side by side or one by one, resumed, and from trained ancestries."

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import learngene as lg

import pytest
import torch
from _ddp_worker import RICH, recipe, saved_vit, vit

from learngene import running as R
from learngene.ledger import Ledger, read_record
from learngene.matching import warn_of_normalisation
from learngene.recipe import Recipe
from learngene.train import evaluate
from learngene.vit import count_params, fingerprint, load_vit, save_vit, vit_extra

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
CLEAN = dict(source="checkout", version=lg.__version__, commit="c0ffee", clean=True)
MODIFIED = CLEAN | dict(clean=False)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, one_thread):
    "A cache of its own, one thread, and a tree that counts as clean: others may be editing this one."
    monkeypatch.setenv("LEARNGENE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(R, "code_version", lambda: dict(CLEAN))
    return tmp_path / "home"


@pytest.fixture
def ancestry(tmp_path):
    return saved_vit(tmp_path / "ancestry")


def run(r, ledger, **kw):
    return lg.run(r, ledger, **({"on_epoch": False} | kw))


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


def lasting(record):
    "A record without times and memory, which differ from run to run."
    record = json.loads(json.dumps(record))
    for name in ("finished", "resumed_at"):
        record["run_info"].pop(name)
    for name in ("seconds", "images_per_second", "peak_memory_mb", "latency_ms"):
        record["train_info"].pop(name)
    for name in ("condense_seconds", "expand_seconds"):
        record["meta_info"].pop(name)
    return record


LEARNGENE = dict(name="cluster-learngene", images=40, options=dict(eps=0.3))


# --- the record


def test_a_record_has_everything(tmp_path, ancestry):
    r = recipe(ancestry, method=LEARNGENE, shape=dict(depth=2, heads=3), seed=5)
    began = time.time()
    record = run(r, Ledger(tmp_path / "ledger"), save=tmp_path / "model")
    elapsed = time.time() - began
    (path,) = (tmp_path / "ledger" / "local").glob("*.json")
    assert json.loads(path.read_text()) == record == read_record(path)
    info, train, meta = record["run_info"], record["train_info"], record["meta_info"]
    assert (info["name"], info["seed"], info["key"]) == ("tiny", 5, r.key) and path.name == f"tiny-s5-{r.key}.json"
    assert info["code"] == CLEAN and info["processes"] == 1
    assert info["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]  # metadata may lack the suffix
    assert info["device"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")
    assert info["finished"].endswith("+00:00")

    data, model = lg.load_data(r.data), load_vit(tmp_path / "model")
    assert meta["recipe"] == r.to_dict() and Recipe.from_dict(meta["recipe"]) == r
    assert meta["data"] == "digits" and meta["data_sizes"] == data.sizes
    assert meta["data_fingerprint"] == data.fingerprint and meta["condense_images"] == 40
    assert meta["ancestry"] == fingerprint(load_vit(ancestry)) and meta["weights"] == fingerprint(model)
    assert meta["params"] == count_params(model) == sum(p.numel() for p in model.parameters())
    method = lg.methods.get("cluster-learngene", eps=0.3)
    payload = method.condense(load_vit(ancestry), R.calibration_subset(r, data))
    assert meta["inherited_params"] == lg.plan(payload, 2, 3, num_classes=10).inherited_params > 0
    d, t, w = 16, 5, 64  # width, tokens, FFN width; two operations a multiply-add
    block = 2 * t * d * 3 * 24 + 2 * 2 * 3 * t * t * 8 + 2 * t * 24 * d + 2 * 2 * t * d * w
    assert meta["flops"] == 2 * 4 * 16 * d + 2 * block + 2 * d * 10

    steps = len(data.train) // 32
    assert [entry["epoch"] for entry in train["history"]] == [0, 1, 2]
    assert all({"lr", "train_loss", "val_accuracy", "val_loss"} <= entry.keys() for entry in train["history"])
    assert 0 < train["seconds"] < elapsed and 10 < train["peak_memory_mb"] < 1e5
    assert train["images_per_second"] == pytest.approx(2 * steps * 32 / train["seconds"], rel=0.2)
    test = evaluate(model, data.test)
    assert train["test_accuracy"] == test["accuracy"] and train["test_loss"] == pytest.approx(test["loss"], abs=1e-12)
    assert vit_extra(tmp_path / "model")["record"] == record
    assert not list((tmp_path / "home").rglob("*.pt")), "checkpoints are removed at the end"


def test_the_official_test_images_are_used_once_at_the_end(tmp_path, ancestry, monkeypatch):
    judged_on = []

    def evaluate(model, images, **options):
        judged_on.append(images.index.tolist())
        return dict(accuracy=0.0, loss=0.0, correct=[False] * len(images))

    monkeypatch.setattr(R, "evaluate", evaluate)
    run(recipe(ancestry), Ledger(tmp_path / "ledger"))
    data = lg.load_data(recipe().data)
    assert judged_on == [data.test.index.tolist()]
    shown = R.calibration_subset(recipe(), data)
    assert {shown.dataset.index[i] for i in shown.indices} <= set(data.train.index.tolist())


def test_calibration_images(ancestry):
    "As many training images as stated, drawn from all of them, without augmentation."
    r = recipe(ancestry, method=LEARNGENE, augment=RICH)
    data = lg.load_data(r.data, r.augment)
    shown = R.calibration_subset(r, data)
    assert shown.dataset is data.train_plain and len(set(shown.indices)) == 40 and max(shown.indices) > 80
    other_split = recipe(ancestry, method=LEARNGENE, data=dict(split_seed=1))
    assert shown.indices == R.calibration_subset(dataclasses.replace(r, seed=1), data).indices
    assert shown.indices != R.calibration_subset(other_split, data).indices


@pytest.mark.parametrize(
    "method",
    [dict(name="from-scratch"), dict(name="pretraining-finetuning", options=dict(heads="random"))],
    ids=lambda m: m["name"],
)
def test_the_start_depends_on_the_seed_alone(ancestry, method):
    states = []
    for seed, callers_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(callers_seed)
        resolved = R.ResolvedRun(recipe(ancestry, seed=seed, method=method, shape=dict(heads=1)))
        states.append(R.start_model(resolved)[0].state_dict())
    a, again, other = states
    assert all(torch.equal(a[k], again[k]) for k in a)
    assert all(not torch.equal(a[k], other[k]) for k in ("head.weight", "blocks.0.attn.qkv.weight"))


@pytest.mark.parametrize("method", [LEARNGENE, dict(name="from-scratch"), dict(name="pretraining-finetuning")])
def test_a_record_can_be_made_again(tmp_path, ancestry, method):
    rich = recipe(ancestry, method=method, augment=RICH, train=dict(ema=0.9, drop_path=0.1))
    first = run(rich, Ledger(tmp_path / "a"))
    torch.manual_seed(99)
    stated = Recipe.from_dict(first["meta_info"]["recipe"])
    assert lasting(run(stated, Ledger(tmp_path / "b"))) == lasting(first)
    other = run(dataclasses.replace(stated, seed=1), Ledger(tmp_path / "b"))
    assert other["meta_info"]["weights"] != first["meta_info"]["weights"]


def test_from_scratch_inherits_nothing(tmp_path, ancestry):
    meta = run(recipe(ancestry, method=dict(name="from-scratch")), Ledger(tmp_path / "a"))["meta_info"]
    assert meta["inherited_params"] == 0 and meta["payload"] is None


def test_a_run_from_random_weights_has_no_ancestry(tmp_path):
    meta = run(recipe(), Ledger(tmp_path / "a"))["meta_info"]
    assert meta["ancestry"] is None and meta["inherited_params"] == 0


def test_existing_records_are_read(tmp_path, ancestry, monkeypatch):
    ledger, r = Ledger(tmp_path / "ledger"), recipe(ancestry)
    first = run(r, ledger)
    with monkeypatch.context() as m:
        m.setattr(R, "fit", lambda *a, **k: pytest.fail("trained again"))
        assert run(r, ledger) == first
        assert run(dataclasses.replace(r, name="another name"), ledger) == first
        assert lg.run_all([r, r], ledger, 1, log=lambda *a, **k: pytest.fail("nothing is missing")) == [first, first]
    again = run(r, ledger, again=True)
    assert again["run_info"]["finished"] >= first["run_info"]["finished"] and again is not first
    saved = run(r, ledger, save=tmp_path / "model")
    assert fingerprint(load_vit(tmp_path / "model")) == saved["meta_info"]["weights"] == first["meta_info"]["weights"]


def test_records_of_a_modified_tree_are_set_aside(tmp_path, ancestry, monkeypatch):
    monkeypatch.setattr(R, "code_version", lambda: MODIFIED)
    ledger, r = Ledger(tmp_path / "ledger"), recipe(ancestry)
    run(r, ledger)
    assert files(tmp_path / "ledger") == [f"local/dirty/tiny-s0-{r.key}.json"] and ledger.find(r.key) is None


def test_a_recipe_by_path(tmp_path, ancestry):
    r = recipe(ancestry, train=dict(epochs=0))
    assert run(r.save(tmp_path / "r.yaml"), Ledger(tmp_path / "ledger"))["run_info"]["key"] == r.key


def test_running_leaves_the_callers_rng_alone(tmp_path, ancestry):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run(recipe(ancestry, train=dict(epochs=1)), Ledger(tmp_path / "ledger"))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "change, error",
    [
        (dict(method=dict(name="cluster-lerngene")), "did you mean 'cluster-learngene'"),
        (dict(method=dict(name="cluster-learngene", options=dict(epz=1))), "did you mean 'eps'"),
        (dict(data=dict(name="digit")), "did you mean 'digits'"),
        (dict(shape=dict(depth=9)), "depth is 9, wanted 1 to 3"),
        (dict(shape=dict(heads=0)), "heads is 0"),
        (dict(method=LEARNGENE | dict(options=dict(eps=-1.0))), "eps"),
    ],
)
def test_failing_runs_leave_nothing(tmp_path, ancestry, change, error):
    with pytest.raises(ValueError, match=error):
        run(recipe(ancestry, **change), Ledger(tmp_path / "ledger"), save=tmp_path / "model")
    assert not (tmp_path / "ledger").exists() and not (tmp_path / "model").exists() and files(tmp_path / "home") == []


def test_more_classes_than_the_ancestrys_classifier_has(tmp_path):
    ancestry = saved_vit(tmp_path / "five", num_classes=5)
    with pytest.raises(ValueError, match="the number of classes is 5, but digits has 10 classes"):
        run(recipe(ancestry, shape=dict(classifier="ancestry")), Ledger(tmp_path / "ledger"))
    run(recipe(ancestry, train=dict(epochs=0)), Ledger(tmp_path / "ledger"))


def test_a_failed_save_writes_no_record(tmp_path, ancestry):
    (tmp_path / "model").write_text("a file is in the way")
    with pytest.raises(ValueError, match="is a file"):
        run(recipe(ancestry, train=dict(epochs=1)), Ledger(tmp_path / "ledger"), save=tmp_path / "model")
    assert not (tmp_path / "ledger").exists()


# --- interrupted

KILLED = """
import sys; sys.path.insert(0, {here!r})
import learngene as lg, torch
from learngene import running
from learngene.ledger import Ledger
torch.set_num_threads(1)
running.code_version = lambda: {code!r}
lg.run({recipe!r}, Ledger({ledger!r}), on_epoch=lambda e: print(e["epoch"], flush=True))
"""


def test_a_killed_run_resumes(tmp_path, ancestry, home):
    r = recipe(ancestry, method=LEARNGENE, augment=RICH, train=dict(epochs=16, ema=0.9, drop_path=0.2))
    file, ledger = r.save(tmp_path / "r.yaml"), tmp_path / "ledger"
    code = KILLED.format(here=str(HERE), code=R.code_version(), recipe=str(file), ledger=str(ledger))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
    )
    for line in process.stdout:
        if line.strip() == "4":
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL and not ledger.exists()
    (checkpoints,) = (home / "checkpoints").iterdir()
    entries = []
    record = run(r, Ledger(ledger), on_epoch=entries.append)
    assert record["run_info"]["resumed_at"] >= 3 and entries[0]["epoch"] == record["run_info"]["resumed_at"] + 1
    assert not checkpoints.exists()
    shutil.rmtree(home)
    uninterrupted = run(r, Ledger(tmp_path / "uninterrupted"))
    assert uninterrupted["run_info"]["resumed_at"] is None
    assert lasting(record) == lasting(uninterrupted)


def test_an_ancestry_in_timms_own_folder(tmp_path):
    "A folder that `load_ancestry` hands to timm, which is not of our format."
    import timm
    from safetensors.torch import save_file

    folder = tmp_path / "timm"
    folder.mkdir()
    arguments = dict(img_size=16, embed_dim=24, depth=1, num_heads=2, in_chans=1, num_classes=10)
    save_file(timm.create_model("vit_tiny_patch16_224", **arguments).state_dict(), folder / "model.safetensors")
    cfg = dict(num_classes=10, input_size=[1, 16, 16], first_conv="patch_embed.proj", classifier="head")
    config = dict(architecture="vit_tiny_patch16_224", num_classes=10, model_args=arguments, pretrained_cfg=cfg)
    (folder / "config.json").write_text(json.dumps(config))
    r = recipe(folder, data=dict(fraction=0.12, image_size=16), train=dict(epochs=0))
    ledger = Ledger(tmp_path / "ledger")
    assert run(r, ledger) == run(r, ledger)


def interrupt(r, ledger, epoch):
    def stop(entry):
        if entry["epoch"] == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(r, ledger, on_epoch=stop)


def test_checkpoints_of_other_data_are_not_used(tmp_path, ancestry, monkeypatch):
    r = recipe(ancestry, train=dict(epochs=3))
    interrupt(r, Ledger(tmp_path / "a"), 2)
    load = R.load_data
    monkeypatch.setattr(R, "load_data", lambda *a: dataclasses.replace(load(*a), fingerprint="other"))
    assert run(r, Ledger(tmp_path / "a"))["run_info"]["resumed_at"] is None


def test_checkpoints_of_another_ancestry_are_not_used(tmp_path, ancestry):
    "The folder that a recipe names has been written again in the meantime."
    r = recipe(ancestry, train=dict(epochs=3))
    interrupt(r, Ledger(tmp_path / "a"), 2)
    save_vit(vit(seed=1), ancestry)
    record = run(r, Ledger(tmp_path / "a"))
    assert record["meta_info"]["ancestry"] == fingerprint(load_vit(ancestry))
    assert record["meta_info"]["weights"] == run(r, Ledger(tmp_path / "b"), again=True)["meta_info"]["weights"]


def test_checkpoints_of_other_code_are_not_used(tmp_path, ancestry, monkeypatch):
    "A run that modified code began is not resumed as a run of the commit."
    r = recipe(ancestry, train=dict(epochs=3))
    with monkeypatch.context() as m:
        m.setattr(R, "code_version", lambda: MODIFIED)
        interrupt(r, Ledger(tmp_path / "a"), 2)
    record = run(r, Ledger(tmp_path / "a"))
    assert not (record["run_info"]["code"]["clean"] and record["run_info"]["resumed_at"])


# --- many


def test_side_by_side_gives_the_same_records(tmp_path, ancestry):
    "Two processes, started by a script without a main guard, as people write them; and one run after another."
    recipes = [
        recipe(ancestry, seed=s, method=m, augment=RICH)
        for s, m in ((0, LEARNGENE), (1, LEARNGENE), (0, dict(name="from-scratch")))
    ]
    names = [str(r.save(tmp_path / f"{i}.yaml")) for i, r in enumerate([*recipes, recipes[0]])]
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import json
        import learngene as lg
        recipes, lines = [lg.Recipe.load(n) for n in {names!r}], []
        records = lg.run_all(recipes, lg.Ledger({str(tmp_path / "two")!r}), workers=2, log=lines.append)
        print(json.dumps([records, lines]))
    """)
    )
    process = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
    )
    assert process.returncode == 0, process.stderr[-2000:]
    together, lines = json.loads(process.stdout)
    alone = lg.run_all(recipes, Ledger(tmp_path / "one"), 1, log=lambda line: None)
    assert [r["run_info"]["key"] for r in alone] == [r.key for r in recipes]
    assert together[-1] == together[0] and len(list((tmp_path / "two").rglob("*.json"))) == 3
    strip = lambda r: [dict(lasting(r), run_info=None), r["run_info"]["key"]]  # the script's tree may be dirty
    assert [strip(r) for r in together[:-1]] == [strip(r) for r in alone]
    assert "3 of 3 runs have no record yet" in lines[0] and len(lines) == 4 and "of test images" in lines[1]


def test_a_failing_run_does_not_stop_the_others(tmp_path, ancestry):
    good = [recipe(ancestry, seed=s, train=dict(epochs=1)) for s in (0, 1)]
    bad = [recipe(ancestry, name="bad", seed=s, shape=dict(depth=9)) for s in (0, 1)]
    ledger, lines = Ledger(tmp_path / "ledger"), []
    with pytest.raises(RuntimeError, match="runs failed, the first: bad: .*depth is 9"):
        lg.run_all([bad[0], good[0], bad[1], good[1]], ledger, 1, log=lines.append)
    assert all(ledger.find(r.key) for r in good) and sum("failed, ValueError" in line for line in lines) == 2
    assert len(files(tmp_path / "ledger")) == 2


@pytest.mark.parametrize(
    "method, error",
    [
        (dict(name="cluster-lerngene"), "did you mean 'cluster-learngene'"),
        (dict(name="cluster-learngene", options=dict(epz=1.0)), "did you mean 'eps'"),
    ],
)
def test_unknown_methods_and_options_are_refused_before_the_first_run(tmp_path, ancestry, method, error):
    good, bad = recipe(ancestry, train=dict(epochs=1)), recipe(ancestry, name="bad", method=method)
    with pytest.raises(ValueError, match=error):
        lg.run_all([good, bad], Ledger(tmp_path / "ledger"), 1, log=lambda line: None)
    assert not (tmp_path / "ledger").exists()


def test_failures_are_counted_seed_by_seed(tmp_path, ancestry):
    bad = [recipe(ancestry, name="bad", seed=s, shape=dict(depth=9)) for s in (0, 1, 2)]
    with pytest.raises(RuntimeError, match="3 of 3 runs failed"):
        lg.run_all(bad, Ledger(tmp_path / "ledger"), 1, log=lambda line: None)


def test_a_missing_ancestry_does_not_stop_the_others(tmp_path, ancestry):
    good, bad = recipe(ancestry, train=dict(epochs=1)), recipe(tmp_path / "absent", name="bad")
    ledger = Ledger(tmp_path / "ledger")
    with pytest.raises(RuntimeError, match="1 of 2 runs failed, the first: bad"):
        lg.run_all([bad, good], ledger, 1, log=lambda line: None)
    assert ledger.find(good.key)


def test_any_function_may_be_the_log(tmp_path, ancestry):
    lines = []
    lg.run_all([recipe(ancestry, train=dict(epochs=0))], Ledger(tmp_path / "ledger"), 1, log=lines.append)
    assert len(lines) == 2


def test_a_damaged_record_stops_before_anything_runs(tmp_path, ancestry):
    r = recipe(ancestry)
    path = tmp_path / "ledger" / "local" / f"tiny-s0-{r.key}.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(ValueError, match="truncated or not JSON"):
        lg.run_all([r], Ledger(tmp_path / "ledger"), 1, log=lambda line: None)


# --- ancestries that runs train


def teacher(**change):
    return recipe(name="teacher", **({"train": dict(epochs=1)} | change))


def test_an_ancestry_is_made_once_and_kept(tmp_path, home, monkeypatch):
    file = teacher().save(tmp_path / "teacher.yaml")
    first = R.find_ancestry(str(file), on_epoch=False)
    (folder,) = (home / "ancestries").glob("teacher-*")
    assert vit_extra(folder)["record"]["meta_info"]["weights"] == fingerprint(first) == fingerprint(load_vit(folder))
    with monkeypatch.context() as m:
        m.setattr(R, "fit", lambda *a, **k: pytest.fail("trained again"))
        assert fingerprint(R.find_ancestry(str(file))) == fingerprint(first)
        teacher().save(file)
        assert fingerprint(R.find_ancestry(str(file))) == fingerprint(first)
    record = run(teacher(), Ledger(tmp_path / "l"), save=tmp_path / "m")
    assert record["meta_info"]["weights"] == fingerprint(load_vit(tmp_path / "m")) == fingerprint(first)


def test_ancestries_of_an_ancestry_are_trained_first(tmp_path, home):
    "The oldest first, and only those that are missing."
    oldest = teacher().save(tmp_path / "teacher.yaml")
    middle = recipe(oldest, name="middle", train=dict(epochs=1)).save(tmp_path / "middle.yaml")
    record = run(recipe(middle, name="youngest", train=dict(epochs=1)), Ledger(tmp_path / "ledger"))
    configs = [next((home / "ancestries").glob(f"{name}-*/config.json")) for name in ("teacher", "middle")]
    times = [config.stat().st_mtime_ns for config in configs]
    assert times == sorted(times) and record["meta_info"]["ancestry_recipe"] == Recipe.load(middle).key
    shutil.rmtree(next((home / "ancestries").glob("teacher-*")))
    again = run(recipe(middle, name="youngest", train=dict(epochs=1)), Ledger(tmp_path / "again"))
    assert not list((home / "ancestries").glob("teacher-*"))
    assert again["meta_info"]["weights"] == record["meta_info"]["weights"]


@pytest.mark.parametrize("change", ["seed", "recipe", "version", "data"])
def test_an_ancestry_is_made_again_when_what_made_it_changes(tmp_path, home, monkeypatch, change):
    file = teacher().save(tmp_path / "teacher.yaml")
    R.find_ancestry(str(file), on_epoch=False)
    if change == "seed":
        teacher(seed=1).save(file)
    if change == "recipe":
        teacher(train=dict(epochs=1, lr=2e-3)).save(file)
    if change == "version":
        monkeypatch.setattr(R, "code_version", lambda: dict(source="release", version="9.9.9", commit=None, clean=True))
    if change == "data":
        load = R.load_data
        monkeypatch.setattr(R, "load_data", lambda *a: dataclasses.replace(load(*a), fingerprint="0123"))
    R.find_ancestry(str(file), on_epoch=False)
    assert len(list((home / "ancestries").glob("teacher-*"))) == 2


def test_an_ancestry_that_fails_is_not_kept(tmp_path, home):
    file = teacher(train=dict(lr=1e30, warmup_epochs=0)).save(tmp_path / "teacher.yaml")
    with pytest.raises(FloatingPointError):
        R.find_ancestry(str(file), on_epoch=False)
    assert not list((home / "ancestries").glob("teacher-*"))


def test_a_descendant_of_a_recipe(tmp_path, home):
    file = teacher().save(tmp_path / "teacher.yaml")
    ledger, child = Ledger(tmp_path / "ledger"), recipe(file, method=LEARNGENE, train=dict(epochs=1))
    meta = run(child, ledger)["meta_info"]
    assert meta["ancestry"] == fingerprint(R.find_ancestry(str(file)))
    teacher(seed=1).save(file)
    assert (
        run(child, Ledger(tmp_path / "other"))["meta_info"]["ancestry"]
        == fingerprint(R.find_ancestry(str(file)))
        != meta["ancestry"]
    )


def test_a_record_of_another_ancestry_is_not_this_runs(tmp_path, home):
    "The recipe that the ancestry's name stands for has changed since the record was made."
    file = teacher().save(tmp_path / "teacher.yaml")
    ledger, child = Ledger(tmp_path / "ledger"), recipe(file, train=dict(epochs=1))
    run(child, ledger)
    teacher(seed=1).save(file)
    assert run(child, ledger)["meta_info"]["ancestry"] == fingerprint(R.find_ancestry(str(file)))


# --- other classes than the recipe's


def test_a_classifier_of_other_classes(tmp_path):
    "An ancestry of twelve classes would silently train on ten of them."
    twelve = saved_vit(tmp_path / "twelve", num_classes=12)
    message = "with shape.classifier: ancestry, the number of classes is 12, but digits has 10 classes"
    with pytest.raises(ValueError, match=message):
        run(recipe(twelve, shape=dict(classifier="ancestry")), Ledger(tmp_path / "a"))
    assert run(recipe(twelve, train=dict(epochs=0)), Ledger(tmp_path / "a"))["meta_info"]["params"] > 0
    from _ddp_worker import VIT

    with pytest.raises(ValueError, match="model.num_classes is 100, but digits has 10 classes"):
        run(recipe(model=VIT | dict(num_classes=100)), Ledger(tmp_path / "b"))
    assert not (tmp_path / "b").exists()


def test_a_run_on_a_machine_with_little_memory(tmp_path, ancestry, monkeypatch):
    "The record states the micro-batch that was used; the batch is the recipe's."
    from learngene import train as T

    gradients = T.accumulate_gradients

    def little(run, x, y, micro_batch):
        if micro_batch > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return gradients(run, x, y, micro_batch)

    r = recipe(ancestry)
    monkeypatch.setattr(T, "accumulate_gradients", little)
    record = run(r, Ledger(tmp_path / "a"))
    assert record["train_info"]["micro_batch"] == 8 and record["meta_info"]["recipe"]["train"]["micro_batch"] is None


def test_a_failed_run_keeps_nothing_in_memory(tmp_path, ancestry, monkeypatch):
    "Its error is kept without the frames that hold its model and its images."
    import gc
    import weakref

    from learngene.app import queue

    models = []

    def fails(model, *rest, **kw):
        models.append(weakref.ref(model))
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("too large") from None

    monkeypatch.setattr(R, "fit", fails)
    r = recipe(ancestry)
    errors = [
        R._attempt(R.ResolvedRun(r), Ledger(tmp_path / "a")),
        queue.attempt_job(queue.Job("t", {}, r), Ledger(tmp_path / "a"), tmp_path / "home", 1e12, False),
    ]
    gc.collect()
    assert [str(e) for e in errors] == ["too large"] * 2 and len(models) == 2 and all(m() is None for m in models)


def test_no_time_left_to_train(tmp_path, ancestry, home):
    from learngene.checkpoints import CheckpointPolicy, Paused

    with pytest.raises(Paused, match="before it began to train"):
        run(recipe(ancestry), Ledger(tmp_path / "a"), home=tmp_path / "other", policy=CheckpointPolicy(until=0.0))
    assert not (tmp_path / "a").exists() and not (tmp_path / "other").exists()


# --- replay


def test_a_replay_trains_nothing(tmp_path, ancestry, monkeypatch):
    ledger, (one, two) = Ledger(tmp_path / "ledger"), (recipe(ancestry, seed=s, train=dict(epochs=1)) for s in (0, 1))
    record = run(one, ledger)
    monkeypatch.setenv("LEARNGENE_REPLAY", "1")
    before = files(tmp_path)
    assert R.run_all([one], ledger, 1) == [record] and run(one, ledger) == record
    with pytest.raises(R.NotRun, match="1 of 2 runs have records; missing: tiny, seed 1"):
        R.run_all([one, two], ledger, 1)
    for refused in (
        lambda: run(two, ledger),
        lambda: run(one, ledger, again=True),
        lambda: R.find_ancestry("digits/ancestry", home=tmp_path / "h"),
    ):
        with pytest.raises(R.NotRun, match="trains nothing"):
            refused()
    assert files(tmp_path) == before
    monkeypatch.setenv("LEARNGENE_REPLAY", "0")
    assert not R.replay() and len(R.run_all([one, two], ledger, 1, log=print)) == 2


def test_a_method_of_the_callers_script_runs_in_its_own_process(tmp_path, ancestry, monkeypatch):
    from learngene.methods import core

    own = type("Own", (core._methods["from-scratch"],), {"__module__": "__main__"})
    monkeypatch.setitem(core._methods, "own", own)
    workers_used = []

    def each(jobs, do, workers):
        workers_used.append(workers)
        return ((job, do(job)) for job in jobs)

    monkeypatch.setattr(R, "each", each)
    seeds = [recipe(ancestry=str(ancestry), method=dict(name="own"), seed=s, train=dict(epochs=0)) for s in (0, 1)]
    assert len(R.run_all(seeds, Ledger(tmp_path / "l"), 2, log=lambda line: None)) == 2 and workers_used == [1]


def test_a_model_that_timm_cannot_build(tmp_path):
    odd = recipe(
        ancestry=None,
        shape={},
        method=dict(name="from-scratch"),
        model=dict(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=30, depth=1, num_heads=4),
    )
    with pytest.raises(
        ValueError, match="model: timm.s VisionTransformer refuses its arguments .dim should be divisible"
    ):
        run(odd, Ledger(tmp_path / "l"))


def test_changed_images_make_another_run(tmp_path, ancestry, monkeypatch):
    first = lg.load_data(recipe().data, recipe().augment)
    present = [first]  # what a folder of images holds
    monkeypatch.setattr(R, "load_data", lambda spec, augment=None: present[0])
    monkeypatch.setattr(R, "data_fingerprint", lambda spec: present[0].fingerprint)
    r, ledger = recipe(ancestry, data=dict(name="folder:mine"), train=dict(epochs=0)), Ledger(tmp_path / "l")
    one = run(r, ledger)
    assert run(r, ledger) == one
    present[0] = dataclasses.replace(first, fingerprint="0" * 16)
    with pytest.warns(UserWarning, match="images of folder:mine are not those of the records"):
        two = run(r, ledger)
    assert two["meta_info"]["data_fingerprint"] == "0" * 16 and run(r, ledger) == two

    present[0] = dataclasses.replace(first, fingerprint="1" * 16)
    others, taken = [dataclasses.replace(r, seed=s) for s in (1, 2)], []
    monkeypatch.setattr(R, "data_fingerprint", lambda spec: taken.append(spec) or present[0].fingerprint)
    with pytest.warns(UserWarning, match="images of folder:mine are not those of the records"):
        records = R.run_all([r, *others], ledger, workers=1)
    assert {x["meta_info"]["data_fingerprint"] for x in records} == {"1" * 16}
    taken.clear()
    assert R.run_all([r, *others], ledger, workers=1) == records and len(taken) == 1
    two = records[0]

    def gone(*_):
        raise FileNotFoundError

    monkeypatch.setattr(R, "load_data", gone)
    monkeypatch.setattr(R, "data_fingerprint", gone)
    assert run(r, ledger) == two


def test_another_normalisation_than_the_ancestrys_warns(tmp_path, ancestry, monkeypatch):
    model, r, data = lg.load_ancestry(ancestry), recipe(ancestry), lg.load_data(recipe().data)
    model.pretrained_cfg = dict(mean=data.mean, std=data.std)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_normalisation(model, r.ancestry, data)
    model.pretrained_cfg = dict(mean=(0.5,), std=(0.5,))
    with pytest.warns(UserWarning, match=r"normalised by mean \[0.5\] and std \[0.5\], and digits"):
        warn_of_normalisation(model, r.ancestry, data)


def test_a_folder_that_holds_other_files_is_refused_before_training(tmp_path, ancestry, monkeypatch):
    (tmp_path / "mine" / "other").mkdir(parents=True)
    monkeypatch.setattr(R, "fit", None)
    with pytest.raises(ValueError, match="holds other files"):
        run(recipe(ancestry), Ledger(tmp_path / "l"), save=tmp_path / "mine")


# --- resolved once


def test_finding_a_record_loads_no_images_and_no_weights(tmp_path, home, monkeypatch):
    file = teacher().save(tmp_path / "teacher.yaml")
    ledger, child = Ledger(tmp_path / "ledger"), recipe(file, train=dict(epochs=0))
    record = run(child, ledger)
    for name in ("load_data", "load_vit", "load_ancestry"):
        monkeypatch.setattr(R, name, lambda *args: pytest.fail("loaded"))
    assert R.find_record(child, ledger) == record == run(child, ledger)


def test_a_run_looks_up_each_thing_once(tmp_path, home, monkeypatch):
    "Also one whose ancestry is trained first."
    file = teacher(train=dict(epochs=0)).save(tmp_path / "teacher.yaml")
    calls, load_data, find_recipe = [], R.load_data, R.find_recipe
    monkeypatch.setattr(R, "load_data", lambda *args: (calls.append("images"), load_data(*args))[1])
    monkeypatch.setattr(R, "find_recipe", lambda name: (calls.append("ancestry"), find_recipe(name))[1])
    run(recipe(file, train=dict(epochs=0)), Ledger(tmp_path / "ledger"))
    assert sorted(calls) == ["ancestry", "images", "images"], "the images of the run, and of its ancestry's"
