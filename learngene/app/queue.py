"""What is left of a profile, in order of value; doing it until the time is up; and merging what was done elsewhere."""
import math
import shutil
import statistics
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from .. import methods, running
from ..checkpoints import CheckpointPolicy, Paused
from ..files import atomic_folder, is_first_process, read_config, write_atomic
from ..ancestry import shipped
from ..parallel import each, without_frames
from ..processes import broadcast_flag
from ..ledger import SEEN, Ledger, file_name, read_record
from ..provenance import code_version, source_digest
from ..recipe import Recipe, Sweep, find_recipe, recipe_files
from ..vit import VIT_FORMAT


@dataclass(frozen=True)
class Job:
    "One run of the queue."
    table: str  # where it is shown, or "ancestry"
    labels: dict  # of the cell
    recipe: Recipe

    def __str__(self):
        labels = ", ".join(f"{k} {v}" for k, v in self.labels.items())
        return f"{self.table}: {labels}"


# --- what there is to do

# what says most about the method first; tables that are not named here follow, in their own order
VALUE = ("start", "table2", "figure5", "table8", "table4", "table5", "table7", "table3", "figure3", "table1", "fidelity")


def plan_jobs(
    profile: str,  # folder of recipes
    tables: dict,  # table -> names of its sweeps in the profile, an empty list for one without runs
    whole=True,  # also the profile's own ancestries that no table names
):  # (Jobs, the most valuable first; a line for each table)
    "Ancestries first, then the first seed of every cell of every table, in the order of VALUE, then the next seeds. Each run once, where it is first shown."
    found, lines = [], []
    for table, sweeps in sorted(tables.items(), key=lambda kv: VALUE.index(kv[0]) if kv[0] in VALUE else len(VALUE)):
        cells = []
        for sweep in sweeps:
            try:
                cells += Sweep.load(find_recipe(f"{profile}/{sweep}")).cells()
            except FileNotFoundError:
                lines.append(f"{table}: profile {profile} has no sweep {sweep!r}, so no runs")
        if cells or not sweeps:
            lines.append(f"{table}: {len(cells)} runs" if sweeps else f"{table}: no runs of its own")
        turn = {}  # how many seeds of a cell came before
        for labels, recipe in cells:
            cell = str({k: v for k, v in labels.items() if k != "seed"})
            turn[cell] = turn.get(cell, -1) + 1
            found.append((turn[cell], Job(table, labels, recipe)))
    jobs = [job for _, job in sorted(found, key=lambda pair: pair[0])]
    methods.check_methods(job.recipe.method for job in jobs)
    wanted = [path for path in _own_ancestries(profile) if whole] + [job.recipe.ancestry for job in jobs]
    once = {}
    for job in [*_ancestries(wanted), *jobs]:
        once.setdefault(job.recipe.key, job)
    return list(once.values()), lines


def sweeps_of(profile) -> dict:  # name -> name
    "All sweeps of a profile: what there is to do where the paper notebooks are missing."
    return {f.stem: f.stem for f in recipe_files(profile) if "vary:" in f.read_text(encoding="utf-8")}


def _own_ancestries(profile):
    "The profile's recipes of models from random weights, unless the model comes with the library; the narrowest first."
    sweeps = sweeps_of(profile)
    made = {str(f): Recipe.load(f) for f in recipe_files(profile) if f.stem not in sweeps}
    own = {name: r.model.get("embed_dim", math.inf) for name, r in made.items() if r.model and r.name not in shipped()}
    return sorted(own, key=own.get)


def _ancestries(names):
    "A Job for each ancestry that is made by a recipe, its own ancestry before it."
    jobs = {}

    def add(name):
        try:
            recipe = Recipe.load(find_recipe(name))
        except FileNotFoundError:
            return  # it comes ready
        if recipe.key not in jobs:
            if recipe.ancestry:
                add(recipe.ancestry)
            jobs[recipe.key] = Job("ancestry", dict(name=recipe.name, seed=recipe.seed), recipe)

    for name in dict.fromkeys(n for n in names if n):
        add(name)
    return list(jobs.values())


