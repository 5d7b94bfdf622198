"""Run the paper's tables and figures, single recipes, and reports."""

import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import __version__
from ..files import check_writable, is_first_process, near, project_root, shorten
from . import models  # noqa: F401  its commands come first
from .command import app, command
from .notebooks import (
    NotebookLacksInput,
    check_parameters,
    notebooks,
    replay_notebooks,
    run_notebook,
    sweeps_shown,
)

_started = time.monotonic()  # of the command, for --minutes

# Options that several commands share
ProfileOption = Annotated[str, typer.Option(help="Folder of recipes.")]
ResultsOption = Annotated[
    str,
    typer.Option(
        help="Folder for results; records are looked for there alone.", show_default="results/ of the checkout"
    ),
]
WorkersOption = Annotated[int, typer.Option(help="Runs side by side.", show_default="one per core, or 1 on a GPU")]
EngineOption = Annotated[
    Literal["auto", "device", "loader"] | None,
    typer.Option(help="Where images are augmented.", show_default="on a GPU that holds them all, else one by one"),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Use torch.compile; with --minutes for ancestries alone.")
]
DeterministicOption = Annotated[
    bool,
    typer.Option("--deterministic", help="Allow deterministic algorithms only: slower on a GPU, repeatable weights."),
]
DaskOption = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Runs go to the workers of this dask scheduler.", show_default=False),
]
SubmititOption = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Runs are jobs of Slurm; their logs go here.", show_default=False),
]


def main(argv=None):
    """Run the command line.

    Exit status: 0; 1 and one line for an error; 2 for a wrong call; 130 when interrupted.
    """
    global _started
    _started = time.monotonic()
    try:
        app(_complete_fresh(sys.argv[1:] if argv is None else list(argv)), prog_name="learngene")
    except SystemExit as e:
        if e.code not in (0, None):
            raise


def _complete_fresh(arguments):
    """Give `--fresh` its value `all` where none follows.

    Typer has no options with an optional value.
    """
    is_bare = [a == "--fresh" and (b is None or b.startswith("-")) for a, b in zip(arguments, [*arguments[1:], None])]
    return ["--fresh=all" if bare else str(a) for a, bare in zip(arguments, is_bare)]


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False):
    if version:
        print(f"learngene {__version__}")
        raise typer.Exit()


@command
def run(
    table: Annotated[str, typer.Argument(help="Name of a paper notebook, e.g. table2, or all.")],
    profile: ProfileOption = "digits",
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Only do missing runs, the most valuable first, and stop after so many minutes; no notebooks."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="List the runs in order, their records, and the cost of the others; run nothing."
        ),
    ] = False,
    fresh: Annotated[
        str,
        typer.Option(
            metavar="[TABLE,...]", help="Ignore committed records: make all runs here, or those of these tables."
        ),
    ] = "",
    workers: WorkersOption = 0,
    results: ResultsOption = "",
    set_: Annotated[
        list[str], typer.Option("--set", metavar="NAME=VALUE", help="Another parameter of the notebook.")
    ] = (),
    engine: EngineOption = None,
    compile: CompileOption = False,
    deterministic: DeterministicOption = False,
    dask: DaskOption = None,
    submitit: SubmititOption = None,
):
    "Run a table or figure of the paper (a notebook of nbs/paper), or all of them."
    run_options = _run_options(engine, compile, deterministic)
    if minutes is not None or dry_run:
        from .queue import seconds_for

        limit = None if dry_run else seconds_for(minutes)
        executor = None if dry_run else _executor(dask, submitit)
        return _run_queue(table, profile, limit, fresh, workers, results, set_, run_options, executor)
    executor = _executor(dask, submitit)
    if executor:  # the runs first, wherever; then their notebooks, from the records
        _run_queue(table, profile, math.inf, fresh, workers, results, set_, run_options, executor)
    elif run_options:
        raise ValueError(
            "--engine, --compile and --deterministic are for runs without their notebooks; give --minutes, too."
        )
    paths = notebooks()
    _check_table(table, paths)
    _check_profile(profile)
    fresh_tables = set(paths) if fresh == "all" else set(filter(None, fresh.split(",")))
    for name in fresh_tables - set(paths):
        _check_table(name, paths, "--fresh: ")
    chosen = paths if table == "all" else {table: paths[table]}
    # notebooks run in a folder of their own
    own = dict(profile=profile, fresh=True, workers=workers, results=_absolute(results))
    parameters = own | _notebook_parameters(chosen, set_, own)
    _run_notebooks(chosen, parameters, fresh_tables, results)


