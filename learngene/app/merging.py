"""Bringing together results that were made elsewhere: records, ancestries and checkpoints."""
import shutil
from functools import partial
from pathlib import Path

from ..checkpoints import checkpoint_paths
from ..files import atomic_folder, write_atomic
from ..ledger import SEEN, Ledger, file_name, read_record
from ..provenance import code_version, source_digest

PLURALS = {"record": "records", "ancestry": "ancestries", "checkpoint": "checkpoints",
           "uncounted record": "uncounted records"}
LOCAL_FOLDERS = ("checkpoints", "ancestries", "dirty")


def merge_results(
    origin,  # a results folder from elsewhere: of one profile, its `local`, or with a folder for each profile
    results,  # the results folder here, with a folder for each profile
    profile=None,  # when `origin` is of one profile; None = as its folder is called
) -> str:  # one line that says what was merged
    """Add records, ancestries and checkpoints from another results folder.

    ValueError, and nothing is written, when a run is here with another result, or a record is damaged."""
    origin, results = Path(origin), Path(results)
    folders = _profile_folders(origin, profile)
    if not folders:
        raise ValueError(f"{origin} holds no records, ancestries or checkpoints of runs; give a results folder, "
                         "e.g. results/ of another checkout.")
    if any(source.resolve() == (results / name / "local").resolve() for name, source in folders.items()):
        raise ValueError(f"{origin} is this results folder itself; give another one.")
    steps = [step for name, source in folders.items() for step in _merge_steps(source, results / name)]
    counts = {}
    for kind, do in steps:
        if do:
            do()
        counts[kind] = counts.get(kind, 0) + 1
    merged = ", ".join(f"{n} {PLURALS.get(kind, kind) if n > 1 else kind}" for kind, n in counts.items())
    return f"merged into {results}: {merged or 'nothing'}"


def _profile_folders(origin, profile):
    "Profile -> its local folder in `origin`."
    if not origin.is_dir():
        raise FileNotFoundError(f"there is no folder {origin}.")
    local = _local_folder(origin)
    if local:
        return {profile or (origin.parent if origin.name == "local" else origin).resolve().name: local}
    children = [child for child in sorted(origin.iterdir()) if (child / "local").is_dir()]
    return {child.name: child / "local" for child in children if _local_folder(child)}


def _local_folder(folder):
    "The local folder of one profile's results, or None where the folder is not one profile's."
    local = folder / "local" if (folder / "local").is_dir() else folder
    return local if list(local.glob("*.json")) or any((local / name).is_dir() for name in LOCAL_FOLDERS) else None


def _merge_steps(source, target):
    "Steps of one profile, as (kind, function or None); nothing is written yet."
    ledger, steps, finished = Ledger(target), [], set()
    for path in [*sorted(source.glob("*.json")), *sorted((source / "dirty").glob("*.json"))]:
        record = _counted_if_same_code(read_record(path))
        finished.add(record["run_info"]["key"])
        steps.append(_record_step(path, record, ledger))
    for folder in _visible_folders(source / "ancestries"):
        steps.append(_ancestry_step(folder, target / "local" / "ancestries" / folder.name))
    for folder in _visible_folders(source / "checkpoints"):
        key, own_folder = folder.name.split("-")[0], target / "local" / "checkpoints" / folder.name
        is_further = _newest_checkpoint(folder) > _newest_checkpoint(own_folder)
        if is_further and key not in finished and ledger.find(key) is None:
            steps.append(("checkpoint", partial(_copy_folder, folder, own_folder)))
    return steps


def _counted_if_same_code(record):
    "Give a record of a copy without git, made by this very code, the commit that is clean here."
    code, own_code = record["run_info"]["code"], code_version()
    same = not code.get("commit") and record["run_info"].get("source") == source_digest()
    if code.get("clean") or not own_code["clean"] or not same:
        return record
    return record | dict(run_info=record["run_info"] | dict(code=own_code | dict(source="copy")))


def _record_step(path, record, ledger):
    "The step that adds a record, unless it is here."
    counted, key = record["run_info"]["code"]["clean"], record["run_info"]["key"]
    if counted:
        own_record = ledger.find(key)
    else:
        paths = sorted((ledger.folder / "local" / "dirty").glob(f"*-{key}.json"))
        own_record = read_record(paths[0]) if paths else None
    if own_record is None:
        return "record" if counted else "uncounted record", partial(_add_record, path, record, ledger)
    if _to_compare(own_record, record) != _to_compare(record, record):
        raise ValueError(f"{path} and {file_name(own_record)} in {ledger.folder} are different records of the same "
                         "run; keep one of them, and merge again. Nothing was merged.")
    return "already here", None


def _add_record(path, record, ledger):
    "Add a record that was read from `path`, with the tensors kept beside it."
    own_path = ledger.add(record)
    if path.with_suffix(SEEN).is_file():
        shutil.copyfile(path.with_suffix(SEEN), own_path.with_suffix(SEEN))


def _to_compare(record, merged):
    "A record without its code where the merged one was given this code, which may have moved on since."
    if merged["run_info"]["code"].get("source") != "copy":
        return record
    return record | dict(run_info={name: value for name, value in record["run_info"].items() if name != "code"})


def _ancestry_step(folder, own_folder):
    "The step that copies an ancestry, or adds to the ledger of the ancestries."
    if folder.name == "ledger":
        new = [path for path in sorted(folder.rglob("*.json")) if not (own_folder / path.relative_to(folder)).exists()]
        return "ledger of the ancestries" if new else "already here", partial(_copy_files, new, folder, own_folder)
    if not own_folder.is_dir():
        return "ancestry", partial(_copy_folder, folder, own_folder)
    if (folder / "model.safetensors").read_bytes() != (own_folder / "model.safetensors").read_bytes():
        raise ValueError(f"{folder} and {own_folder} are different models of the same ancestry; keep one of them, "
                         "and merge again. Nothing was merged.")
    return "already here", None


def _visible_folders(folder):
    return sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))


def _newest_checkpoint(folder):
    "Name of the checkpoint furthest on; empty without one."
    return max((path.stem for path in checkpoint_paths(folder)), default="")


def _copy_files(paths, source, target):
    for path in paths:
        write_atomic(target / path.relative_to(source), path.read_text(encoding="utf-8"))


def _copy_folder(source, target):
    with atomic_folder(target) as new:
        shutil.copytree(source, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
