"""Bringing together results that were made elsewhere: records, ancestries and checkpoints.

What comes from elsewhere may be damaged or crafted. All of it is read and checked first; it is then written beside the
results under names that are made here, and moved to its places by renaming, which is undone when one move fails.
"""
import json
import os
import re
import shutil
import tempfile
import unicodedata
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..checkpoints import checkpoint_paths, read_checkpoint
from ..files import CONFIG, TENSORS, can_name_files, check_writable, explained, is_inside, read_config, shorten
from ..ledger import SEEN, Ledger, check_record, file_name, read_record
from ..provenance import code_version, source_digest
from ..vit import VIT_FORMAT, fingerprint, load_vit

PLURALS = {"record": "records", "ancestry": "ancestries", "checkpoint": "checkpoints",
           "uncounted record": "uncounted records"}
LOCAL_FOLDERS = ("checkpoints", "ancestries", "dirty")
ANCESTRY_NAME = re.compile(r"(?P<name>.+)-[0-9a-f]{12}")
CHECKPOINTS_NAME = re.compile(r"(?P<key>[0-9a-f]{12})-[0-9a-f]{1,12}")


def merge_results(
    origin,  # a results folder from elsewhere: of one profile, its `local`, or with a folder for each profile
    results,  # the results folder here, with a folder for each profile
    profile=None,  # when `origin` is of one profile; None = as its folder is called
) -> str:  # one line that says what was merged
    """Add records, ancestries and checkpoints from another results folder.

    ValueError, and nothing is written, when a run is here with another result, or when anything is damaged or is not
    what its name says. OSError, and nothing is changed, when it cannot be written.
    """
    origin, results = Path(origin), Path(results)
    folders = _profile_folders(origin, profile)
    if not folders:
        raise ValueError(f"{origin} holds no records, ancestries or checkpoints of runs; give a results folder, "
                         "e.g. results/ of another checkout.")
    if any(source.resolve() == (results / name / "local").resolve() for name, source in folders.items()):
        raise ValueError(f"{origin} is this results folder itself; give another one.")
    check_writable(results / "merged")
    changes, counts = _Changes(results), {}
    for name, source in folders.items():
        for kind in _ProfileMerge(source, results / name, changes).plan():
            counts[kind] = counts.get(kind, 0) + 1
    changes.make()
    merged = ", ".join(f"{n} {PLURALS.get(kind, kind) if n > 1 else kind}" for kind, n in counts.items())
    return f"merged into {results}: {merged or 'nothing'}"


# --- where things are in the other folder


def _profile_folders(origin, profile):
    "Profile -> its local folder in `origin`."
    if not origin.is_dir():
        raise FileNotFoundError(f"there is no folder {origin}.")
    local = _local_folder(origin)
    if local:
        name = profile or (origin.parent if origin.name == "local" else origin).resolve().name
        folders = {name: local}
    else:
        children = [child for child in sorted(origin.iterdir()) if (child / "local").is_dir()]
        folders = {child.name: child / "local" for child in children if _local_folder(child)}
    for name, folder in folders.items():
        if not can_name_files(name):
            raise ValueError(f"{folder} is of a profile called {shorten(name)}, which no folder can be called; "
                             "give --profile.")
    return folders


def _local_folder(folder):
    "Find the local folder of one profile's results; None for any other folder."
    local = folder / "local" if (folder / "local").is_dir() else folder
    return local if list(local.glob("*.json")) or any((local / name).is_dir() for name in LOCAL_FOLDERS) else None


def _own_files(folder, pattern="*"):
    "Yield files and folders that are not hidden, in order. ValueError for a link or a device."
    for path in [folder, *sorted(folder.glob(pattern))]:
        if path.is_symlink() or path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is a link or a device, which may lead anywhere; copy what it leads to, or remove "
                             "it. Nothing was merged.")
        if path != folder and not path.name.startswith("."):
            yield path


# --- what is to be merged


