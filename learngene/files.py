"""Files written whole or not at all, the test that one can be written, and folders of safetensors and JSON."""
import json
import math
import os
import re
import reprlib
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

TENSORS, CONFIG, SCHEMA = "model.safetensors", "config.json", 1
PROBE = 2**16  # bytes that `check_writable` writes
CHECKPOINT_NAME = re.compile(r"epoch-\d+(-step-\d+)?\.pt")
LONGEST_PATH = 4000  # bytes; Linux allows 4096, of which temporary names take some


def write_atomic(path, content):
    """Write a file so that a reader or a crash sees the old one or the new one, never a part.

    `content` is text or bytes. OSError names the file when it cannot be written.
    """
    path, data = Path(path), content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new.")
            with os.fdopen(handle, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    except BaseException:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise
    return path


@contextmanager
def explained(path):
    "Turn an OSError of a block that writes `path` into one that names it and the remedy."
    try:
        yield
    except OSError as e:
        raise OSError(f"{path} cannot be written ({e.strerror or e}); make room or give another place.") from None


@contextmanager
def atomic_folder(path):
    """Yield a folder to fill, which takes the place of `path` when the block ends well.

    After an error it is removed and `path` stays as it was. A symbolic link stays, and the folder it leads to is
    replaced. ValueError when `path` is a file, OSError when it cannot be written.
    """
    if os.path.isfile(path):
        raise ValueError(f"{path} is a file; give the name of a folder.")
    name, path = path, Path(path).resolve()
    with explained(name):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".new."))
    try:
        yield temporary
        with explained(name):
            temporary.chmod(0o755)
            _put_in_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _put_in_place(temporary, path):
    "Rename a folder to `path`; what was there is removed, or back when that fails."
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        os.replace(path, old)
    except FileNotFoundError:  # a new folder, or another process removed it
        os.replace(temporary, path)
        return
    try:
        os.replace(temporary, path)
    except BaseException:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_writable(path, megabytes=0.0, is_folder=False):
    """Raise unless a file, or a folder, can be written at `path`: ask before long work.

    It writes a little beside the nearest folder that exists, and removes it. ValueError for a name that cannot be one;
    OSError where the machine refuses, or has fewer free megabytes than that.
    """
    check_path(path)
    target = os.path.realpath(path) if is_folder else os.path.abspath(path)
    if os.path.exists(target) and not (os.path.isdir if is_folder else os.path.isfile)(target):
        kind = "a folder" if os.path.isdir(target) else "a file" if os.path.isfile(target) else "a device"
        raise ValueError(f"{path} is {kind}; give the name of a {'folder' if is_folder else 'file'}.")
    if is_folder and os.path.islink(target):
        raise ValueError(f"{path} is a symbolic link that leads to itself; give another place.")
    parent = _nearest(target)
    if not os.path.isdir(parent):
        raise ValueError(f"{path} cannot be written: {parent} is no folder; give another place.")
    with explained(path):
        free = shutil.disk_usage(parent).free / 2**20
        handle, probe = tempfile.mkstemp(dir=parent, prefix=".test.")
        try:
            if os.write(handle, bytes(PROBE)) < PROBE:
                free = 0
            os.fsync(handle)
        finally:
            os.close(handle)
            Path(probe).unlink(missing_ok=True)
    if free < max(megabytes, PROBE / 2**20):
        raise OSError(f"{path} needs {max(megabytes, 0.1):.1f} MB, and {parent} has {free:.1f} MB left; make room or "
                      "give another place.")


def is_inside(path, folder):
    "Whether a path leads into a folder, also where it has links."
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def can_name_files(text):
    "Whether a text can begin a file's name: one name, neither hidden nor long."
    forbidden = any(c in "/\\" or not c.isprintable() for c in text)
    return bool(text) and not forbidden and text[0] != "." and len(text.encode()) <= 150


def _can_be_a_name(text):
    "Whether the system can write a text as a path at all."
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _nearest(target):
    "Find the nearest existing folder above a path."
    parent = os.path.dirname(target)
    while not os.path.lexists(parent) and parent != os.path.dirname(parent):
        parent = os.path.dirname(parent)
    return parent


