"The ledger: which code, which store, whole files or none."

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import learngene as lg

import pytest
from records import make_record

from learngene import provenance
from learngene.files import atomic_folder, write_atomic
from learngene.ledger import SEEN, Ledger, check_record, commit, file_name, read_record

ROOT = Path(__file__).parents[1]


def record(of="run", accuracy=0.5, clean=True, name="demo", seed=0):
    return make_record(of, accuracy, clean, name, seed)


KEY, OTHER = (record(of)["run_info"]["key"] for of in ("run", "other"))


def accuracy(run_record):
    return run_record["train_info"]["test_accuracy"]


# --- which code


def git(folder, *args):
    return subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", *args],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def version_seen_from(folder):
    code = "import json, learngene.provenance as p; print(json.dumps([p.code_version(), p.learngene.__file__]))"
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | dict(PYTHONPATH=str(folder))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    version, file = json.loads(done.stdout)
    assert Path(file).parent == folder / "learngene"
    return version


@pytest.fixture
def clone(tmp_path):
    "A checkout of its own, made of the working tree, with one commit."
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path / "clone"
    for part in ("learngene", "settings.ini", ".gitignore", "README.md"):
        source = ROOT / part
        shutil.copytree(
            source, folder / part, ignore=shutil.ignore_patterns("__pycache__")
        ) if source.is_dir() else shutil.copy(source, folder / part)
    for part in ("results/digits", "nbs/paper", "tests"):
        (folder / part).mkdir(parents=True)
    (folder / "nbs/paper/table2.ipynb").write_text("{}")
    (folder / "nbs/00_vit.ipynb").write_text("{}")
    (folder / "results/README.md").write_text("results")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "one")
    return folder