def _run_notebooks(paths, parameters, fresh_tables, results):
    """Run notebooks and write the report.

    Those that train run first, one by one; then those with all records, side by side.
    """
    from ..tables import Results
    from .report import write_report

    folder, began = Results(parameters["profile"], results).folder, time.monotonic()
    _check_outputs(folder, paths)
    jobs = {
        name: (path, folder / "notebooks" / path.name, parameters | dict(fresh=name in fresh_tables))
        for name, path in paths.items()
    }
    complete = {name: job for name, job in jobs.items() if len(jobs) > 1 and _has_all_records(job, results)}
    errors = []
    with _progress(len(jobs)) as step:
        for name, job in jobs.items():
            if name not in complete:
                step(name)
                run_notebook(*job)
        for name, printed, error in replay_notebooks(complete, parameters["workers"]):
            step(name + "\n" * bool(printed) + printed)
            if isinstance(error, NotebookLacksInput):  # what a picture needs beside records
                run_notebook(*complete[name])
            elif error:
                errors.append(error)
    if errors:
        raise errors[0]
    print(f"finished in {time.monotonic() - began:.0f} s; tables, figures and executed notebooks are in {folder}")
    print(f"read {write_report(folder)}")


def _check_outputs(folder, names=()):
    "Raise unless tables, executed notebooks and the report can be written; ask before they are made."
    for place in ("report.html", *(f"{part}/{name}.ipynb" for name in names for part in ("tables", "notebooks"))):
        check_writable(folder / place)


def _progress(total):
    """Show a bar with the time left while several notebooks run, on a terminal alone.

    A context manager; inside, call the value with the text of each notebook that begins.
    """
    from contextlib import contextmanager

    from rich import progress
    from rich.console import Console

    @contextmanager
    def show():
        console = Console()
        columns = (
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
        )
        hidden = total < 2 or not console.is_terminal
        with progress.Progress(*columns, console=console, transient=True, disable=hidden) as bar:
            task, count = bar.add_task("notebooks", total=total), 0

            def step(text):
                nonlocal count
                bar.update(task, completed=count)
                count += 1
                print(f"({count}/{total}) {text}", flush=True)

            yield step

    return show()


def _has_all_records(job, results):
    "Whether every run that a notebook shows has a record."
    from ..tables import Results

    path, _, parameters = job
    store = Results(parameters["profile"], results, parameters["fresh"])
    try:
        return all(len(records) == n for _, records, n in map(store.find, sweeps_shown(path, parameters)))
    except FileNotFoundError:
        return False


def _notebook_parameters(paths, settings, own):
    """Parse `--set` options and check them against every notebook.

    Raises ValueError for a name with an option of its own.
    """
    parameters = _parse_settings(settings)
    for path in paths.values():
        check_parameters(path, own | parameters)
    for name in own.keys() & parameters.keys():
        raise ValueError(f"{name} has an option of its own: --{name}.")
    return parameters


def _parse_settings(settings):
    "Parse NAME=VALUE settings as YAML. ValueError for another form."
    from ..yaml_files import parse_yaml

    parsed = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set wants NAME=VALUE, not {setting!r}.")
        try:
            parsed[name] = parse_yaml(value, "the value")
        except ValueError as error:
            raise ValueError(f"--set {shorten(setting)}: {shorten(value)} is no YAML value ({error})") from None
    return parsed


def _executor(dask, submitit):
    "Start what --dask or --submitit names; None without them."
    if not (dask or submitit):
        return None
    from ..remote import start_executor

    return start_executor(dask, submitit)