def check_path(path):
    "Raise ValueError for a path that nothing can have, such as too long a name."
    text = os.fspath(path)
    if not text or not _can_be_a_name(text):
        raise ValueError(f"{shorten(text)} is no name of a file; give another one.")
    target = os.path.abspath(text)
    parent = _nearest(target)
    limit = os.pathconf(parent, "PC_NAME_MAX") if hasattr(os, "pathconf") and os.path.isdir(parent) else 255
    parts = Path(target).relative_to(parent).parts
    sizes = [len(os.fsencode(part)) for part in parts]
    if max(sizes, default=0) > limit or len(os.fsencode(target)) > LONGEST_PATH:
        longest = max(parts, key=len)
        raise ValueError(f"{shorten(str(path))} is too long a name ({shorten(longest)} takes {max(sizes)} bytes, at "
                         f"most {limit} are possible); give a shorter one.")


def check_folder(path, megabytes=0.0, also=()):
    """Raise unless a model can be saved as folder `path`; ask before training.

    Files named in `also` may lie there, since they are replaced.
    """
    check_writable(path, megabytes, is_folder=True)
    path = Path(path)
    others = sorted(p.name for p in path.iterdir() if p.name not in (TENSORS, CONFIG, *also)) if path.is_dir() else []
    if others:
        raise ValueError(f"{path} holds other files, which saving would remove ({', '.join(others[:3])}); "
                         "give the name of a new folder.")