def append(path, text="\n# changed\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + text)


def test_which_changes_make_a_tree_dirty(clone):
    head = git(clone, "rev-parse", "HEAD").strip()
    assert version_seen_from(clone) == dict(source="checkout", version=lg.__version__, commit=head, clean=True)
    for harmless in (
        "results/README.md",
        "results/digits/local/new.json",
        "results/new.csv",
        "nbs/paper/table2.ipynb",
        "nbs/paper/Untitled.ipynb",
        "my-recipe.yaml",
        "notes.md",
        "my-descendant/model.safetensors",
        "mine/sweep.yaml",
    ):
        append(clone / harmless)
    assert version_seen_from(clone)["clean"] is True
    for harmful in (
        "learngene/vit.py",
        "learngene/new.py",
        "learngene/recipes/digits/table2.yaml",
        "nbs/00_vit.ipynb",
        "nbs/resultsx.py",
        "learngene/results/x.py",
        "settings.ini",
        "setup.py",
        "README.md",
    ):
        append(clone / harmful)
        version = version_seen_from(clone)
        assert (version["clean"], version["commit"]) == (False, head), harmful
        git(clone, "checkout", "-q", "--", "learngene", "nbs/00_vit.ipynb", "settings.ini", "README.md")
        git(clone, "clean", "-fdq", "learngene", "nbs/resultsx.py", "setup.py")
    assert version_seen_from(clone)["clean"] is True
    append(clone / "learngene/vit.py")
    git(clone, "add", "learngene")
    assert version_seen_from(clone)["clean"] is False, "staged is not committed"
    git(clone, "commit", "-q", "-m", "two")
    now = version_seen_from(clone)
    assert now["clean"] is True and now["commit"] != head
    (clone / "learngene/app/bench.py").unlink()
    assert version_seen_from(clone)["clean"] is False, "a deleted file"


def test_a_checkout_without_git_counts_for_nothing(clone):
    shutil.rmtree(clone / ".git")
    assert version_seen_from(clone) == dict(source="checkout", version=lg.__version__, commit=None, clean=False)


def test_an_installed_package_is_a_release(clone, tmp_path):
    for site in (tmp_path / "site", clone / ".venv" / "lib" / "site-packages"):
        shutil.copytree(clone / "learngene", site / "learngene")
        append(clone / "learngene/vit.py")  # of no concern to the copy
        assert version_seen_from(site) == dict(source="release", version=lg.__version__, commit=None, clean=True)


def test_the_sources_digest_is_of_every_file_and_its_name(tmp_path):
    digests = []
    for name, text in (("methods/a.py", "1"), ("methods/a.py", "2"), ("methods/b.py", "1"), ("b.py", "1")):
        file = tmp_path / str(len(digests)) / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
        digests.append(provenance.source_digest(tmp_path / str(len(digests))))
    shutil.copytree(tmp_path / "0", tmp_path / "elsewhere")
    (tmp_path / "elsewhere/methods/__pycache__").mkdir()
    (tmp_path / "elsewhere/methods/__pycache__/a.pyc").write_text("x")
    assert len(set(digests)) == 4 and provenance.source_digest(tmp_path / "elsewhere") == digests[0]


def test_versions_are_those_in_use():
    import timm
    import torch

    v = provenance.versions()
    assert (
        v["torch"] in (torch.__version__, torch.__version__.split("+")[0])
        and v["timm"] == timm.__version__
        and v["python"] == sys.version.split()[0]
    )
    assert {"accelerate", "numpy", "torchvision"} <= set(v)


# --- stores


def test_stores(tmp_path):
    ledger = Ledger(tmp_path)
    dirty = ledger.add(record(accuracy=0.1, clean=False))
    assert (
        dirty == tmp_path / f"local/dirty/demo-s0-{KEY}.json"
        and ledger.find(KEY) is None
        and list(ledger) == []
    )
    path = ledger.add(record(accuracy=0.2))
    assert path == tmp_path / f"local/demo-s0-{KEY}.json" and accuracy(ledger.find(KEY)) == 0.2
    assert ledger.find("0123456789") is None and ledger.find(OTHER) is None
    write_atomic(tmp_path / "records" / file_name(record()), json.dumps(record(accuracy=0.3)))
    write_atomic(
        tmp_path / "records" / file_name(record("other")), json.dumps(record("other", accuracy=0.4))
    )
    assert accuracy(ledger.find(KEY)) == 0.2, "yours before the project's"
    assert sorted(map(accuracy, ledger)) == [0.2, 0.4]
    fresh = Ledger(tmp_path, committed=False)
    assert fresh.find(OTHER) is None and sorted(map(accuracy, fresh)) == [0.2]
    project = Ledger(tmp_path, local=False)
    assert sorted(map(accuracy, project)) == [0.3, 0.4]
    path.unlink()
    assert accuracy(ledger.find(KEY)) == 0.3


def test_looking_writes_nothing(tmp_path):
    ledger = Ledger(tmp_path / "none")
    assert ledger.find(KEY) is None and list(ledger) == [] and not (tmp_path / "none").exists()


def test_adding_again_replaces(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.add(record(accuracy=0.1))
    ledger.add(record(accuracy=0.2))
    assert accuracy(ledger.find(KEY)) == 0.2 and len(list((tmp_path / "local").glob("*"))) == 1


def test_adding_under_another_name_replaces(tmp_path):
    "The name does not enter the key: the newest record of a key is the one that counts."
    ledger = Ledger(tmp_path)
    ledger.add(record(accuracy=0.1, name="a"))
    ledger.add(record(accuracy=0.2, name="b"))
    assert accuracy(ledger.find(KEY)) == 0.2


def test_commit_moves_clean_records_in_place_of_older_ones(tmp_path):
    ledger = Ledger(tmp_path)
    write_atomic(tmp_path / f"records/old_name-s0-{KEY}.json", json.dumps(record(accuracy=0.3, name="old_name")))
    write_atomic(
        tmp_path / f"records/other-s0-{OTHER}.json", json.dumps(record("other", accuracy=0.4, name="other"))
    )
    ledger.add(record(accuracy=0.2))
    ledger.add(record("third", clean=False))
    moved = commit(ledger)
    assert moved == [tmp_path / f"records/demo-s0-{KEY}.json"]
    assert sorted(p.name for p in (tmp_path / "records").iterdir()) == [
        f"demo-s0-{KEY}.json",
        f"other-s0-{OTHER}.json",
    ]
    assert [p.name for p in (tmp_path / "local").iterdir()] == ["dirty"] and len(
        list((tmp_path / "local/dirty").iterdir())
    ) == 1
    assert accuracy(Ledger(tmp_path).find(KEY)) == 0.2
    assert commit(ledger) == []


def test_commit_stops_at_a_damaged_record_and_loses_nothing(tmp_path):
    ledger = Ledger(tmp_path)
    write_atomic(tmp_path / f"records/demo-s0-{KEY}.json", json.dumps(record(accuracy=0.3)))
    path = ledger.add(record(accuracy=0.2))
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match="truncated"):
        commit(ledger)
    assert accuracy(Ledger(tmp_path, local=False).find(KEY)) == 0.3


# --- damage


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "truncated or not JSON"),
        ('{"schema": 1, "run_inf', "truncated or not JSON"),
        ("\x00\xff", "truncated or not JSON"),
        ('{"schema": 2, "run_info": {}, "train_info": {}, "meta_info": {}}', "schema 2, this version reads 1"),
        ("{}", "schema None"),
        ("[]", "schema 'list'"),
        ("3", "schema 'int'"),
        ('{"schema": "1"}', "schema '1'"),
        ('{"schema": 1, "run_info": {}}', "is no complete record: 'run_info.name' is missing"),
        ('{"schema": 1, "run_info": [], "train_info": {}, "meta_info": {}}', "run_info is [], wanted keys: name, key"),
    ],
)
def test_damaged_and_foreign_records(tmp_path, text, says):
    path = tmp_path / "local" / f"demo-s0-{KEY}.json"
    write_atomic(path, text)
    for read in (
        lambda: Ledger(tmp_path).find(KEY),
        lambda: list(Ledger(tmp_path)),
        lambda: read_record(path),
    ):
        with pytest.raises(ValueError) as e:
            read()
        assert says in str(e.value) and str(path) in str(e.value)


