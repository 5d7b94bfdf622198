"""Run notebooks in processes forked from a warm one, which has imported torch and the plotting packages already.

Jupyter starts a new interpreter for each notebook, and importing torch takes longer than most notebooks do. Here a
server process imports once; each notebook runs in a fork of it, isolated from the others.
"""

import gc
import json
import os
import traceback
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

SLOW_IMPORTS = [
    "torch",
    "learngene",
    "timm",
    "matplotlib.pyplot",
    "pandas",
    "scipy.stats",
    "sklearn.datasets",
    "accelerate",
    "learngene.tables",
    "execnb.shell",
    "papermill.iorw",
    "papermill.parameterize",
]


def execute(path, parameters=None, environment=None):
    """Run a notebook from top to bottom in its folder; return it as a dict, with outputs.

    `parameters` are injected as papermill does; `environment` is added to the process's variables. An error in a
    cell is an AssertionError that shows the cell and the traceback.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(SLOW_IMPORTS)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        notebook, error = pool.submit(
            _execute, Path(path).resolve(), parameters, os.environ | (environment or {})
        ).result()
    assert error is None, error
    return notebook


def _execute(path, parameters, environment):
    "Run a notebook in this process; (notebook, what went wrong or None)."
    gc.freeze()  # what the server has imported is no garbage, and takes long to look through
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(path.parent)
    from execnb.shell import CaptureShell

    notebook = _with_parameters(path, parameters)
    shell = CaptureShell(mpl_format="png")
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            cell["outputs"] = list(shell.run(source))
            if shell.exc:
                trace = "".join(traceback.format_exception(shell.exc))
                return notebook, f"{path.name}, cell:\n{source}\n\n{trace}"
    return json.loads(json.dumps(notebook, default=str)), None


def _with_parameters(path, parameters):
    "The notebook as a dict, with a cell of parameters after its own, as papermill puts it there."
    if not parameters:
        return json.loads(path.read_text(encoding="utf-8"))
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    return json.loads(nbformat.writes(parameterize_notebook(load_notebook_node(str(path)), parameters)))
