"Merging results that may be crafted: names made here, inside the results, all or nothing."

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from _ddp_worker import vit
from records import make_record
from safetensors.torch import save_file

from learngene.app import merging
from learngene.checkpoints import save_checkpoint
from learngene.files import write_atomic
from learngene.ledger import SEEN, Ledger, file_name
from learngene.vit import fingerprint, save_vit

MODEL = vit()
DIGEST = "abcdef123456"


def put_ancestry(local, name="teacher", **change):
    record = make_record("teacher", name="teacher", meta_info=dict(weights=fingerprint(MODEL)) | change)
    return save_vit(MODEL, local / "ancestries" / f"{name}-{DIGEST}", record=record)


@pytest.fixture
def origin(tmp_path):
    "Results of one profile with one of each: records, a file beside one, an ancestry, checkpoints."
    local, ledger = tmp_path / "origin/mini/local", Ledger(tmp_path / "origin/mini")
    path = ledger.add(make_record("a"))
    save_file(dict(x=torch.ones(2)), path.with_suffix(SEEN))
    ledger.add(make_record("b", clean=False))
    Ledger(put_ancestry(local).parent / "ledger").add(make_record("teacher", name="teacher"))
    key = make_record("c")["run_info"]["key"]
    save_checkpoint(local / "checkpoints" / f"{key}-{DIGEST}", dict(key=key, epoch=1))
    return tmp_path / "origin"


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def refuses(origin, tmp_path, says):
    "Merging raises, names what is wrong, and leaves everything as it was."
    target, outside = tmp_path / "target", {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises((ValueError, OSError), match=says) as e:
        merging.merge_results(origin, target)
    assert "\n" not in str(e.value)
    assert outside == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    return str(e.value)


def test_one_of_each_is_merged_once(origin, tmp_path):
    line = merging.merge_results(origin, tmp_path / "target")
    assert line.endswith("1 record, 1 uncounted record, 1 ledger of the ancestries, 1 ancestry, 1 checkpoint")
    assert files(tmp_path / "target") == files(origin)
    assert "4 already here, 1 checkpoint" not in merging.merge_results(origin, tmp_path / "target")
    assert files(tmp_path / "target") == files(origin)


def edited(origin, change):
    "Edit the counted record by hand, name of its file included."
    (path,) = (origin / "mini/local").glob("*.json")
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return path


@pytest.mark.parametrize(
    "name", ["/tmp/escaped", "../../escaped", "..\\escaped", "C:\\x", "", ".hidden", "a\0b", "x" * 300]
)
def test_a_name_that_leads_elsewhere(origin, tmp_path, name):
    def rename(record):
        record["run_info"]["name"] = record["meta_info"]["recipe"]["name"] = name

    path = edited(origin, rename)
    assert str(path) in refuses(origin, tmp_path, "run_info.name is .*, wanted one that can be a file's")


@pytest.mark.parametrize("key", ["*", "../x", "0123456789ab", "[0-9]", "ABCDEF123456", "", 7, None])
def test_a_crafted_key(origin, tmp_path, key):
    mine = write_atomic(tmp_path / "target/mini/local/mine-s0-0123456789ab.json", json.dumps(make_record("mine")))
    path = edited(origin, lambda record: record["run_info"].update(key=key))
    assert str(path) in refuses(origin, tmp_path, "run_info.key is ") and mine.exists()


def test_two_records_of_one_run_in_one_folder(origin, tmp_path):
    local = origin / "mini/local"
    for name in ("other", "DEMO"):
        path = local / file_name(make_record("a", accuracy=0.9, name=name))
        path.write_text(json.dumps(make_record("a", accuracy=0.9, name=name)))
        refuses(origin, tmp_path, "different records of the same run")
        path.unlink()


def test_names_that_differ_in_case_or_form_alone(origin, tmp_path):
    "On some systems the second replaces the first."
    shutil.copytree(origin / f"mini/local/ancestries/teacher-{DIGEST}", tmp_path / "copy")
    here = tmp_path / "target/mini/local/ancestries" / f"TEACHER-{DIGEST}"
    shutil.copytree(tmp_path / "copy", here)
    refuses(origin, tmp_path, f"teacher-{DIGEST} and TEACHER-{DIGEST} differ in nothing but the case")


@pytest.mark.parametrize("name", ["teacher", f"a\\x-{DIGEST}", "teacher-XYZ", f"teacher-{DIGEST}\n", f"a\nb-{DIGEST}"])
def test_a_folder_that_is_no_ancestrys(origin, tmp_path, name):
    folder = origin / "mini/local/ancestries"
    (folder / f"teacher-{DIGEST}").rename(folder / name)
    refuses(origin, tmp_path, "no name of a trained ancestry")


@pytest.mark.parametrize("change, says", [
    (lambda f: (f / "model.safetensors").write_bytes(b"x"), "not a safetensors file"),
    (lambda f: (f / "config.json").write_text("{}"), "is of format None"),
    (lambda f: save_vit(vit(1), f, record=make_record("teacher", name="teacher")), "is not the model of the record"),
    (lambda f: save_vit(MODEL, f), "has schema 'NoneType'"),
    (lambda f: f.rename(f.with_name(f"other-{DIGEST}")), "is not the model of the record"),
    (lambda f: (f / "config.json").rename(f / "c") and (f / "config.json").symlink_to("c"), "is a link"),
], ids=["weights", "config", "another model", "no record", "another name", "link"])  # fmt: skip
def test_an_ancestry_that_is_not_what_it_says(origin, tmp_path, change, says):
    change(origin / f"mini/local/ancestries/teacher-{DIGEST}")
    refuses(origin, tmp_path, says)


def test_links_are_not_followed(origin, tmp_path):
    secret = write_atomic(tmp_path / "secret", json.dumps(make_record("secret")))
    local = origin / "mini/local"
    (record,), (key_folder,) = local.glob("*.json"), (local / "checkpoints").iterdir()
    for place in (local / f"demo-s0-{DIGEST}.json", local / "ancestries" / f"x-{DIGEST}", key_folder / "epoch-00009.pt",
                  local / "dirty" / "x.json", local / "checkpoints" / "x"):  # fmt: skip
        place.symlink_to(secret)
        refuses(origin, tmp_path, f"{place} is a link")
        place.unlink()
    record.with_suffix(SEEN).unlink()
    record.with_suffix(SEEN).symlink_to(secret)
    refuses(origin, tmp_path, "is no safetensors file .a link")
    record.with_suffix(SEEN).unlink()
    os.mkfifo(local / "x.json")
    refuses(origin, tmp_path, "x.json is a link or a device")


@pytest.mark.parametrize("link", ["mini", "mini/local", "mini/local/ancestries"])
def test_nothing_is_written_outside_through_a_link(origin, tmp_path, link):
    (tmp_path / "outside").mkdir()
    place = tmp_path / "target" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "outside")
    refuses(origin, tmp_path, "leads outside of .*target, by a link")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_foreign_file_is_not_replaced(origin, tmp_path):
    name = file_name(make_record("a"))
    place = (tmp_path / "target/mini/local" / name).with_suffix(SEEN)
    write_atomic(place, "mine")
    refuses(origin, tmp_path, "exists, and is not of the ledger; move it away")
    assert place.read_text() == "mine"