def save_tensors(path, format, tensors, config, texts=None):
    """Save a dict of tensors and a JSON-able config as folder `path`, marked as `format`.

    `texts` maps names of further files to their content; a file there whose content is None is left out.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    text = json.dumps(dict(format=format, schema=SCHEMA, **config), indent=1)
    check_folder(path, sum(t.numel() * t.element_size() for t in tensors.values()) / 2**20, also=texts or ())
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with atomic_folder(path) as folder, explained(path):
        try:
            save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
        except SafetensorError as e:  # a full disk is one, too
            raise OSError(str(e)) from None
        (folder / TENSORS).chmod(0o644)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        for name, content in (texts or {}).items():
            if content is not None:
                (folder / name).write_text(content, encoding="utf-8")
    return path


def load_tensors(path, format, allow_nonfinite=False, dtype=None):
    """Read what `save_tensors` wrote, as (tensors, config); convert tensors to `dtype`.

    `dtype` may be a function of the tensors, which chooses their type.
    ValueError for anything else, and for NaN and infinite weights unless they are allowed.
    """
    path = Path(path)
    config = read_config(path, format)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = path / TENSORS
    if not file.is_file():
        raise FileNotFoundError(f"{path} has a {CONFIG} but no {TENSORS}; copy the whole folder.")
    check_no_pointer(file)
    try:
        tensors = load_file(file)
    except (SafetensorError, ValueError, OSError, RuntimeError) as e:
        raise ValueError(f"{file} is truncated or not a safetensors file ({in_one_line(e)}); fetch or save it "
                         "again.") from None
    dtype = dtype(tensors) if callable(dtype) else dtype
    tensors = {name: t.to(dtype) if dtype and t.is_floating_point() else t for name, t in tensors.items()}
    if not allow_nonfinite:
        check_finite(tensors, file)
    return tensors, config


def check_finite(tensors, source):
    "Raise ValueError, which names source and tensor, for NaN and infinite weights."
    for name, t in tensors.items():
        if t.is_floating_point() and not (t if t.itemsize > 1 else t.float()).isfinite().all():
            raise ValueError(f"{source}: {name} holds values that are NaN or infinite; fetch or train it again, or "
                             "load it with allow_nonfinite=True.")


def check_types(tensors, wanted, source):
    "Raise ValueError, which names source and tensor, for whole numbers in place of weights."
    for name, t in tensors.items():
        if name in wanted and t.is_floating_point() != wanted[name].is_floating_point():
            raise ValueError(f"{source}: {name} is of type {t.dtype}, wanted {wanted[name].dtype}; fetch or save it "
                             "again.")


def explain_pointer(file):
    "Say that Git LFS left a pointer in place of a file; None where it did not."
    with open(file, "rb") as f:
        if f.read(100).lstrip().startswith(b"version https://git-lfs"):
            return f"{file} is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`."


def check_no_pointer(file):
    "Raise ValueError when Git LFS left a pointer in place of a file."
    if text := explain_pointer(file):
        raise ValueError(text)


def read_config(path, format):
    "Read the JSON config of folder `path`. ValueError for another format or schema."
    path = Path(path)
    file = path / CONFIG
    if path.is_file():
        raise ValueError(f"{path} is a file; give the folder that holds {CONFIG} and {TENSORS}.")
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}.")
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no {CONFIG}; it was not saved by learngene.")
    config = read_json(file, "fetch or save it again", finite=False)  # a report may hold NaN
    stated = config.get("format") if isinstance(config, dict) else None
    if stated != format:
        hint = {"learngene": " Load it with Learngene.load.", "learngene-vit": " Load it with load_ancestry."}
        raise ValueError(f"{file} is of format {shorten(stated)}, wanted {format!r}; give another folder."
                         f"{hint.get(str(stated), '')}")
    if config.get("schema") != SCHEMA or isinstance(config["schema"], bool):
        raise ValueError(f"{file} has schema {shorten(config.get('schema'))}, this version reads {SCHEMA}: "
                         "update learngene.")
    return config


def read_json(path, remedy, finite=True):
    """Read a JSON file strictly.

    ValueError names the file and the remedy when it is truncated, has a key twice, or numbers that are not finite.
    """
    strict = dict(parse_constant=_refuse_constant, parse_float=_finite_float) if finite else {}
    path = Path(path)
    check_no_pointer(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique, **strict)
    except (ValueError, RecursionError) as e:
        reason = "nested too deeply" if isinstance(e, RecursionError) else e
        raise ValueError(f"{path} is truncated or not JSON ({reason}); {remedy}.") from None


def _unique(pairs):
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {shorten(twice)} is given twice")
    return values


def _refuse_constant(text):
    raise ValueError(f"{text} is no number of JSON")


def _finite_float(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shorten(text)} is not finite")
    return value


_shorten = reprlib.Repr()
_shorten.maxlevel, _shorten.maxstring, _shorten.maxother, _shorten.maxlong = 3, 80, 80, 40


def shorten(value, quote=True):
    "Write a value of a file in at most 160 characters, for an error; quoted as in Python."
    try:
        text = value if isinstance(value, str) and not quote else _shorten.repr(value)
    except ValueError:  # Python refuses to write very long integers
        return f"a number of {value.bit_length()} bits"
    return text if len(text) <= 160 else f"{text[:78]}...{text[-78:]}"


def in_one_line(error):
    "Write an error's kind and words in one short line, without signs that cannot be printed."
    words = "".join(c if c.isprintable() else " " for c in f"{type(error).__name__}: {error}")
    return shorten(" ".join(words.split()), quote=False)


def near(name, names):
    "Suggest the closest of `names`, as \" (did you mean 'x'?)\"; \"\" when none is close."
    import difflib

    close = difflib.get_close_matches(str(name)[:200], [str(n) for n in names], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def project_root(start=None):
    "Find learngene's checkout above `start`, the current folder or this file; else None."
    for origin in filter(None, (start, Path.cwd(), Path(__file__))):
        for folder in (Path(origin).resolve(), *Path(origin).resolve().parents):
            ini = folder / "settings.ini"
            if ini.is_file() and "lib_name = learngene" in ini.read_text(encoding="utf-8"):
                return folder
    return None


def cache_folder():
    "Return the folder of models and checkpoints: `$LEARNGENE_HOME` or `~/.cache/learngene`."
    return Path(os.environ.get("LEARNGENE_HOME", "~/.cache/learngene")).expanduser()


def is_first_process():
    "Whether this process is alone or rank 0 of its group, which prints and writes."
    return int(os.environ.get("RANK", 0)) == 0