class _ProfileMerge:
    "Decide what of one profile is new."

    def __init__(self, source, target, changes):
        self.source, self.target, self.changes = source, target, changes

    def plan(self):
        "Yield a word for each thing, whose change is then planned."
        ledger, finished = Ledger(self.target), set()
        for path in [*_own_files(self.source, "*.json"), *_own_files(self.source / "dirty", "*.json")]:
            record = _counted_if_same_code(read_record(path))
            finished.add(record["run_info"]["key"])
            yield self.record(path, record, ledger)
        for folder in filter(Path.is_dir, _own_files(self.source / "ancestries")):
            yield from self.ancestries_ledger(folder) if folder.name == "ledger" else [self.ancestry(folder)]
        for folder in filter(Path.is_dir, _own_files(self.source / "checkpoints")):
            yield from self.checkpoints(folder, finished, ledger)

    def record(self, path, record, ledger):
        "Plan to add a record, unless it is here."
        counted, key = record["run_info"]["code"]["clean"], record["run_info"]["key"]
        store = ledger.folder / "local" / ("" if counted else "dirty")
        here = ledger.find(key) if counted else _uncounted(store, key)
        here = here or self.changes.records.get((store, key))
        if here is None:
            self.changes.records[store, key] = record
            self.changes.write(store / file_name(record), json.dumps(record, indent=1).encode() + b"\n")
            if path.with_suffix(SEEN).is_file():
                self.changes.write(store / Path(file_name(record)).with_suffix(SEEN), _read_seen(path))
            return "record" if counted else "uncounted record"
        if _to_compare(here, record) != _to_compare(record, record):
            raise ValueError(f"{path} and {file_name(here)} in {ledger.folder} are different records of the same "
                             "run; keep one of them, and merge again. Nothing was merged.")
        return "already here"

    def ancestries_ledger(self, folder):
        "Plan to add to the ledger of the ancestries."
        ledger, kinds = Ledger(self.target / "local" / "ancestries" / "ledger"), []
        for path in [*_own_files(folder / "local", "*.json"), *_own_files(folder / "local" / "dirty", "*.json")]:
            record = read_record(path)
            key = record["run_info"]["key"]
            here = ledger.find(key) or _uncounted(ledger.folder / "local" / "dirty", key)
            kinds.append("already here" if here else self.record(path, record, ledger))
        new = set(kinds) - {"already here"}
        return ["ledger of the ancestries"] if new else ["already here"] if kinds else []

    def ancestry(self, folder):
        "Plan to copy an ancestry, which must be the model of the record inside."
        match = ANCESTRY_NAME.fullmatch(folder.name)
        if not match or not can_name_files(match["name"]):
            raise ValueError(f"{folder.parent} holds {shorten(folder.name)}, no name of a trained ancestry "
                             "(NAME-DIGEST); remove it and merge again. Nothing was merged.")
        list(_own_files(folder))  # raises for links
        extra = read_config(folder, VIT_FORMAT).get("extra")
        record = check_record(extra.get("record") if isinstance(extra, dict) else None, folder / CONFIG)
        weights = fingerprint(load_vit(folder))
        if record["run_info"]["name"] != match["name"] or record["meta_info"].get("weights") != weights:
            raise ValueError(f"{folder} is not the model of the record in its {CONFIG} (name "
                             f"{shorten(record['run_info']['name'])}, weights {weights}); remove it and merge again. "
                             "Nothing was merged.")
        here = self.target / "local" / "ancestries" / folder.name
        if here.is_dir():
            if (folder / TENSORS).read_bytes() != (here / TENSORS).read_bytes():
                raise ValueError(f"{folder} and {here} are different models of the same ancestry; keep one of them, "
                                 "and merge again. Nothing was merged.")
            return "already here"
        self.changes.copy([folder / name for name in (CONFIG, TENSORS)], here)
        return "ancestry"

    def checkpoints(self, folder, finished, ledger):
        "Plan to copy a run's checkpoints that are further on than those here."
        match = CHECKPOINTS_NAME.fullmatch(folder.name)
        if not match:
            raise ValueError(f"{folder.parent} holds {shorten(folder.name)}, no name of a run's checkpoints "
                             "(KEY-DIGEST); remove it and merge again. Nothing was merged.")
        key, here = match["key"], self.target / "local" / "checkpoints" / folder.name
        paths = [path for path in _own_files(folder, "*.pt") if path in checkpoint_paths(folder)]
        is_further = max((path.stem for path in paths), default="") > max(
            (path.stem for path in checkpoint_paths(here)), default="")
        if not is_further or key in finished or ledger.find(key) is not None:
            return
        whole = [path for path in paths if _is_whole(path, key)]
        if whole:
            self.changes.copy(whole, here)
            yield "checkpoint"


