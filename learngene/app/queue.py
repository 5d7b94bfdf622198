"""The queue: the runs that a profile's tables show, the most valuable first, done until the time is up."""
import math
import time
from dataclasses import dataclass
from functools import partial

from .. import methods, running
from ..ancestry import shipped
from ..checkpoints import CheckpointPolicy, Paused
from ..files import is_first_process
from ..ledger import read_record
from ..parallel import each, without_frames
from ..places import check_places
from ..processes import broadcast_flag
from ..provenance import code_version, source_digest
from ..recipe import Recipe, Sweep, find_recipe, recipe_files
from ..remote import each_away
from ..running import ResolvedRun, run_of_ancestry
from ..teachers import record_kept_with


# The tables in order of value: what says most about the method first. Others follow, in their own order.
TABLES_BY_VALUE = (
    "start", "table2", "figure5", "table8", "table4", "table5", "table7", "table3", "figure3", "table1", "fidelity")


@dataclass(frozen=True)
class Job:
    "One run of the queue."
    table: str  # where it is first shown, or "ancestry"
    labels: dict  # of the cell
    recipe: Recipe

    def __str__(self):
        return f"{self.table}: {', '.join(f'{name} {label}' for name, label in self.labels.items())}"


# --- which runs, in which order


def plan_jobs(
    profile: str,  # folder of recipes
    tables: dict,  # table -> names of its sweeps in the profile, an empty list for one without runs
    all_ancestries=True,  # also the profile's own ancestries that no table names
) -> tuple:  # (Jobs; a line for each table)
    """List every run once, the most valuable first.

    Ancestries, then the first seed of every cell of every table, then the next seeds. ValueError for an unknown method
    or option."""
    jobs, lines = [], []
    for table in sorted(tables, key=_value_rank):
        cells = []
        for sweep in tables[table]:
            try:
                cells += Sweep.load(find_recipe(f"{profile}/{sweep}")).cells()
            except FileNotFoundError:
                lines.append(f"{table}: profile {profile} has no sweep {sweep!r}, so no runs")
        if cells or not tables[table]:
            lines.append(f"{table}: {len(cells)} runs" if cells else f"{table}: no runs of its own")
        jobs += [(seed_index, Job(table, labels, recipe)) for seed_index, labels, recipe in _with_seed_index(cells)]
    jobs = [job for _, job in sorted(jobs, key=lambda pair: pair[0])]
    methods.check_methods(job.recipe.method for job in jobs)
    names = (_own_ancestries(profile) if all_ancestries else []) + [name for job in jobs for name in _parents_of(job)]
    by_key = {}
    for job in [*_ancestry_jobs(names), *jobs]:
        by_key.setdefault(job.recipe.key, job)
    return list(by_key.values()), lines


def _value_rank(table):
    "Place of a table in the order of value."
    return TABLES_BY_VALUE.index(table) if table in TABLES_BY_VALUE else len(TABLES_BY_VALUE)


def _with_seed_index(cells):
    "Yield (how many seeds of the same cell come before, labels, recipe)."
    counts = {}
    for labels, recipe in cells:
        cell = str({name: label for name, label in labels.items() if name != "seed"})
        counts[cell] = counts.get(cell, -1) + 1
        yield counts[cell], labels, recipe


def sweeps_of(
    profile: str,  # folder of recipes
) -> dict:  # name -> name
    "Map each sweep of a profile to itself: the tables where the paper notebooks are missing."
    return {file.stem: file.stem for file in recipe_files(profile) if "vary:" in file.read_text(encoding="utf-8")}


def _own_ancestries(profile):
    "List a profile's recipes of models from random weights, narrowest first, unless shipped."
    sweeps = sweeps_of(profile)
    recipes = {str(file): Recipe.load(file) for file in recipe_files(profile) if file.stem not in sweeps}
    widths = {name: recipe.model.get("embed_dim", math.inf)
              for name, recipe in recipes.items()
              if recipe.model and recipe.name not in shipped() and recipe.method.name != "untrained"}  # no teachers
    return sorted(widths, key=widths.get)


