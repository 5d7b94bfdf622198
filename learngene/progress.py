"""Progress of long steps: a bar with the time left on a terminal, a line in the log when a step ends.

The log is `logging.getLogger("learngene")`, at level INFO. Where standard error is no terminal nothing is drawn.
"""
import logging
import os
import sys
import time
from contextlib import contextmanager

from .files import is_first_process

LOG = logging.getLogger("learngene")
LOG.addHandler(logging.NullHandler())
_shown = None  # True: always, False: never, None: on a terminal
_bars = None  # rich's display while a step is shown; steps inside it add their bars to it


def show_progress(
    shown: bool | None,  # True: always, False: never, None: where standard error is a terminal
) -> None:
    "Choose whether long steps draw a bar. LEARNGENE_QUIET=1 in the environment silences all."
    global _shown
    _shown = shown


def is_shown() -> bool:
    "Whether long steps draw a bar now."
    if os.environ.get("LEARNGENE_QUIET", "0") not in ("", "0") or not is_first_process():
        return False
    return sys.stderr.isatty() if _shown is None else _shown


def track(
    items,  # what a loop runs over
    title: str,  # of the step, e.g. "pricing layers"
    total=None,  # number of items; None = their length, where they have one
):  # yields the items
    "Loop over items with a bar and the time left; log the seconds when they are done."
    total = len(items) if total is None and hasattr(items, "__len__") else total
    with step(title, total) as advance:
        for item in items:
            yield item
            advance()


@contextmanager
def step(
    title: str,  # of the step
    total=None,  # parts that it has; None = unknown
):  # the context is a function to call after each part
    "Show one step while the block runs; log its seconds at the end."
    start = time.perf_counter()
    with _bar(title, total) as advance:
        yield advance
    LOG.info("%s: %.1f s", title, time.perf_counter() - start)


@contextmanager
def _bar(title, total):
    "Draw a bar on standard error, below those of the steps around it."
    global _bars
    if not is_shown():
        yield lambda: None
        return
    outermost = _bars is None
    _bars = _bars or _new_display()
    bars = _bars
    task = bars.add_task(title, total=total)
    if outermost:
        bars.start()
    try:
        yield lambda: bars.advance(task)
    finally:
        bars.remove_task(task)
        if outermost:
            bars.stop()
            _bars = None


def _new_display():
    "Make rich's transient display of title, bar, count, time so far and time left."
    from rich import progress
    from rich.console import Console

    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn(),
               progress.TimeElapsedColumn(), progress.TextColumn("left:"), progress.TimeRemainingColumn())
    return progress.Progress(*columns, console=Console(stderr=True, force_terminal=_shown), transient=True,
                             redirect_stdout=sys.stdout.isatty())