@pytest.mark.parametrize(
    "part, change, says",
    [
        ("run_info", dict(seed="first"), "run_info.seed is 'first', wanted"),
        ("run_info", dict(code=dict(clean="perhaps")), "run_info.code.clean is 'perhaps', wanted"),
        ("run_info", dict(code={}), "'run_info.code.clean' is missing"),
        ("run_info", dict(key=None), "run_info.key is None, wanted str"),
        ("train_info", dict(test_accuracy="high"), "train_info.test_accuracy is 'high', wanted"),
        ("train_info", dict(history=3), "train_info.history is 3, wanted list"),
        ("meta_info", dict(data_sizes=dict(test="many")), "meta_info.data_sizes['test'] is 'many', wanted"),
    ],
)
def test_a_wrong_value_is_named(part, change, says):
    wrong = record()
    wrong[part] |= change
    with pytest.raises(ValueError) as e:
        check_record(wrong, "x.json")
    assert str(e.value).startswith("x.json is no complete record: ") and says in str(e.value)
    assert "\n" not in str(e.value)


def test_keys_of_other_versions_are_legal(tmp_path):
    other = dict(record(), extra=1)
    for part in ("run_info", "train_info", "meta_info"):
        other[part]["of_another_version"] = [1, 2]
    path = Ledger(tmp_path).add(other)
    assert read_record(path) == other and check_record(other) is other


def test_every_committed_record_is_valid():
    records = [read_record(path) for path in sorted((ROOT / "results").glob("*/records/*.json"))]
    assert len(records) > 900 and all(r["run_info"]["code"]["clean"] for r in records)


def test_a_binary_file(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\x80\x81\xff")
    with pytest.raises(ValueError, match="x.json"):
        read_record(path)


def test_only_records_can_be_added(tmp_path):
    for bad in ({}, dict(schema=1), dict(record(), schema=0), dict(record(), train_info=None)):
        with pytest.raises(ValueError, match="the record"):
            Ledger(tmp_path).add(bad)
    assert not list(tmp_path.iterdir())


def test_a_record_that_is_no_json_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        Ledger(tmp_path).add(dict(record(), extra={1, 2}))
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch, where):
    ledger = Ledger(tmp_path)
    path = ledger.add(record(accuracy=0.1))
    old = path.read_bytes()
    monkeypatch.setattr(os, where, lambda *a: (_ for _ in ()).throw(OSError("no space left")))
    for of in ("run", "other"):
        with pytest.raises(OSError):
            ledger.add(record(of, accuracy=0.9))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path] and path.read_bytes() == old