def _ancestry_jobs(names):
    "List a Job for each ancestry or teacher that a run trains, in the order of need."
    jobs = {}
    for name in dict.fromkeys(filter(None, names)):
        for run in _with_parents(run_of_ancestry(name)):
            recipe = run.recipe
            jobs.setdefault(recipe.key, Job("ancestry", dict(name=recipe.name, seed=recipe.seed), recipe))
    return list(jobs.values())


def _with_parents(run):
    "List the runs whose models a run needs, then the run itself; it may be None."
    return [ancestor for parent in run.parents for ancestor in _with_parents(parent)] + [run] if run else []


def _parents_of(job):
    "Name the models that a job starts from and learns from."
    return [job.recipe.ancestry, job.recipe.train.teacher]


# --- which of them are left


def find_job_record(
    job: Job,
    ledger,  # where to look
    source=None,  # from `source_digest`: look also among records of this code that do not count
):  # the record, or None
    "Find a job's record: one that counts, or one of the given code that does not."
    resolved = ResolvedRun(job.recipe)
    record = running.find_record(resolved, ledger)
    if record is None and ledger.local and source:
        for path in sorted((ledger.folder / "local" / "dirty").glob(f"*-{job.recipe.key}.json")):
            uncounted = read_record(path)
            if uncounted["run_info"].get("source") == source:
                record = running.find_record(resolved, _SingleRecordLedger(uncounted))
    return record


class _SingleRecordLedger:
    "A ledger that holds one record."

    def __init__(self, record):
        self.record = record

    def find(self, key):
        return self.record


def jobs_left(
    jobs,  # from `plan_jobs`
    ledger,  # where records are looked for
    home,  # folder with ancestries and checkpoints
) -> list:  # of Jobs
    "List jobs without a record, and ancestries whose weights these need and do not find."
    source = None if code_version()["clean"] else source_digest()  # where nothing counts, nothing is run twice either
    without_record = [job for job in jobs if find_job_record(job, ledger, source) is None]
    keys = {job.recipe.key for job in without_record}
    needed = {job.recipe.key for job in _ancestry_jobs(name for job in without_record for name in _parents_of(job))}
    keys |= {job.recipe.key for job in jobs
             if job.table == "ancestry" and job.recipe.key in needed and not _has_weights(job, home)}
    return [job for job in jobs if job.recipe.key in keys]


def _has_weights(job, home):
    "Whether a trained model bears an ancestry's name; `ensure_trained` looks more closely."
    folders = [folder for folder in running.ancestry_folders(home) if folder.is_dir()]
    return any(list(folder.glob(f"{job.recipe.name}-*")) for folder in folders)


# --- doing them


def run_jobs(
    jobs,  # from `plan_jobs`
    ledger,  # records are looked for and written here
    home,  # folder for ancestries and checkpoints
    until: float,  # stop before this time, as `time.monotonic()` counts
    workers=1,  # runs side by side
    log=None,  # called with a line for each run; None prints it
    executor=None,  # of `concurrent.futures`, dask or submitit, whose workers do all runs but ancestries
    **run_options,  # engine, compile and deterministic, as in `fit`
) -> int:  # how many runs are left
    """Do what is left, in order, until the time is up.

    An unfinished run resumes from its checkpoint. RuntimeError at the end when runs failed."""
    log = log or (lambda line: print(line, flush=True) if is_first_process() else None)
    left = jobs_left(jobs, ledger, home)
    for job in left[:1]:
        check_places(job.recipe, ledger, home=home)
    log(f"{len(left)} of {len(jobs)} runs are left")
    failed, finished = {}, 0  # failed: key -> what went wrong
    attempt = partial(attempt_job, ledger=ledger, home=home, until=until, verbose=workers <= 1, **run_options)
    for stage in _stages(left):
        paused = False
        ready = [job for job in stage if not _ancestry_failed(job, failed)]
        if executor is None or any(job.table == "ancestry" for job in stage):  # whose weights are wanted here
            results = each(ready, attempt, min(workers, len(stage)))
        else:
            results = _each_job_away(ready, executor, ledger, home, until, run_options) if ready else []
        for job, result in results:
            if isinstance(result, Paused):
                paused = True
                if str(result):
                    log(f"{job}: {result}")
            elif isinstance(result, Exception):
                failed[job.recipe.key] = f"{job}: {result}"
                log(f"{job}: failed, {type(result).__name__}: {result}")
            else:
                finished += 1
                test, seconds = result["train_info"]["test_accuracy"], result["train_info"]["seconds"]
                log(f"[{finished}/{len(left)}] {job}: {test:.1%} of test images, {seconds:.0f} s")
        if paused:
            break  # the next stage may need what is not finished
    remaining = len(left) - finished
    log(f"{remaining} runs are left; the same command resumes" if remaining else "nothing is left")
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed, the first: {next(iter(failed.values()))}")
    return remaining