def find_done(
    job: Job,
    ledger,  # where to look
    source=None,  # from `source_digest`: also records of this code that do not count
):  # the record, or None
    "The record of a job: a counted one, or one of the given code in a tree that is not clean."
    record = running.find_record(job.recipe, ledger)
    if record is None and ledger.local and source:
        for path in sorted((ledger.folder / "local" / "dirty").glob(f"*-{job.recipe.key}.json")):
            mine = read_record(path)
            if mine["run_info"].get("source") == source:
                record = running.find_record(job.recipe, _One(mine))
    return record


class _One:
    "A ledger of one record."
    def __init__(self, record):
        self.record = record

    def find(self, key):
        return self.record


def _weights_are_here(job, home):
    """Tell whether there is a trained model of this ancestry, by its folder's name.

    `running.ensure_trained` looks more closely.
    """
    return any(list(folder.glob(f"{job.recipe.name}-*")) for folder in running.ancestry_folders(home) if folder.is_dir())


def missing(
    jobs,  # from `plan_jobs`
    ledger,  # where records are looked for
    home,  # folder with ancestries and checkpoints
) -> list:  # the Jobs to do
    "What has no record yet; and ancestries whose weights are needed and not here."
    source = None if code_version()["clean"] else source_digest()  # where nothing counts, nothing is run twice all the same
    left = [job for job in jobs if find_done(job, ledger, source) is None]
    keys = {job.recipe.key for job in left}
    needed = {job.recipe.key for job in _ancestries(job.recipe.ancestry for job in left)}
    return [job for job in jobs if job.recipe.key in keys or job.table == "ancestry" and job.recipe.key in needed and not _weights_are_here(job, home)]


# --- how long it takes


