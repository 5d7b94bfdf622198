"""Jobs side by side, each in a fresh process of one thread that outlives neither its jobs nor its parent."""
import multiprocessing
import os
import pickle
import sys
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager


def default_workers(
    workers=None,  # the number asked for; None or 0 = the default
) -> int:
    "Worker count: the given value, else one per core, or 1 on a GPU or with WORLD_SIZE > 1."
    import torch

    alone = torch.cuda.is_available() or int(os.environ.get("WORLD_SIZE", 1)) > 1
    return workers or (1 if alone else os.cpu_count())


def each(
    jobs,  # in the order in which they start
    do,  # called with a job; it, the jobs and its results must pickle
    workers: int,  # jobs side by side, each in a process of its own; up to 1: all of them in this process
):
    """Yield (job, result) as jobs finish.

    When a process is killed, the rest continues with half the workers; RuntimeError when it ran alone."""
    if workers <= 1:
        for job in jobs:
            yield job, do(job)
        return
    left = list(jobs)
    while left:
        try:
            for job, result in _side_by_side(list(left), do, workers):
                left.remove(job)
                yield job, result
        except BrokenProcessPool:
            if workers == 1:
                raise RuntimeError(f"a process was killed with none beside it, {len(left)} jobs are left; "
                                   "if memory ran out, set train.micro_batch.") from None
            workers //= 2
            warnings.warn(f"a process was killed, perhaps because memory ran out; {len(left)} jobs are left and "
                          f"continue with {workers} at a time.", stacklevel=2)


def _side_by_side(jobs, do, workers):
    "Yield (job, result) as jobs finish. BrokenProcessPool when a process dies."
    context = multiprocessing.get_context("spawn")  # a forked process could not use a GPU
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        with _without_main():
            job_of = {pool.submit(do, job): job for job in jobs}
        try:
            for future in as_completed(job_of):
                yield job_of[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _without_main():
    """Keep new processes from running the caller's script again.

    They need none of it, and it may lack a main guard.
    """
    main = sys.modules["__main__"].__dict__
    kept = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        del main["__spec__"]
        main.update(kept)


def _start_worker():
    "Use one thread, and exit when the parent does, instead of waiting for jobs that never come."
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()


def without_frames(
    error: Exception,  # that was caught
) -> Exception:  # the same, or a RuntimeError in its words when it cannot go to another process
    "Strip an error of its frames, which would keep a run's model and images in memory."
    error.__traceback__ = error.__context__ = error.__cause__ = None
    try:
        pickle.dumps(error)
        rebuild, arguments = error.__reduce__()[:2]
        rebuild(*arguments)
    except Exception:  # pickle and the error's own constructor raise many types
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return error