def test_a_killed_writer_leaves_no_partial_record(tmp_path):
    code = f"""
import os, signal
from learngene.ledger import Ledger
os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
Ledger({str(tmp_path)!r}).add({record()!r})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert (
        not list(tmp_path.rglob("*.json"))
        and Ledger(tmp_path).find(KEY) is None
        and list(Ledger(tmp_path)) == []
    )


def test_folders_are_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with atomic_folder(target) as f:
        (f / "a").write_text("1")
    with pytest.raises(RuntimeError):
        with atomic_folder(target) as f:
            (f / "a").write_text("2")
            raise RuntimeError("crash")
    assert (target / "a").read_text() == "1" and [p.name for p in tmp_path.iterdir()] == ["model"]
    with atomic_folder(target) as f:
        (f / "b").write_text("3")
    assert [p.name for p in target.iterdir()] == ["b"] and [p.name for p in tmp_path.iterdir()] == ["model"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        with atomic_folder(tmp_path / "file"):
            pass


# --- what was looked at lies beside the record


def test_the_file_beside_a_record_moves_and_goes_with_it(tmp_path):
    ledger = Ledger(tmp_path)
    path = ledger.add(record(accuracy=0.1))
    assert ledger.places(record(accuracy=0.1)) == [path] and ledger.places(record(accuracy=0.2)) == []
    path.with_suffix(SEEN).write_text("of the first run")
    path = ledger.add(record(accuracy=0.2))
    assert not path.with_suffix(SEEN).exists(), "it was of the record before"
    path.with_suffix(SEEN).write_text("of the second")
    commit(ledger)
    assert sorted(p.name for p in (tmp_path / "records").iterdir()) == [
        path.name,
        path.with_suffix(SEEN).name,
    ] and not list((tmp_path / "local").iterdir())
    assert ledger.places(record(accuracy=0.2)) == [tmp_path / "records" / path.name] and len(list(ledger)) == 1
    ledger.add(record(accuracy=0.3))
    commit(ledger)
    assert [p.name for p in (tmp_path / "records").iterdir()] == [path.name]


# --- records are not believed


def laid_over(record, path, value):
    "The record with another value at a dotted path; without it when the value is `None`."
    *parents, last = path.split(".")
    inner = record
    for part in parents:
        inner = inner[int(part) if part.isdigit() else part]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return record


EDITED = [
    ("run_info.key", "0123456789ab", "but the recipe inside says"),
    ("run_info.key", "*", "run_info.key is '*', wanted text like"),
    ("run_info.key", "../../../x", "run_info.key is '../../../x', wanted text like"),
    ("run_info.name", "better", "run_info.name is 'better', but the recipe inside says 'demo'"),
    ("run_info.name", "../../x", "run_info.name is '../../x', wanted one that can be a file's"),
    ("run_info.name", "/etc/x", "wanted one that can be a file's"),
    ("run_info.name", "..\\x", "wanted one that can be a file's"),
    ("run_info.name", "x" * 200, "wanted one that can be a file's"),
    ("run_info.seed", 1, "run_info.seed is 1, but the recipe inside says 0"),
    ("run_info.seed", -1, "run_info.seed is -1, wanted at least 0"),
    ("run_info.seed", False, "run_info.seed is False, wanted int"),
    ("run_info.seed", 10**400, "run_info.seed is 1000"),
    ("run_info.code.clean", 1, "run_info.code.clean is 1, wanted bool"),
    ("run_info.code.clean", "true", "run_info.code.clean is 'true', wanted bool"),
    ("run_info.versions", dict(torch=2), "run_info.versions['torch'] is 2, wanted str"),
    ("meta_info.recipe.seed", 1, "but the recipe inside says"),
    ("meta_info.recipe.of", "another", "but the recipe inside says"),
    ("meta_info.recipe", None, "'meta_info.recipe' is missing"),
    ("meta_info.recipe", [], "meta_info.recipe is [], wanted dict"),
    ("meta_info.params", None, "'meta_info.params' is missing"),
    ("meta_info.params", 1.5, "meta_info.params is 1.5, wanted int"),
    ("meta_info.flops", "1", "meta_info.flops is '1', wanted int"),
    ("meta_info.heads", [4, -1], "meta_info.heads[1] is -1, wanted at least 0"),
    ("meta_info.data_sizes", dict(test=-1), "meta_info.data_sizes['test'] is -1"),
    ("train_info.test_accuracy", None, "'train_info.test_accuracy' is missing"),
    ("train_info.test_accuracy", 1.01, "train_info.test_accuracy is 1.01, wanted at most 1"),
    ("train_info.test_accuracy", -0.1, "wanted at least 0"),
    ("train_info.test_accuracy", True, "train_info.test_accuracy is True, wanted float"),
    ("train_info.test_accuracy", "0.5", "train_info.test_accuracy is '0.5', wanted float"),
    ("train_info.seconds", -1, "train_info.seconds is -1, wanted at least 0"),
    ("train_info.history", [3], "train_info.history[0] is 3"),
    ("train_info.history", [dict(epoch=0, val_accuracy=7)], "train_info.history"),
    ("train_info.history", [dict(lr=1)], "train_info.history"),
    ("schema", True, "has schema True"),
]


@pytest.mark.parametrize("path, value, says", EDITED, ids=[f"{path} {str(value)[:20]}" for path, value, _ in EDITED])
def test_an_edited_record_is_named(tmp_path, path, value, says):
    edited = laid_over(record(), path, value)
    file = write_atomic(tmp_path / "local" / f"demo-s0-{KEY}.json", json.dumps(edited))
    for read in (lambda: read_record(file), lambda: Ledger(tmp_path).find(KEY), lambda: list(Ledger(tmp_path)),
                 lambda: commit(Ledger(tmp_path))):
        with pytest.raises(ValueError) as e:
            read()
        assert says in str(e.value) and str(file) in str(e.value) and "\n" not in str(e.value)
        assert len(str(e.value)) < 600 + len(str(file))
    with pytest.raises(ValueError):
        Ledger(tmp_path / "new").add(edited)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "9" * 5000])
def test_numbers_that_no_record_has(tmp_path, text):
    whole = json.dumps(record()).replace('"seconds": 1.0', f'"seconds": {text}')
    assert text in whole
    file = write_atomic(tmp_path / "local" / f"demo-s0-{KEY}.json", whole)
    with pytest.raises(ValueError, match=str(file)):
        Ledger(tmp_path).find(KEY)
    with pytest.raises(ValueError, match="train_info.seconds is (nan|inf)"):
        Ledger(tmp_path).add(laid_over(record(), "train_info.seconds", float("nan" if text == "NaN" else "inf")))


def test_a_record_lies_under_its_own_name_where_it_belongs(tmp_path):
    file = write_atomic(tmp_path / "records" / f"better-s0-{KEY}.json", json.dumps(record()))
    with pytest.raises(ValueError, match=f"better-s0-{KEY}.json holds the record demo-s0-{KEY}.json; give it this"):
        Ledger(tmp_path).find(KEY)
    file.unlink()
    write_atomic(tmp_path / "records" / f"demo-s0-{OTHER}.json", json.dumps(record()))
    with pytest.raises(ValueError, match=f"demo-s0-{OTHER}.json holds the record demo-s0-{KEY}.json"):
        Ledger(tmp_path).find(OTHER)
    for store in ("local", "records"):
        write_atomic(tmp_path / store / store / f"demo-s0-{KEY}.json", json.dumps(record(clean=False)))
        with pytest.raises(ValueError, match="clean is False, so it does not count; move it to local/dirty"):
            Ledger(tmp_path / store).find(KEY)


def test_other_files_of_a_store_are_left_alone(tmp_path):
    "Replacing a record removes nothing but records of its key and what lay beside them."
    ledger = Ledger(tmp_path)
    old = ledger.add(record(name="old"))
    mine = [old.with_name(name) for name in (f"notes-{KEY}.txt", f"notes-{KEY}.json", f"a-s0-{KEY}.txt", "b-s0-x.json")]
    for path in [*mine, old.with_suffix(SEEN)]:
        path.write_text("mine")
    new = ledger.add(record())
    assert not old.exists() and not old.with_suffix(SEEN).exists() and all(path.exists() for path in mine)
    assert new.name == f"demo-s0-{KEY}.json"


def test_a_record_that_another_process_moves(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    local = ledger.add(record(accuracy=0.1))
    write_atomic(tmp_path / "records" / local.name, json.dumps(record(accuracy=0.2)))
    listed = ledger._paths(f"*-{KEY}.json")
    monkeypatch.setattr(Ledger, "_paths", lambda self, pattern: listed)
    local.unlink()
    assert accuracy(ledger.find(KEY)) == 0.2 and len(list(ledger)) == 1
    (tmp_path / "records" / local.name).unlink()
    assert ledger.find(KEY) is None and list(ledger) == []


@pytest.mark.parametrize("place", ["/proc/led", "/dev/null/led", "{tmp}/file"])
def test_a_ledger_that_cannot_be_written_is_known_before_training(tmp_path, place):
    (tmp_path / "file").write_text("x")
    recipe = lg.Recipe.from_dict(dict(name="r", ancestry="vit_nano_p2_8.digits", train=dict(epochs=0)))
    with pytest.raises((ValueError, OSError), match="give another place"):
        Ledger(place.format(tmp=tmp_path)).check(recipe)
    Ledger(tmp_path / "new").check(recipe)
    assert not (tmp_path / "new").exists()
