"Go through the cases of fuzz targets, and count cases and faults."

import importlib
import itertools
import pkgutil
import time
import warnings
from collections import Counter
from typing import NamedTuple
from collections.abc import Callable

import fuzz

STATED = (ValueError, TypeError, OSError)  # what the library raises for bad input


class Case(NamedTuple):
    "One input and what is done with it."

    name: str  # with which it can be found again
    run: Callable  # takes nothing
    mentions: tuple = ()  # one of these stands in the message of an error


def targets() -> dict:  # name -> module
    "Import every module of the package that has `cases`."
    names = sorted(m.name for m in pkgutil.iter_modules(fuzz.__path__) if m.name not in ("runner", "__main__"))
    modules = {name: importlib.import_module(f"fuzz.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "cases")}


def end_of(
    case: Case,
) -> tuple:  # ("right", ""), ("refused", message), or ("fault", what was wrong, in one line)
    "Run a case and judge how it ends."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.run()
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        first = f"{type(error).__name__}: {lines[0]}"
        if not (type(error) in STATED or isinstance(error, OSError)):
            return "fault", f"{first} (no stated error)"
        if len(lines) != 1:
            return "fault", f"{first} (a message of {len(lines)} lines)"
        if not isinstance(error, OSError) and not first.endswith("."):
            return "fault", f"{first} (no sentence)"  # of Python or PyTorch, by accident
        if case.mentions and not any(str(thing) in first for thing in case.mentions):
            return "fault", f"{first} (names none of {', '.join(map(str, case.mentions))})"
        return "refused", first
    return "right", ""


def quick_cases(
    target,  # a module with `cases`
) -> list:  # of Case
    "List the cases of a target that `make test` tries."
    return [Case(*case) for case in itertools.islice(target.cases(0), target.QUICK)]


def fuzz_for(
    seconds: float,
    names=(),  # of targets; none = all
    first_seed=1,
    log=print,
) -> dict:  # target -> Counter of "right", "refused" and "fault"
    "Fuzz targets in turn, a seed each, until the time is over; log faults as they come."
    chosen, deadline = targets(), time.monotonic() + seconds
    chosen = {name: chosen[name] for name in names or chosen}
    counts = {name: Counter() for name in chosen}
    for seed in itertools.count(first_seed):
        for name, target in chosen.items():
            for case in target.cases(seed):
                end, words = end_of(Case(*case))
                counts[name][end] += 1
                if end == "fault":
                    log(f"fault in {name}, seed {seed}, {case[0]}: {words}")
                if time.monotonic() > deadline:
                    return counts
