"The paper notebooks: where they are, which parameters they take, and how one or several of them run."

import contextlib
import io
import json
import logging
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from ..files import project_root
from ..parameters import check_values, literals_of


class NotebookLacksInput(RuntimeError):
    "A notebook lacks records, a recipe or images."


def notebooks():
    """Map the name of each paper notebook to its path, in the paper's order.

    Raises FileNotFoundError outside a checkout.
    """
    root = project_root()
    if root is None:
        raise FileNotFoundError(
            "the paper notebooks are not here: run this in a checkout of the project "
            "(the library alone has recipes, but no notebooks)."
        )
    paths = {p.stem: p for p in (root / "nbs" / "paper").glob("*.ipynb")}
    return dict(sorted(paths.items(), key=lambda item: (not item[0].startswith("figure1"), item[0])))


def parameters_of(path):
    """Read names and defaults of a notebook's parameters.

    Raises ValueError unless it has one cell tagged `parameters`, of literals.
    """
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{path} has {len(tagged)} cells tagged 'parameters', wanted exactly one.")
    return literals_of(tagged[0], f"{path}: the parameters cell")


def check_parameters(path, values):
    "Raise ValueError unless every value fits a parameter of the notebook, by name and type."
    check_values(parameters_of(path), values, Path(path).name)


def sweeps_shown(path, values):
    "Name the sweeps that a notebook shows with these parameters."
    return [value for name, value in (parameters_of(path) | values).items() if name.startswith("sweep")]


def run_notebook(path, output, parameters):
    "Execute one paper notebook with papermill and print its output as it comes."
    import papermill

    check_parameters(path, parameters)
    path, output = Path(path), Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger("papermill")
    log.handlers[:] = [_OutputPrinter()]
    log.setLevel(logging.INFO)
    log.propagate = False
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        papermill.execute_notebook(
            str(path),
            str(output),
            parameters,
            kernel_name="python3",
            cwd=str(path.parent),
            log_output=True,
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
    except papermill.PapermillExecutionError as e:
        if e.ename in ("NotRun", "FileNotFoundError"):
            raise NotebookLacksInput(f"{path.name}: {e.evalue}") from None
        raise RuntimeError(
            f"{path.name} stopped at {e.ename}: {e.evalue} (the executed notebook, with the error in it, is {output})"
        ) from None


class _OutputPrinter(logging.Handler):
    "Print what notebooks print; keep papermill's own messages back, but for warnings."

    def emit(self, record):
        text = record.getMessage().rstrip()
        printed_by_notebook = record.funcName == "log_output_message" and text and not text.startswith("<")
        if printed_by_notebook or record.levelno >= logging.WARNING:
            print("    " + text.replace("\n", "\n    "), flush=True)


def replay_notebooks(jobs, workers):
    """Run notebooks from records alone, several at a time.

    `jobs` maps a name to the arguments of `run_notebook`. Yields (name, printed text, error or None) in the order
    of `jobs`, so that what each notebook prints stays together.
    """
    if not jobs:
        return
    with ProcessPoolExecutor(min(len(jobs), workers or os.cpu_count()), mp_context=get_context("spawn")) as pool:
        futures = {name: pool.submit(_replay, *arguments) for name, arguments in jobs.items()}
        for name, future in futures.items():
            yield name, *future.result()


def _replay(path, output, parameters):
    """Run one notebook in this process without training.

    Returns what it printed, and its error or None.
    """
    os.environ.update(LEARNGENE_REPLAY="1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    error = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            run_notebook(path, output, parameters)
        except (RuntimeError, ValueError) as e:
            error = e
    return printed.getvalue().rstrip(), error
