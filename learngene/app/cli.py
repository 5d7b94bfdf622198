"""The `learngene` command: run the paper's tables and figures, single recipes, and reports."""
import argparse
import ast
import json
import os
import re
import sys
import time
from pathlib import Path

from ..files import is_first_process, near, project_root


def main(argv=None):
    "Entry point; the exit status is 0, or 1 with one line that says what went wrong."
    began = time.time()
    args = _parser().parse_args(argv)
    args.began = began
    try:
        args.do(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; what is finished is kept, and the same command goes on from there")
    except BrokenPipeError:  # who reads has seen enough, as in `learngene list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, TypeError, OSError, RuntimeError, ArithmeticError, AssertionError, ImportError) as e:
        sys.exit("learngene: " + " ".join(f"{str(e) or type(e).__name__}{_to_install(e)}".split()))


def _to_install(error):
    "What to install for a package that is not there, unless the error says so."
    package = (getattr(error, "name", None) or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if not package or "pip install" in str(error):
        return ""
    extra = dict(datasets="hub") | dict.fromkeys(("papermill", "nbformat", "nbclient", "nbconvert", "ipykernel", "jupyter_client"), "notebooks")
    return ": pip install " + (f"'learngene[{extra[package]}]'" if package in extra else package)


def _parser():
    parser = argparse.ArgumentParser(prog="learngene", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, do, help):
        p = commands.add_parser(name, help=help, description=help)
        p.set_defaults(do=do)
        return p

    p = command("run", _run, "Run a table or figure of the paper (a notebook of nbs/paper), or all of them.")
    p.add_argument("table", help="name of a paper notebook, e.g. table2, or all")
    p.add_argument("--profile", default="digits", help="folder of recipes (default: digits)")
    p.add_argument("--minutes", type=float, help="only do missing runs, the most valuable first, and stop before so many minutes are over; no notebooks")
    p.add_argument("--dry-run", action="store_true", help="list the runs in the queue's order, which of them have a record, and the time the others take; run nothing")
    p.add_argument("--fresh", nargs="?", const="all", default="", metavar="TABLE,...",
                   help="do not use the committed records: run everything on this machine (or what these tables need, and replay the others)")
    p.add_argument("--workers", type=int, default=0, help="runs side by side (default: cores, or 1 on a GPU)")
    _add_results(p)
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another parameter of the notebook")
    _add_how(p, ", with --minutes")

    p = command("train", _train, "Run one recipe and print its test accuracy.")
    p.add_argument("recipe", help="a YAML file, or the name of one that comes with the library, e.g. digits/ancestry")
    p.add_argument("--save", help="folder for the trained model")
    p.add_argument("--results", default="", help="folder of the ledger (default: results/runs of the checkout)")
    p.add_argument("--again", action="store_true", help="run even if there is a record")
    _add_how(p)

    p = command("sweep", _sweep, "Run every cell of a sweep that has no record yet, without a notebook.")
    p.add_argument("sweep", help="a sweep that comes with the library, e.g. digits/shapes, or a YAML file of your own, whose records go to results/NAME, by the name it states")
    p.add_argument("--fresh", action="store_true", help="do not use the committed records")
    p.add_argument("--workers", type=int, default=0, help="runs side by side (default: cores, or 1 on a GPU)")
    _add_results(p)
    _add_how(p)

    p = command("report", _report, "Make every table and figure of a profile, and results/PROFILE/report.html, from records alone: nothing is trained, what is missing is listed.")
    p.add_argument("--profile", default="digits", help="folder of recipes (default: digits)")
    _add_results(p)
    p.add_argument("--workers", type=int, default=0, help="notebooks side by side (default: cores)")
    p.add_argument("--page-only", action="store_true", help="only the page, from the tables and figures that are there")

    p = command("commit", _commit, "Move your records of a profile to its committed ones, results/PROFILE/records (for maintainers).")
    p.add_argument("--profile", default="digits")
    p.add_argument("--results", default="")

    p = command("ledger", _ledger, "Merge records, ancestries and checkpoints that were made elsewhere: learngene ledger merge DIR.")
    p.add_argument("action", choices=["merge"])
    p.add_argument("folder", metavar="DIR", help="a results folder brought from elsewhere")
    p.add_argument("--profile", help="when DIR is of one profile (default: as its folder is called)")
    p.add_argument("--results", default="", help="folder for results, where they are added (default: results/ of the checkout)")

    p = command("data", _data, "Write a data set as shards small enough to carry: learngene data pack NAME.")
    p.add_argument("action", choices=["pack"])
    p.add_argument("name", help="a name of `learngene list`, e.g. cifar10 or parquet:pets")
    p.add_argument("--path", help="where it lies (default: $LEARNGENE_DATA/NAME)")
    p.add_argument("--max-mb", type=float, default=55, help="largest size of a shard, in MB (default: 55)")
    p.add_argument("--to", default="", help="folder to write (default: the data set's name, in the current folder)")

    p = command("distances", _distances, "Measure how far the heads of an ancestry look, on validation images of its own data, and keep it with the ancestry.")
    p.add_argument("ancestry", help="name of an ancestry of `learngene list`, or a folder")
    p.add_argument("--images", type=int, default=1000, help="at most so many validation images (default: 1000)")
    p.add_argument("--again", action="store_true", help="measure anew, and replace what is kept in the ancestry's folder")

    p = command("list", _list, "List paper notebooks, profiles, methods, data sets and ancestries.")
    return parser


def _add_results(p):
    p.add_argument("--results", default="", help="folder for results; records are looked for there alone (default: results/ of the checkout)")


def _add_how(p, when=""):
    "What is not given is left to `fit`."
    p.add_argument("--engine", default=argparse.SUPPRESS, choices=["auto", "device", "loader"],
                   help=f"where images are augmented{when} (default: on a GPU that holds them all, else one by one)")
    p.add_argument("--compile", action="store_true", default=argparse.SUPPRESS, help=f"use torch.compile{when and ', for ancestries alone'}{when}")
    p.add_argument("--deterministic", action="store_true", default=argparse.SUPPRESS, help=f"deterministic algorithms only{when}: slower on a GPU, the same weights each time")


def _how(args):
    return {name: value for name, value in vars(args).items() if name in ("engine", "compile", "deterministic")}


def notebooks():
    "The paper notebooks: name -> path, in the paper's order. FileNotFoundError outside a checkout."
    root = project_root()
    if root is None:
        raise FileNotFoundError("the paper notebooks are not here: run this in a checkout of the project (the library alone has recipes, but no notebooks).")
    found = {p.stem: p for p in (root / "nbs" / "paper").glob("*.ipynb")}
    return dict(sorted(found.items(), key=lambda kv: (not kv[0].startswith("figure1"), kv[0])))


def parameters_of(path):
    "Names and defaults of a notebook's parameters. ValueError unless it has one parameters cell, of literals."
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{path} has {len(tagged)} cells tagged 'parameters', wanted exactly one.")
    try:
        nodes = ast.parse(tagged[0]).body  # NAME = literal, or NAME: type = literal
        return {(n.target if isinstance(n, ast.AnnAssign) else n.targets[0]).id: ast.literal_eval(n.value) for n in nodes}
    except (SyntaxError, ValueError, AttributeError):
        raise ValueError(f"{path}: the parameters cell may hold nothing but NAME = literal.") from None


def check_parameters(path, given):
    "ValueError unless every given value is a known parameter of the notebook, of the right type."
    known = parameters_of(path)
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{Path(path).name} has no parameter {name!r}{near(name, known)}; it has {', '.join(known)}.")
        if type(value) is not type(known[name]):
            raise ValueError(f"{Path(path).name}: {name} is {value!r}, wanted {type(known[name]).__name__}, as in {name}={known[name]!r}.")


class NotThere(RuntimeError):
    "A notebook lacks something: records, a recipe, images."


def run_notebook(path, output, parameters):
    "Execute one paper notebook by papermill, with its output shown as it comes."
    import logging

    import papermill

    check_parameters(path, parameters)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger("papermill")
    log.handlers[:] = [_Plain()]
    log.setLevel(logging.INFO)
    log.propagate = False
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        papermill.execute_notebook(str(path), str(output), parameters, kernel_name="python3", cwd=str(Path(path).parent), log_output=True,
                                   progress_bar=False, extra_arguments=["--IPKernelApp.log_level=50"])
    except papermill.PapermillExecutionError as e:
        if e.ename in ("NotRun", "FileNotFoundError"):
            raise NotThere(f"{Path(path).name}: {e.evalue}") from None
        raise RuntimeError(f"{Path(path).name} stopped at {e.ename}: {e.evalue} (the executed notebook, with the error in it, is {output})") from None


def _Plain():
    "A log handler that prints what notebooks print, and keeps papermill's own remarks to itself."
    import logging

    class Handler(logging.Handler):
        def emit(self, record):
            text = record.getMessage().rstrip()
            if record.levelno >= logging.WARNING or (record.funcName == "log_output_message" and text and not text.startswith("<")):
                print("    " + text.replace("\n", "\n    "), flush=True)

    return Handler()


def _parse_settings(pairs):
    import yaml

    out = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set wants NAME=VALUE, not {pair!r}.")
        try:
            out[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--set {pair}: {value!r} is no YAML value.") from None
    return out


def _check_profile(name):
    from ..recipe import profiles

    if name not in profiles():
        raise ValueError(f"there is no profile {name!r}{near(name, profiles())}; there are {', '.join(profiles())}.")


def _run(args):
    if args.minutes is not None or args.dry_run:
        return _queue(args)
    if _how(args):
        raise ValueError("--engine, --compile and --deterministic are for runs without their notebooks; give --minutes, too.")
    there = notebooks()
    if args.table != "all" and args.table not in there:
        raise ValueError(f"there is no table {args.table!r}{near(args.table, [*there, 'all'])}; there are {', '.join(there)}, and all.")
    _check_profile(args.profile)
    chosen = there if args.table == "all" else {args.table: there[args.table]}
    results = str(Path(args.results).resolve()) if args.results else ""  # notebooks run in their own folder
    fresh = set(there) if args.fresh == "all" else set(filter(None, args.fresh.split(",")))
    for name in fresh - set(there):
        raise ValueError(f"--fresh: there is no table {name!r}{near(name, there)}; there are {', '.join(there)}, and all.")
    parameters = _checked_parameters(chosen, args, results)
    from .report import write_report
    from ..tables import Results

    folder, began = Results(args.profile, args.results).folder, time.time()
    jobs = {name: (path, folder / "notebooks" / f"{name}.ipynb", parameters | dict(fresh=name in fresh)) for name, path in chosen.items()}
    quick = {name: job for name, job in jobs.items() if len(jobs) > 1 and _is_complete(args.profile, args.results, job)}
    count = iter(range(1, len(jobs) + 1))
    for name, job in jobs.items():
        if name not in quick:
            print(f"({next(count)}/{len(jobs)}) {name}", flush=True)
            run_notebook(*job)
    failed = []
    for name, said, error in _side_by_side(quick, args.workers):
        print(f"({next(count)}/{len(jobs)}) {name}{said}", flush=True)
        if isinstance(error, NotThere):  # what a picture needs, beside records
            run_notebook(*quick[name])
        elif error:
            failed.append(error)
    if failed:
        raise failed[0]
    print(f"done in {time.time() - began:.0f} s; tables, figures and executed notebooks are in {folder}")
    print(f"read {write_report(folder)}")


def _is_complete(profile, results, job):
    "Has every run that a notebook shows a record?"
    from ..tables import Results

    path, _, parameters = job
    here = Results(profile, results, parameters["fresh"])
    try:
        return all(len(records) == n for _, records, n in map(here.find, _sweeps(path, parameters)))
    except FileNotFoundError:
        return False


def _sweeps(path, given):
    "Names of the sweeps that a notebook shows."
    return [v for k, v in (parameters_of(path) | given).items() if k.startswith("sweep")]


def _side_by_side(jobs, workers):
    "Run notebooks that have nothing to train, as many at a time as there are cores; yields name, what it printed, and its error or None, in order."
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    if jobs:
        with ProcessPoolExecutor(min(len(jobs), workers or os.cpu_count()), mp_context=get_context("spawn")) as pool:
            waiting = {name: pool.submit(_replay, *job) for name, job in jobs.items()}
            for name, future in waiting.items():
                yield name, *future.result()


def _replay(path, output, parameters):
    "Run one notebook in a process of its own; what it printed, and its error or None."
    import contextlib
    import io

    os.environ.update(LEARNGENE_REPLAY="1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            error = run_notebook(path, output, parameters)
        except (RuntimeError, ValueError) as e:
            error = e
    return "\n" * bool(said.getvalue()) + said.getvalue().rstrip(), error


def _checked_parameters(chosen, args, results):
    own, given = dict(profile=args.profile, fresh=True, workers=args.workers, results=results), _parse_settings(args.set)
    parameters = own | given
    for path in chosen.values():
        check_parameters(path, parameters)
    for name in own.keys() & given.keys():
        raise ValueError(f"{name} has an option of its own: --{name}.")
    return parameters


def _queue(args):
    "The runs of the tables without their notebooks, whose parameters are all that is read of them."
    _check_profile(args.profile)
    if args.fresh not in ("", "all"):
        raise ValueError("--fresh names tables only where their notebooks are run; with --minutes or --dry-run it stands alone.")
    chosen = _tables(args)
    from . import queue
    from .. import running
    from ..tables import Results

    results = Results(args.profile, args.results, bool(args.fresh))
    jobs, lines = queue.plan_jobs(args.profile, chosen, whole=args.table == "all")
    home, workers = results.folder / "local", running.default_workers(args.workers)
    if args.dry_run:
        committed = Results(args.profile, args.results).ledger
        known = [committed] + ([Results(args.profile).ledger] if args.results else [])
        lines += queue.forecast(jobs, results.ledger, known, home, workers)
        return print("\n".join(lines))
    for line in lines:
        if "has no sweep" in line and is_first_process():
            print(line, flush=True)
    queue.work(jobs, results.ledger, home, args.began + queue.seconds_for(args.minutes), workers, **_how(args))


def _tables(args):
    "Table -> the sweeps it shows, by the paper notebooks; without them, every sweep of the profile by its own name."
    from .queue import sweeps_of

    try:
        there = notebooks()
    except FileNotFoundError:
        there = {}
    if there:
        given = _parse_settings(args.set)
        for name in {"profile", "fresh", "workers", "results"} & given.keys():
            raise ValueError(f"{name} has an option of its own: --{name}.")
        tables = {}
        for name, path in there.items():
            if args.table in (name, "all"):
                check_parameters(path, given)
                tables[name] = _sweeps(path, given)
    else:
        print(f"the paper notebooks are not here: the tables are the sweeps of profile {args.profile}")
        tables = {name: [sweep] for name, sweep in sweeps_of(args.profile).items() if args.table in (name, "all")}
    if not tables and args.table != "all":
        known = [*(there or sweeps_of(args.profile)), "all"]
        raise ValueError(f"there is no table {args.table!r}{near(args.table, known)}; there are {', '.join(known)}.")
    return tables


def _ledger(args):
    if args.profile:
        _check_profile(args.profile)
    from .queue import merge_results
    from ..tables import Results

    print(merge_results(args.folder, Results("any", args.results).folder.parent, args.profile))


def _data(args):
    from ..data import pack
    from ..recipe import DataSpec

    print(pack(DataSpec(args.name, path=args.path), args.to or args.name.rpartition(":")[2], args.max_mb))


def _train(args):
    from .. import ledger, running
    from ..recipe import Recipe

    book, recipe = ledger.Ledger(args.results or (project_root() or Path.cwd()) / "results" / "runs"), Recipe.load(args.recipe)
    found = None if args.again or args.save else running.find_record(recipe, book)
    record = running.run(recipe, book, save=args.save, again=args.again, **_how(args))
    if is_first_process():
        print(f"{record['run_info']['name']}: {record['train_info']['test_accuracy']:.2%} of {record['meta_info']['data_sizes']['test']} test images")
        if record == found:
            print(f"on record: {book.places(found)[0]} (--again runs it anew)")


def _sweep(args):
    from ..recipe import Sweep
    from ..running import run_all
    from ..tables import Results

    sweep, said = Sweep.load(args.sweep), []
    recipes = [recipe for _, recipe in sweep.cells()]
    ledger = Results(_store_of(args.sweep, sweep), args.results, args.fresh).ledger
    run_all(recipes, ledger, args.workers or None, lambda line: said.append(print(line, flush=True)), **_how(args))
    if is_first_process():
        print(f"the records are in {ledger.folder}" if said else f"all {len(recipes)} runs are on record in {ledger.folder}")


def _store_of(path, sweep):
    "The folder of results that a sweep's records go to: its profile's, or, for a file of your own, one by its name."
    from ..recipe import recipes_folder, find_recipe

    file = find_recipe(path).resolve()
    return file.parent.name if file.parent.parent == recipes_folder().resolve() else re.sub(r"[^\w.+-]+", "_", sweep.name) or "runs"


def _report(args):
    _check_profile(args.profile)
    from .report import note_missing, write_report
    from ..tables import Results

    folder = Results(args.profile, args.results).folder
    if project_root() is None or args.page_only:
        return print(write_report(folder))
    parameters = dict(profile=args.profile, fresh=False, workers=1, results=str(Path(args.results).resolve()) if args.results else "")
    there, failed = notebooks(), []
    jobs = {name: (path, folder / "notebooks" / f"{name}.ipynb", parameters) for name, path in there.items()}
    for i, (name, _, error) in enumerate(_side_by_side(jobs, args.workers), 1):
        missing = isinstance(error, NotThere)
        print(f"({i}/{len(jobs)}) {name}{': not yet run' * missing}", flush=True)
        if missing:
            note_missing(folder, name, there[name], str(error).removeprefix(f"{name}.ipynb: "))
        elif error:
            failed.append(error)
    print(write_report(folder))
    if failed:
        raise failed[0]


def _commit(args):
    _check_profile(args.profile)
    from ..ledger import commit
    from ..tables import Results

    moved = commit(Results(args.profile, args.results).ledger)
    print(f"{len(moved)} records moved")


def _distances(args):
    from ..files import write_atomic
    from ..ancestry import shipped
    from ..running import DISTANCES, measure_distances

    path = shipped().get(args.ancestry, Path(args.ancestry)) / DISTANCES
    if path.exists() and not args.again:
        raise ValueError(f"{path} is there; --again measures anew and replaces it.")
    found = measure_distances(args.ancestry, args.images)
    write_atomic(path, json.dumps(found) + "\n")
    print(f"{path}: {len(found['distances'])} layers, {found['images']} {found['part']} images of {found['data']}")


def _list(args):
    from .. import methods
    from ..ancestry import shipped
    from ..data import names
    from ..recipe import profiles

    rows = {"profiles": profiles(), "methods": methods.names(), "data sets": names(), "ancestries": list(shipped())}
    if project_root():
        rows = {"tables and figures": list(notebooks())} | rows
    for title, entries in rows.items():
        print(f"{title}: {', '.join(entries)}")


if __name__ == "__main__":
    main()