def _each_job_away(jobs, executor, ledger, home, until, run_options):
    "Yield (job, record or exception) as an executor's workers finish, with the time that is left now."
    def folders_of(job):
        return [running.trained_folder(parent, home) for parent in ResolvedRun(job.recipe).parents]

    options = {name: value for name, value in run_options.items() if name != "compile"}  # does not pay in short runs
    modules = sorted({methods.module_of(job.recipe.method.name) for job in jobs})
    return each_away(jobs, executor, running.run, folders_of, ledger, modules=modules,
                     seconds=until - time.monotonic(), **options)


def _stages(jobs):
    """Group jobs into lists that may run side by side.

    The ancestries, one by one where one starts from another; then the rest.
    """
    ancestries = [job for job in jobs if job.table == "ancestry"]
    rest = [job for job in jobs if job.table != "ancestry"]
    return [*([job] for job in ancestries), rest] if _is_chained(ancestries) else [ancestries, rest]


def _is_chained(ancestries):
    "Whether one of these jobs starts from another."
    keys = {job.recipe.key for job in ancestries}
    return any(own.recipe.key in keys for job in ancestries for own in _ancestry_jobs(_parents_of(job)))


def _ancestry_failed(job, failed):
    "Whether training an ancestry of the job has failed."
    return any(own.recipe.key in failed for own in _ancestry_jobs(_parents_of(job)))


def attempt_job(
    job: Job,
    ledger,  # where the record goes
    home,  # folder for ancestries and checkpoints
    until: float,  # stop before this time
    verbose: bool,  # print a line of a long run now and then
    **run_options,  # engine, compile and deterministic, as in `fit`
):  # the record, or the exception that ended the run; Paused when time was up
    "Do one job, in whatever process."
    on_epoch, policy = _ProgressPrinter(job) if verbose else False, CheckpointPolicy(seconds=60, until=until)
    options = dict(on_epoch=on_epoch, home=home, policy=policy, **run_options)
    try:
        if broadcast_flag(time.monotonic() >= until):
            return Paused()
        if job.table == "ancestry":
            return _train_ancestry(job, ledger, options)
        options.pop("compile", None)  # a run of minutes ends before compiling has paid
        return running.run(job.recipe, ledger, again=True, **options)
    except Exception as e:  # the other jobs continue, and `run_jobs` raises at the end
        return without_frames(e)


def _train_ancestry(job, ledger, options):
    "Train an ancestry, unless its weights are there, and put its record into the ledger."
    folder = running.ensure_trained(ResolvedRun(job.recipe), **options)
    record = record_kept_with(folder)
    if is_first_process():
        ledger.add(record)
    return record


class _ProgressPrinter:
    "Print a line of a long run, at most one in half a minute."

    def __init__(self, job):
        self.job, self.printed_at = job, time.monotonic()

    def __call__(self, entry):
        if time.monotonic() - self.printed_at > 30:
            self.printed_at = time.monotonic()
            accuracy = f", validation accuracy {entry['val_accuracy']:.1%}" if "val_accuracy" in entry else ""
            epochs = self.job.recipe.train.epochs
            print(f"    {self.job}: epoch {entry['epoch']} of {epochs}{accuracy}", flush=True)


def seconds_for(
    minutes: float,  # as asked for
) -> float:
    "Return the part of a time limit that runs may use; the rest is for the last checkpoint."
    if not (minutes > 0 and math.isfinite(minutes)):
        raise ValueError(f"--minutes is {minutes}, wanted more than 0.")
    return minutes * 60 - min(30, 3 * minutes)
