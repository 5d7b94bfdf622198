"""Files written whole or not at all, and folders of safetensors and JSON, in which models are saved."""
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

TENSORS, CONFIG, SCHEMA = "model.safetensors", "config.json", 1


def write_atomic(path, text):
    "Write a file so that a reader or a crash sees the old one or the new one, never a part."
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


@contextmanager
def atomic_folder(path):
    """Yield a folder to fill, which takes the place of `path` when the block ends well.

    After an error it is removed and `path` stays as it was. A symbolic link stays, and the folder it leads to is
    replaced. ValueError when `path` is a file.
    """
    if Path(path).is_file():
        raise ValueError(f"{path} is a file; give the name of a folder.")
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            old = temporary.with_name(f"{temporary.name}.old")
            os.replace(path, old)
            try:
                os.replace(temporary, path)
            except BaseException:
                os.replace(old, path)
                raise
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_folder(path):
    "Raise ValueError unless a model can be saved as folder `path`; ask before training."
    path = Path(path)
    if path.is_file():
        raise ValueError(f"{path} is a file; give the name of a folder.")
    others = sorted(p.name for p in path.iterdir() if p.name not in (TENSORS, CONFIG)) if path.is_dir() else []
    if others:
        raise ValueError(f"{path} holds other files, which saving would remove ({', '.join(others[:3])}); "
                         "give the name of a new folder.")


def save_tensors(path, format, tensors, config):
    "Save a dict of tensors and a JSON-able config as folder `path`, marked as `format`."
    from safetensors.torch import save_file

    path = Path(path)
    check_folder(path)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with atomic_folder(path) as folder:
        save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
        (folder / TENSORS).chmod(0o644)
        text = json.dumps(dict(format=format, schema=SCHEMA, **config), indent=1)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    return path


def load_tensors(path, format):
    "Read what `save_tensors` wrote, as (tensors, config). ValueError for anything else."
    path = Path(path)
    config = read_config(path, format)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = path / TENSORS
    if not file.is_file():
        raise FileNotFoundError(f"{path} has a {CONFIG} but no {TENSORS}; copy the whole folder.")
    try:
        return load_file(file), config
    except (SafetensorError, ValueError) as e:
        raise ValueError(f"{file} is truncated or not a safetensors file ({e}); fetch or save it again.") from None


def read_config(path, format):
    "Read the JSON config of folder `path`. ValueError for another format or schema."
    path = Path(path)
    file = path / CONFIG
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}.")
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no {CONFIG}; it was not saved by learngene.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{file} is truncated or not JSON ({e}); fetch or save it again.") from None
    stated = config.get("format") if isinstance(config, dict) else None
    if stated != format:
        raise ValueError(f"{file} is of format {stated!r}, wanted {format!r}.")
    if config.get("schema") != SCHEMA:
        raise ValueError(f"{file} has schema {config.get('schema')}, this version reads {SCHEMA}: update learngene.")
    return config


def near(name, names):
    "Suggest the closest of `names`, as \" (did you mean 'x'?)\"; \"\" when none is close."
    import difflib

    close = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.5)
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
    "The folder of ancestries and checkpoints: `$LEARNGENE_HOME` or `~/.cache/learngene`."
    return Path(os.environ.get("LEARNGENE_HOME", "~/.cache/learngene")).expanduser()


def is_first_process():
    "Whether this process is alone or rank 0 of its group, which prints and writes."
    return int(os.environ.get("RANK", 0)) == 0