def test_damaged_checkpoints_are_left_out(origin, tmp_path):
    (folder,) = (origin / "mini/local/checkpoints").iterdir()
    (folder / "epoch-00009.pt").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    merging.merge_results(origin, tmp_path / "target")
    assert [p.name for p in (tmp_path / "target/mini/local/checkpoints").glob("*/*")] == ["epoch-00001.pt"]


@pytest.mark.parametrize("profile", ["../x", "/tmp/x", "a/b", "..", ".x"])
def test_a_profile_is_one_folder(origin, tmp_path, profile):
    with pytest.raises(ValueError, match="no folder can be called; give --profile"):
        merging.merge_results(origin / "mini", tmp_path / "target", profile)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("nth", [0, 1, 3, 5])
def test_a_disk_that_fills_midway_changes_nothing(origin, tmp_path, monkeypatch, function, nth):
    target = tmp_path / "target"
    key = make_record("c")["run_info"]["key"]
    save_checkpoint(target / "mini/local/checkpoints" / f"{key}-{DIGEST}", dict(key=key, epoch=0))
    before, calls, real = files(target), [], getattr(os, function)
    folders = sorted(p for p in target.rglob("*") if p.is_dir())

    def fill(*args):
        calls.append(args)
        if len(calls) == nth + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(merging.os, function, fill)
    try:
        merging.merge_results(origin, target)
    except OSError as e:
        assert "No space left" in str(e) and "make room" in str(e)
        assert files(target) == before and sorted(p for p in target.rglob("*") if p.is_dir()) == folders
    else:
        assert nth >= 5 and len(calls) <= nth, "it had no more to write"