def _run_queue(table, profile, seconds, fresh, workers, results, settings, run_options, executor=None):
    "Do the runs of tables without their notebooks until the time is up, or list them where `seconds` is None."
    from ..parallel import default_workers
    from ..tables import Results
    from . import queue
    from .forecasting import forecast

    _check_profile(profile)
    if fresh not in ("", "all"):
        raise ValueError(
            "--fresh names tables only where their notebooks are run; with --minutes or --dry-run it stands alone."
        )
    sweeps = _sweeps_of_tables(table, profile, settings)
    store, committed = Results(profile, results, bool(fresh)), Results(profile, results)
    jobs, lines = queue.plan_jobs(profile, sweeps, all_ancestries=table == "all")
    home, workers = store.folder / "local", default_workers(workers)
    if seconds is None:
        ledgers = [committed.ledger] + ([Results(profile).ledger] if results else [])
        return print("\n".join(lines + forecast(jobs, store.ledger, ledgers, home, workers)))
    for line in lines:
        if "has no sweep" in line and is_first_process():
            print(line, flush=True)
    queue.run_jobs(jobs, store.ledger, home, _started + seconds, workers, executor=executor, **run_options)


def _sweeps_of_tables(table, profile, settings):
    """Map each table to the sweeps its notebook shows.

    Without notebooks, map each sweep of the profile to itself.
    """
    from .queue import sweeps_of

    try:
        paths = notebooks()
    except FileNotFoundError:
        paths = {}
    if not paths:
        print(f"the paper notebooks are not here: the tables are the sweeps of profile {profile}")
        names = sweeps_of(profile)
        _check_table(table, names)
        return {name: [sweep] for name, sweep in names.items() if table in (name, "all")}
    _check_table(table, paths)
    chosen = {name: path for name, path in paths.items() if table in (name, "all")}
    own = dict.fromkeys(("profile", "fresh", "workers", "results"))
    parameters = _notebook_parameters({}, settings, own)
    for path in chosen.values():
        check_parameters(path, parameters)
    return {name: sweeps_shown(path, parameters) for name, path in chosen.items()}


@command
def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a recipe of the library, e.g. digits/ancestry.")],
    save: Annotated[str | None, typer.Option(help="Folder for the trained model.")] = None,
    results: Annotated[
        str, typer.Option(help="Folder of the ledger.", show_default="results/runs of the checkout")
    ] = "",
    again: Annotated[bool, typer.Option("--again", help="Run even if there is a record.")] = False,
    engine: EngineOption = None,
    compile: CompileOption = False,
    deterministic: DeterministicOption = False,
):
    "Run one recipe and print its test accuracy."
    from .. import running
    from ..ledger import Ledger
    from ..recipe import Recipe

    ledger, recipe = Ledger(results or (project_root() or Path.cwd()) / "results" / "runs"), Recipe.load(recipe)
    known = None if again or save else running.find_record(recipe, ledger)
    record = running.run(recipe, ledger, save=save, again=again, **_run_options(engine, compile, deterministic))
    if is_first_process():
        accuracy, images = record["train_info"]["test_accuracy"], record["meta_info"]["data_sizes"]["test"]
        print(f"{record['run_info']['name']}: {accuracy:.2%} of {images} test images")
        if record == known:
            print(f"on record: {ledger.places(record)[0]} (--again runs it anew)")


@command
def sweep(
    sweep: Annotated[
        str,
        typer.Argument(
            help="A sweep of the library, e.g. digits/shapes, or your own YAML file; its records go to results/NAME."
        ),
    ],
    fresh: Annotated[str, typer.Option(metavar="", help="Ignore the committed records.")] = "",
    workers: WorkersOption = 0,
    results: ResultsOption = "",
    engine: EngineOption = None,
    compile: CompileOption = False,
    deterministic: DeterministicOption = False,
    dask: DaskOption = None,
    submitit: SubmititOption = None,
):
    "Run every cell of a sweep that has no record yet, without a notebook."
    from ..recipe import Sweep
    from ..running import run_all
    from ..tables import Results

    cells_of, lines = Sweep.load(sweep), []
    recipes = [recipe for _, recipe in cells_of.cells()]
    ledger = Results(_store_of(sweep, cells_of), results, bool(fresh)).ledger

    def log(line):
        lines.append(line)
        print(line, flush=True)

    executor = _executor(dask, submitit)
    run_all(recipes, ledger, workers or None, log, executor, **_run_options(engine, compile, deterministic))
    if is_first_process():
        summary = "the records are in" if lines else f"all {len(recipes)} runs are on record in"
        print(f"{summary} {ledger.folder}")