def here() -> str:
    "The device that runs would use, by the name that records give it."
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def estimate(
    recipe: Recipe,
    records,  # what is known
    device: str,  # from `here`
):  # seconds of training, or None when nothing is known
    "From the record of the same run on such a device, else from the images a second of the same architecture there."
    if recipe.train.epochs == 0:
        return 0.0
    records = [r for r in records if r["run_info"].get("device", device) == device]
    for r in records:
        if r["run_info"]["key"] == recipe.key:
            return r["train_info"].get("seconds")
    speeds = [r["train_info"]["images_per_second"] for r in records if r["train_info"].get("images_per_second") and _work(r["meta_info"].get("recipe")) == _work(recipe.to_dict())]
    images = speeds and _training_images(recipe, records)
    if not images:
        return None
    batch = min(recipe.train.batch_size, images)
    return recipe.train.epochs * (images // batch) * batch / statistics.median(speeds)


def _work(recipe):
    "What the speed of a step depends on, of a recipe as a dict."
    if not recipe:
        return None
    parts = {part: recipe.get(part) or {} for part in ("shape", "data", "augment", "train")}
    settings = [parts["shape"].get("depth"), parts["shape"].get("heads"), parts["data"].get("image_size"), parts["augment"].get("rand_augment"),
                *(parts["train"].get(k) for k in ("precision", "workers"))]
    return str([recipe.get("ancestry"), recipe.get("model"), settings])


def _training_images(recipe, records):
    "How many images an epoch has; None when the data are not here."
    spec = recipe.to_dict().get("data") or {}
    for r in records:
        if ((r["meta_info"].get("recipe") or {}).get("data") or {}) == spec and r["meta_info"].get("data_sizes"):
            return r["meta_info"]["data_sizes"]["train"]
    return _count_images(recipe.data)


@cache
def _count_images(spec):
    import dataclasses

    from ..data import count_training_images

    try:
        return count_training_images(dataclasses.replace(spec, download=False))
    except (OSError, ValueError, ImportError):
        return None


def _begun(job, home):
    "The share of a run that its newest checkpoint has done."
    stems = [p.stem.split("-") for p in (Path(home) / "checkpoints").glob(f"{job.recipe.key}-*/epoch-*.pt")]
    return max((int(s[1]) for s in stems), default=0) / max(1, job.recipe.train.epochs)


def forecast(
    jobs,  # from `plan_jobs`
    ledger,  # what counts as done
    known,  # all Ledgers with records to learn speeds from
    home,  # folder with ancestries and checkpoints
    workers: int,  # runs side by side
) -> list:  # lines
    "What is done, what is left in the queue's order, and how long it will take."
    records = [r for book in known for r in _all_records(book)]
    left = {job.recipe.key for job in missing(jobs, ledger, home)}
    lines, total, unknown = [], 0.0, 0
    for job in jobs:
        seconds, todo, begun = estimate(job.recipe, records, here()), job.recipe.key in left, _begun(job, home)
        if todo:
            total += 0 if seconds is None else seconds * (1 - begun)
            unknown += seconds is None
        cost = "time unknown" if seconds is None else f"{seconds:.0f} s" + (f", {begun:.0%} done" if todo and begun else "")
        lines.append(f"  {'would run   ' if todo else 'has a record'}  {job}  ({job.recipe.data.name}, {job.recipe.train.epochs} epochs, {cost})")
    if unknown and not total:
        return [*lines, f"{unknown} runs of unknown time would run: no record here of such a run tells how long it takes on this kind of device ({here()})"]
    doubt = f", and {unknown} runs of unknown time" if unknown else ""
    side = f"; {total / workers / 60:.0f} minutes with {workers} side by side" if workers > 1 else f" ({total / 60:.0f} minutes)"
    return [*lines, f"about {total:.0f} s of training would run{doubt}{side if total else ''}, at the speeds of records from this kind of device ({here()})"]


def _all_records(book):
    for store in ("local", "records", "local/dirty"):
        for path in sorted((book.folder / store).glob("*.json")):
            yield read_record(path)


# --- doing it


def work(
    jobs,  # from `plan_jobs`
    ledger,  # records are looked for and written here
    home,  # folder for ancestries and checkpoints
    until: float,  # stop before this time, as `time.time()` counts
    workers=1,  # runs side by side
    log=None,  # called with a line for each run; None prints it
    **how,  # engine, compile and deterministic, as in `fit`
) -> int:  # how many runs are left
    "Do what is missing, in order, until the time is up; an unfinished run stands in its checkpoint. RuntimeError at the end when runs failed."
    log = log or (lambda line: print(line, flush=True) if is_first_process() else None)
    todo = missing(jobs, ledger, home)
    log(f"{len(todo)} of {len(jobs)} runs are left")
    failed, done = {}, 0
    do = partial(attempt, ledger=ledger, home=home, until=until, aloud=workers <= 1, **how)
    ancestries, rest = ([job for job in todo if (job.table == "ancestry") == first] for first in (True, False))
    for stage in [*([job] for job in ancestries), rest] if _chained(ancestries) else [ancestries, rest]:
        paused = 0
        for job, result in each([job for job in stage if not _lacks(job, failed)], do, min(workers, len(stage))):
            if isinstance(result, Paused):
                paused += 1
                if str(result):
                    log(f"{job}: {result}")
            elif isinstance(result, Exception):
                failed[job.recipe.key] = f"{job}: {result}"
                log(f"{job}: failed, {type(result).__name__}: {result}")
            else:
                done += 1
                log(f"[{done}/{len(todo)}] {job}: {result['train_info']['test_accuracy']:.1%} of test images, {result['train_info']['seconds']:.0f} s")
        if paused:
            break  # what comes next may need what is not finished
    left = len(todo) - done
    log("nothing is left" if not left else f"{left} runs are left; the same command goes on with them")
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed, the first: {next(iter(failed.values()))}")
    return left


def _lacks(job, failed):
    "Has the ancestry of a job failed?"
    return any(a.recipe.key in failed for a in _ancestries([job.recipe.ancestry]))


def _chained(ancestries):
    "Does one of them start from another?"
    keys = {job.recipe.key for job in ancestries}
    return any(a.recipe.key in keys for job in ancestries for a in _ancestries([job.recipe.ancestry]))


def attempt(job, ledger, home, until, aloud, **how):
    "One job; its record, or the exception that ended it, which is Paused when the time was up."
    on_epoch, policy = _Occasionally(job) if aloud else False, CheckpointPolicy(seconds=60, until=until)
    if job.table != "ancestry":
        how.pop("compile", None)  # a run of minutes ends before compiling has paid
    try:
        if broadcast_flag(time.time() >= until):
            return Paused()
        if job.table != "ancestry":
            return running.run(job.recipe, ledger, on_epoch=on_epoch, again=True, home=home, policy=policy, **how)
        folder = running.ensure_trained(running.ResolvedRun(job.recipe), on_epoch, home, policy, **how)
        record = read_config(folder, VIT_FORMAT)["extra"]["record"]
        if is_first_process():
            ledger.add(record)
        return record
    except Exception as e:  # the others go on; `work` tells
        return without_frames(e)


class _Occasionally:
    "Prints a line of a long run, at most one in half a minute."
    def __init__(self, job):
        self.job, self.last = job, time.time()

    def __call__(self, entry):
        if time.time() - self.last > 30:
            self.last = time.time()
            accuracy = f", validation accuracy {entry['val_accuracy']:.1%}" if "val_accuracy" in entry else ""
            print(f"    {self.job}: epoch {entry['epoch']} of {self.job.recipe.train.epochs}{accuracy}", flush=True)


# --- bringing it together


def merge_results(
    origin,  # a results folder from elsewhere: of one profile, its `local`, or with a folder for each profile
    results,  # the results folder here, with a folder for each profile
    profile=None,  # when `origin` is of one profile; None = as its folder is called
) -> str:  # one line of what was merged
    "Add records, ancestries and checkpoints from another results folder. ValueError, and nothing is written, when a run is here already and not the same, or a record is damaged."
    origin, results = Path(origin), Path(results)
    parts = _parts(origin, profile)
    if not parts:
        raise ValueError(f"{origin} holds no records, ancestries or checkpoints of runs; give a results folder, e.g. results/ of another checkout.")
    if any(source.resolve() == (results / name / "local").resolve() for name, source in parts.items()):
        raise ValueError(f"{origin} is this results folder itself.")
    steps = [step for name, source in parts.items() for step in _merge_steps(source, results / name)]
    counts = {}
    for kind, do in steps:
        if do:
            do()
        counts[kind] = counts.get(kind, 0) + 1
    told = ", ".join(f"{n} {_MANY.get(kind, kind) if n > 1 else kind}" for kind, n in counts.items())
    return f"merged into {results}: {told or 'nothing'}"


_MANY = dict(record="records", ancestry="ancestries", checkpoint="checkpoints") | {"uncounted record": "uncounted records"}
_KEPT = ("checkpoints", "ancestries", "dirty")


def _parts(origin, profile):
    "Profile -> its local folder in `origin`."
    def local(folder):
        inner = folder / "local" if (folder / "local").is_dir() else folder
        return inner if list(inner.glob("*.json")) or any((inner / k).is_dir() for k in _KEPT) else None

    if not origin.is_dir():
        raise FileNotFoundError(f"there is no folder {origin}.")
    if local(origin):
        return {profile or (origin.parent if origin.name == "local" else origin).resolve().name: local(origin)}
    return {child.name: child / "local" for child in sorted(origin.iterdir()) if (child / "local").is_dir() and local(child)}


def _merge_steps(source, target):
    "What has to be done for one profile, as (kind, function or None); nothing is written yet."
    ledger, steps, finished = Ledger(target), [], set()
    for path in [*sorted(source.glob("*.json")), *sorted((source / "dirty").glob("*.json"))]:
        record = _adopted(read_record(path))
        finished.add(record["run_info"]["key"])
        steps.append(_merge_record(path, record, ledger))
    for folder in _folders(source / "ancestries"):
        steps.append(_merge_ancestry(folder, target / "local" / "ancestries" / folder.name))
    for folder in _folders(source / "checkpoints"):
        key, there = folder.name.split("-")[0], target / "local" / "checkpoints" / folder.name
        if key not in finished and ledger.find(key) is None and _furthest(folder) > _furthest(there):
            steps.append(("checkpoint", partial(_copy_folder, folder, there)))
    return steps


def _adopted(record):
    "A record that a copy without git made from this very code, which is clean here, counts as this commit's."
    code, now = record["run_info"]["code"], code_version()
    if code.get("clean") or code.get("commit") or not now["clean"] or record["run_info"].get("source") != source_digest():
        return record
    return record | dict(run_info=record["run_info"] | dict(code=now | dict(source="copy")))


def _merge_record(path, record, ledger):
    store = "" if record["run_info"]["code"]["clean"] else "dirty"
    dirty = sorted((ledger.folder / "local" / "dirty").glob(f"*-{record['run_info']['key']}.json"))
    present = read_record(dirty[0]) if store and dirty else None if store else ledger.find(record["run_info"]["key"])
    if present is None:
        return "record" if not store else "uncounted record", partial(_add, path, record, ledger)
    if _without_code(present, record) != _without_code(record, record):
        raise ValueError(f"{path} and {file_name(present)} in {ledger.folder} are different records of the same run; keep one of them, and merge again. Nothing was merged.")
    return "already here", None


def _add(path, record, ledger):
    "Add a record that was read from `path`, with what lies beside it there."
    there = ledger.add(record)
    if path.with_suffix(SEEN).is_file():
        shutil.copyfile(path.with_suffix(SEEN), there.with_suffix(SEEN))


def _without_code(record, brought):
    "A record to compare; the code that an adopted one is said to be of may have moved on."
    if brought["run_info"]["code"].get("source") != "copy":
        return record
    return record | dict(run_info={k: v for k, v in record["run_info"].items() if k != "code"})


def _merge_ancestry(folder, there):
    if folder.name == "ledger":
        new = [p for p in sorted(folder.rglob("*.json")) if not (there / p.relative_to(folder)).exists()]
        return ("ledger of the ancestries" if new else "already here"), lambda: [write_atomic(there / p.relative_to(folder), p.read_text(encoding="utf-8")) for p in new]
    weights = [(f / "model.safetensors") for f in (folder, there)]
    if not there.is_dir():
        return "ancestry", partial(_copy_folder, folder, there)
    if weights[0].read_bytes() != weights[1].read_bytes():
        raise ValueError(f"{folder} and {there} are different models of the same ancestry; keep one of them, and merge again. Nothing was merged.")
    return "already here", None


def _folders(folder):
    return sorted(f for f in folder.glob("*") if f.is_dir() and not f.name.startswith("."))


def _furthest(folder):
    "How far the newest checkpoint in a folder is."
    return max((p.stem for p in folder.glob("epoch-*.pt")), default="")


def _copy_folder(source, target):
    with atomic_folder(target) as new:
        shutil.copytree(source, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))


def seconds_for(minutes: float) -> float:
    "Of a given time, what runs may use: some is kept for the last validation and checkpoint."
    if not (minutes > 0 and math.isfinite(minutes)):
        raise ValueError(f"--minutes is {minutes}, wanted more than 0.")
    return minutes * 60 - min(30, 3 * minutes)
