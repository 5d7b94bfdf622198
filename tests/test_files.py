"Where files go, and how they are read: whole or not at all, with errors that name file, key and remedy."

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from learngene import files
from learngene.files import atomic_folder, check_folder, check_writable, read_json, shorten, write_atomic


def raiser(error):
    def do(*args, **kwargs):
        raise error

    return do


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("place", ["new", "a/b/c", "ü é", "x" * 255])
def test_a_place_that_can_be_written(tmp_path, place, is_folder):
    check_writable(tmp_path / place, is_folder=is_folder)
    assert list(tmp_path.iterdir()) == [], "a test leaves nothing behind"


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize(
    "place, says",
    [
        ("x" * 256, "too long a name"),
        ("a/" + "é" * 128 + "/b", "takes 256 bytes"),
        ("/".join(["x" * 200] * 25), "too long a name"),
        ("file/model", "file is no folder"),
        ("file/a/b/model", "file is no folder"),
        ("/dev/null/model", "/dev/null is no folder"),
        ("/dev/null", "is a device"),
        ("/proc/model", "cannot be written"),
        ("a\0b", "no name of a file"),
        ("\udc80\ud800", "no name of a file"),
        ("loop/x", "no folder"),
    ],
)
def test_a_place_that_cannot_be_written(tmp_path, place, says, is_folder):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises((ValueError, OSError), match=says) as e:
        check_writable(f"{tmp_path}/{place}" if not place.startswith("/") else place, is_folder=is_folder)
    assert "give" in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < 500


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path):
    (tmp_path / "file").write_text("x")
    for check, place, says in (
        (check_folder, tmp_path / "file", "is a file; give the name of a folder"),
        (check_writable, tmp_path, "is a folder; give the name of a file"),
        (check_folder, tmp_path, r"holds other files, which saving would remove \(file\)"),
    ):
        with pytest.raises(ValueError, match=says):
            check(place)


@pytest.mark.parametrize(
    "owner, name, effect",
    [
        ("os", "write", raiser(FULL)),
        ("os", "write", lambda *a: 7),
        ("os", "fsync", raiser(FULL)),
        ("tempfile", "mkstemp", raiser(OSError(errno.EROFS, "Read-only file system"))),
        ("tempfile", "mkstemp", raiser(PermissionError(errno.EACCES, "Permission denied"))),
        ("shutil", "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0)),
    ],
)
def test_a_full_or_read_only_disk(tmp_path, monkeypatch, owner, name, effect):
    monkeypatch.setattr(getattr(files, owner), name, effect)
    with pytest.raises(OSError, match=f"{tmp_path}.*model.* make room or give another place"):
        check_folder(tmp_path / "a/model")
    assert list(tmp_path.iterdir()) == []


def test_the_megabytes_that_are_needed(tmp_path):
    with pytest.raises(OSError, match=r"needs 1000000000.0 MB, and .* has [\d.]+ MB left"):
        check_writable(tmp_path / "x", megabytes=1e9)


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_an_error_names_the_file_that_could_not_be_written(tmp_path, monkeypatch, where):
    monkeypatch.setattr(files.os, where, raiser(FULL))
    with pytest.raises(OSError, match="table.csv cannot be written .No space left"):
        write_atomic(tmp_path / "table.csv", "x")
    assert list(tmp_path.iterdir()) == []


def test_text_and_bytes(tmp_path):
    for content in ("ü", b"\x00\xff", "x" * 10**6):
        path = write_atomic(tmp_path / ("n" * 250), content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)


def test_a_folder_that_is_removed_in_between(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    with atomic_folder(target) as new:
        (new / "a").write_text("1")
        target.rmdir()
    assert (target / "a").read_text() == "1" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "text, says",
    [
        (b'{"a": 1, "a": 2}', "key 'a' is given twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": [-Infinity]}', "-Infinity is no number"),
        (b'{"a": 1e999}', "'1e999' is not finite"),
        (b'{"a": ' + b"9" * 5000 + b"}", "limit"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "can't decode"),
        ('\ufeff{"a": 1}'.encode(), "BOM"),
        (b"", "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    ],
)
def test_json_is_read_strictly(tmp_path, text, says):
    file = tmp_path / "x.json"
    file.write_bytes(text)
    with pytest.raises(ValueError, match=says) as e:
        read_json(file, "fetch it again")
    assert str(file) in str(e.value) and len(str(e.value)) < 500


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, 10**5000, -(10**5000), list(range(10**5)), {i: {j: "x" * 99 for j in range(99)} for i in range(99)}],
    ids=lambda value: type(value).__name__,
)
def test_long_values_are_shortened(value):
    assert 0 < len(shorten(value)) <= 160


def test_values_that_contain_themselves_are_shortened():
    value = []
    value.append(value)
    assert "..." in shorten(value) and shorten("a b") == "'a b'" and shorten("a b", quote=False) == "a b"


def test_json_as_python_writes_it(tmp_path):
    value = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    assert read_json(write_atomic(Path(tmp_path) / "x.json", json.dumps(value)), "") == value
    assert os.stat(tmp_path / "x.json").st_mode & 0o777 == 0o644