def _store_of(path, sweep):
    """Name the folder of results for a sweep's records.

    It is the sweep's profile or, for a file of your own, the sweep's name.
    """
    from ..recipe import find_recipe, recipes_folder

    file = find_recipe(path).resolve()
    if file.parent.parent == recipes_folder().resolve():
        return file.parent.name
    return re.sub(r"[^\w.+-]+", "_", sweep.name) or "runs"


@command
def leaderboard(
    action: Annotated[Literal["show", "enter"], typer.Argument(help="What to do.")] = "show",
    method: Annotated[str, typer.Argument(help="The registered method that is entered.", show_default=False)] = "",
    profile: Annotated[
        str, typer.Option(help="Folder of recipes.", show_default="all with tasks; digits to enter")
    ] = "",
    by: Annotated[
        Literal["depth", "width", "params"], typer.Option(help="How the method states the size of a descendant.")
    ] = "depth",
    set_: Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help="An option of the method.")] = (),
    module: Annotated[
        str, typer.Option(help="Import this module first: where your own method is.", show_default=False)
    ] = "",
    to: Annotated[str, typer.Option(help="Write the page to this file.", show_default="print it")] = "",
    committed: Annotated[bool, typer.Option("--committed", help="Leave out your own records.")] = False,
    results: ResultsOption = "",
    workers: WorkersOption = 0,
):
    """Show the leaderboard, computed from records, or enter a method.

    `learngene leaderboard enter METHOD` runs the method on every task of a profile, and shows the profile's tables.
    """
    import importlib

    from ..tables import Results
    from . import leaderboard as board

    _check_profile(profile or "digits")
    if action == "enter":
        if not method:
            raise ValueError("give the METHOD that is entered; `learngene list` names those of the library.")
        if module:
            sys.path.insert(0, os.getcwd())
            importlib.import_module(module)
        profile = profile or "digits"
        path = board.enter(method, Results(profile, results), workers or None, by=by, options=_parse_settings(set_))
        print(f"the runs are stated in {path}")
    page = board.leaderboard_page([profile] if profile else board.PROFILES, results, committed)
    if not to:
        return print(page)
    check_writable(Path(to))
    Path(to).write_text(page, encoding="utf-8")


@command
def report(
    profile: ProfileOption = "digits",
    results: ResultsOption = "",
    workers: Annotated[int, typer.Option(help="Notebooks side by side.", show_default="one per core")] = 0,
    page_only: Annotated[bool, typer.Option("--page-only", help="Make the page alone, of existing tables.")] = False,
):
    """Make tables, figures and report.html of a profile from records alone.

    Nothing is trained; what is missing is listed.
    """
    _check_profile(profile)
    from ..tables import Results
    from .report import note_missing, write_report

    folder = Results(profile, results).folder
    _check_outputs(folder)
    if project_root() is None or page_only:
        return print(write_report(folder))
    parameters = dict(profile=profile, fresh=False, workers=1, results=_absolute(results))
    paths, errors = notebooks(), []
    jobs = {name: (path, folder / "notebooks" / path.name, parameters) for name, path in paths.items()}
    with _progress(len(jobs)) as step:
        for name, _, error in replay_notebooks(jobs, workers):
            is_missing = isinstance(error, NotebookLacksInput)
            step(f"{name}{': not yet run' * is_missing}")
            if is_missing:
                note_missing(folder, name, paths[name], str(error).removeprefix(f"{name}.ipynb: "))
            elif error:
                errors.append(error)
    print(write_report(folder))
    if errors:
        raise errors[0]


