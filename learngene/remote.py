"""Runs on other machines: any executor in the form of `concurrent.futures`, such as dask's or submitit's.

A run travels as its recipe, with the weights of the models it starts from where a run trains them, and comes back as
its record. Whoever sends it writes the record; nothing is written elsewhere but in a folder that goes again.
"""
import math
import threading
import time
from concurrent.futures import Future, as_completed
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from .checkpoints import CheckpointPolicy
from .ledger import Ledger
from .optional import require
from .parallel import without_frames
from .provenance import source_digest

ONE_RUN = threading.Lock()  # a run seeds the generators of its whole process


def pack_folder(
    folder,  # of a trained model
) -> dict:  # name of a file -> bytes
    "Read a model's folder, so that it can travel."
    return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir()) if file.is_file()}


def run_away(
    run,  # `learngene.running.run`
    recipe,  # a Recipe
    parents: dict,  # name of a trained model's folder -> its files, from `pack_folder`
    source: str,  # digest of the sender's code
    modules=(),  # modules that register methods of the sender's own
    seconds=math.inf,  # stop before so many have passed
    **run_options,  # engine, compile and deterministic, as in `fit`
):  # the record, or the exception that ended the run
    "Do one run where nothing is kept but the record that is returned."
    until = time.monotonic() + seconds
    with ONE_RUN, TemporaryDirectory() as home:
        try:
            if source_digest() != source:
                raise RuntimeError("this worker has another version of learngene than the sender; install the same.")
            for name in modules:
                import_module(name)
            for name, files in parents.items():
                folder = Path(home) / "ancestries" / name
                folder.mkdir(parents=True)
                for file, content in files.items():
                    (folder / file).write_bytes(content)
            if not torch.cuda.is_available():
                torch.set_num_threads(1)  # as the processes of one machine
            policy = None if math.isinf(seconds) else CheckpointPolicy(seconds=seconds, until=until)
            return run(recipe, Ledger(Path(home) / "ledger"), on_epoch=False, home=home, policy=policy, **run_options)
        except Exception as error:
            return without_frames(error)


def each_away(
    runs,  # each with a `recipe`, e.g. ResolvedRuns
    executor,  # has `submit(function, *arguments, **options)`
    run,  # `learngene.running.run`
    folders_of,  # called with one of them: folders of the trained models that it starts from
    ledger,  # where records are written, on this side alone
    **options,  # further arguments of `run_away`
):
    "Yield (run, record or exception) as they finish; cancel what is left on the way out."
    run_of = {}
    for resolved in runs:
        parents = {folder.name: pack_folder(folder) for folder in folders_of(resolved)}
        run_of[executor.submit(run_away, run, resolved.recipe, parents, source_digest(), **options)] = resolved
    try:
        for future in in_order_of_completion(run_of):
            result = _result(future)
            if not isinstance(result, Exception):
                ledger.add(result)
            yield run_of[future], result
    finally:
        for future in run_of:
            if not future.done():
                future.cancel()


def in_order_of_completion(
    futures,  # of `concurrent.futures`, or other objects with `done` and `result`, such as submitit's jobs
    pause=0.5,  # seconds between two looks at the others
):
    "Yield futures as they are done."
    left = list(futures)
    if all(isinstance(future, Future) for future in left):
        yield from as_completed(left)
        return
    while left:
        done = [future for future in left if future.done()]
        yield from done
        left = [future for future in left if future not in done]
        if not done:
            time.sleep(pause)


def _result(future):
    "Return a future's result, or the exception with which its worker was lost."
    try:
        return future.result()
    except Exception as error:
        return without_frames(error)


def start_executor(
    dask=None,  # address of a dask scheduler, e.g. "tcp://10.0.0.1:8786"
    submitit=None,  # folder for the logs of submitit's jobs, on a file system that all machines share
    timeout=20,  # seconds to wait for the scheduler
):  # an executor, or None
    """Start the executor that a command line asks for.

    ImportError when its library is missing, ValueError for two, OSError when a scheduler cannot be reached.
    """
    if dask and submitit:
        raise ValueError("give --dask or --submitit, not both.")
    if dask:
        distributed = require("distributed", "--dask")
        try:
            return distributed.Client(dask, timeout=timeout).get_executor(pure=False)
        except (OSError, ValueError) as error:
            raise OSError(f"no dask scheduler answers at {dask} ({type(error).__name__}); start one by `dask "
                          "scheduler`, workers by `dask worker ADDRESS --nthreads 1`, and give its address.") from None
    if submitit:
        executor = require("submitit", "--submitit").AutoExecutor(folder=submitit)
        executor.update_parameters(timeout_min=24 * 60, cpus_per_task=1)
        return executor
    return None