def _uncounted(store, key):
    "Find the uncounted record of a key in a store; None without one."
    for path in sorted(store.glob(f"*-{key}.json")):
        with suppress(FileNotFoundError):
            return read_record(path)


def _counted_if_same_code(record):
    "Give a record that this code made, in a copy without git, the commit that is clean here."
    code, own_code = record["run_info"]["code"], code_version()
    same = not code.get("commit") and record["run_info"].get("source") == source_digest()
    if code.get("clean") or not own_code["clean"] or not same:
        return record
    return record | dict(run_info=record["run_info"] | dict(code=own_code | dict(source="copy")))


def _to_compare(record, merged):
    "Leave out a record's code where the merged one was given this code: it may have moved on."
    if merged["run_info"]["code"].get("source") != "copy":
        return record
    return record | dict(run_info={name: value for name, value in record["run_info"].items() if name != "code"})


def _read_seen(path):
    "Read the file beside a record. ValueError when it is a link or no safetensors file."
    file = path.with_suffix(SEEN)
    try:
        if file.is_symlink():
            raise ValueError("a link")
        with safe_open(file, "pt"):
            return file.read_bytes()
    except (SafetensorError, ValueError, OSError) as e:
        raise ValueError(f"{file} is no safetensors file ({e}); remove it and merge again. "
                         "Nothing was merged.") from None


def _is_whole(path, key):
    "Whether a checkpoint is whole, and of this key."
    try:
        return read_checkpoint(path)["key"] == key
    except Exception:  # as `load_checkpoint` skips a damaged one
        return False


# --- the changes, all or none


class _Changes:
    "Files and folders to be written inside a results folder."

    def __init__(self, results):
        self.results, self.contents, self.records = results, {}, {}

    def write(self, target, data):
        "Plan a file."
        self._plan(target, data)

    def copy(self, sources, target):
        "Plan a folder with copies of files, in place of one that is here."
        self._plan(target, sources)

    def _plan(self, target, content):
        "Note a change. ValueError for a place outside of the results, or a confusing name."
        if isinstance(content, bytes) and os.path.lexists(target):
            raise ValueError(f"{target} exists, and is not of the ledger; move it away. Nothing was merged.")
        if not is_inside(target, self.results):
            raise ValueError(f"{target} leads outside of {self.results}, by a link; merge into a folder without "
                             "links. Nothing was merged.")
        names = [path.name for path in (target.parent.iterdir() if target.parent.is_dir() else [])]
        names += [planned.name for planned in self.contents if planned.parent == target.parent]
        alike = [name for name in names if _folded(name) == _folded(target.name) and name != target.name]
        if alike or target in self.contents:
            raise ValueError(f"{target} and {(alike or [target.name])[0]} differ in nothing but the case or form of "
                             "letters; keep one of them, and merge again. Nothing was merged.")
        self.contents[target] = content

    def make(self):
        "Write everything beside its place, then rename; undo all when one thing fails."
        if not self.contents:
            return
        with explained(self.results):
            self.results.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(dir=self.results, prefix=".merging."))
        undo = []
        try:
            with explained(self.results):
                staged = {target: _stage(content, staging / str(i))
                          for i, (target, content) in enumerate(self.contents.items())}
                for i, (target, new) in enumerate(staged.items()):
                    undo += _make_parents(target.parent)
                    if target.is_dir():
                        os.replace(target, staging / f"{i}.old")
                        undo.append((os.replace, staging / f"{i}.old", target))
                    os.replace(new, target)
                    undo.append((os.replace, target, new))
        except BaseException:
            for do, *paths in reversed(undo):
                with suppress(OSError):
                    do(*paths)
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _stage(content, place):
    "Write a file, or a folder of copies, where it waits."
    if isinstance(content, list):
        place.mkdir()
        for source in content:
            shutil.copyfile(source, place / source.name)
    else:
        with open(place, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return place


def _make_parents(folder):
    "Make a folder and those above it; how to undo that."
    missing = [parent for parent in [folder, *folder.parents] if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
    return [(os.rmdir, parent) for parent in reversed(missing)]


def _folded(name):
    "Normalise a name as systems do that ignore case and Unicode form."
    return unicodedata.normalize("NFC", name).casefold()