@command
def commit(profile: ProfileOption = "digits", results: ResultsOption = ""):
    "Move your records to the committed ones, results/PROFILE/records (for maintainers)."
    _check_profile(profile)
    from ..ledger import commit
    from ..tables import Results

    store = Results(profile, results).ledger
    check_writable(store.folder / "records" / "new.json")
    print(f"{len(commit(store))} records moved")


@command
def ledger(
    action: Annotated[Literal["merge"], typer.Argument(help="What to do.")],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A results folder brought from elsewhere.")],
    profile: Annotated[
        str | None, typer.Option(help="When DIR is of one profile.", show_default="as its folder is called")
    ] = None,
    results: ResultsOption = "",
):
    "Merge records, ancestries and checkpoints made elsewhere: learngene ledger merge DIR."
    if profile:
        _check_profile(profile)
    from ..tables import Results
    from .merging import merge_results

    print(merge_results(folder, Results("any", results).folder.parent, profile))


@command
def data(
    action: Annotated[Literal["pack"], typer.Argument(help="What to do.")],
    name: Annotated[str, typer.Argument(help="A name of `learngene list`, e.g. cifar10 or parquet:pets.")],
    path: Annotated[str | None, typer.Option(help="Where it lies.", show_default="$LEARNGENE_DATA/NAME")] = None,
    max_mb: Annotated[float, typer.Option(help="Largest size of a shard, in MB.")] = 55,
    to: Annotated[
        str, typer.Option(help="Folder to write.", show_default="the dataset's name, in the current folder")
    ] = "",
):
    "Write a dataset as shards small enough to carry: learngene data pack NAME."
    from ..packing import pack
    from ..recipe import DataSpec

    print(pack(DataSpec(name, path=path), to or name.rpartition(":")[2], max_mb))


@command
def distances(
    ancestry: Annotated[str, typer.Argument(help="Name of an ancestry of `learngene list`, or a folder.")],
    images: Annotated[int, typer.Option(help="At most so many validation images.")] = 1000,
    pairs: Annotated[bool, typer.Option("--pairs", help="Which heads can stand for each other, instead.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure anew and overwrite the ancestry's file.")] = False,
):
    "Measure an ancestry's mean attention distances on validation images and keep them with it."
    from ..ancestry import shipped
    from ..distances import DISTANCES, PAIRS, measure_distances, measure_pairs
    from ..files import write_atomic

    path = shipped().get(ancestry, Path(ancestry)) / (PAIRS if pairs else DISTANCES)
    if path.exists() and not again:
        raise ValueError(f"{path} exists; use --again to overwrite it.")
    check_writable(path)
    measured = (measure_pairs if pairs else measure_distances)(ancestry, images)
    write_atomic(path, json.dumps(measured) + "\n")
    layers, split = len(measured["layers" if pairs else "distances"]), measured["part"]
    print(f"{path}: {layers} layers, {measured['images']} {split} images of {measured['data']}")


@command
def list_():
    "List paper notebooks, profiles, methods, datasets and ancestries."
    from .. import methods
    from ..ancestry import shipped
    from ..datasets import dataset_names
    from ..recipe import profiles

    rows = {"tables and figures": list(notebooks())} if project_root() else {}
    rows |= {
        "profiles": profiles(),
        "methods": methods.names(),
        "datasets": dataset_names(),
        "ancestries": list(shipped()),
    }
    for title, entries in rows.items():
        print(f"{title}: {', '.join(entries)}")


def _run_options(engine, compile, deterministic):
    "Collect the run options that were given; unset options keep `fit`'s defaults."
    options = dict(engine=engine, compile=compile, deterministic=deterministic)
    return {name: value for name, value in options.items() if value}


def _absolute(results):
    return str(Path(results).resolve()) if results else ""


def _check_profile(name):
    from ..recipe import profiles

    if name not in profiles():
        raise ValueError(f"there is no profile {name!r}{near(name, profiles())}; there are {', '.join(profiles())}.")


def _check_table(name, known, option=""):
    if name != "all" and name not in known:
        raise ValueError(
            f"{option}there is no table {name!r}{near(name, [*known, 'all'])}; there are {', '.join(known)}, and all."
        )


if __name__ == "__main__":
    main()
