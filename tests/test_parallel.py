"Jobs side by side: processes that are killed, errors that travel, and how many run at a time."
import os
import signal
from pathlib import Path

import pytest
import torch

from learngene.parallel import default_workers, each, without_frames


def return_number(job):
    "Return the job's number; kill this process first if the job's flag says so."
    flag, number, always = job
    if flag and (always or not os.path.exists(flag)):
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_does_not_end_the_others(tmp_path):
    jobs = [("", 0, False), (str(tmp_path / "flag"), 1, False), ("", 2, False), ("", 3, False)]
    with pytest.warns(UserWarning, match="was killed.* continue with 1 at a time"):
        results = dict(each(jobs, return_number, 2))
    assert results == {job: job[1] for job in jobs}


def test_a_job_that_kills_its_process_alone_is_an_error(tmp_path):
    jobs = [("", 0, False), (str(tmp_path / "flag"), 1, True)]
    message = "killed with none beside it, 1 jobs are left; if memory ran out, set train.micro_batch"
    with pytest.warns(UserWarning, match="was killed"), pytest.raises(RuntimeError, match=message):
        list(each(jobs, return_number, 2))


class ErrorOfTwoWords(Exception):
    "An error that cannot be unpickled."

    def __init__(self, a, b):
        super().__init__(f"{a} {b}")


def test_an_error_that_cannot_be_pickled_becomes_a_runtime_error():
    error = without_frames(ErrorOfTwoWords("no", "luck"))
    assert type(error) is RuntimeError and str(error) == "ErrorOfTwoWords: no luck"
    assert type(without_frames(ValueError("x"))) is ValueError


def test_one_run_at_a_time_in_a_group_of_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_workers() == os.cpu_count() and default_workers(3) == 3
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert default_workers() == 1
