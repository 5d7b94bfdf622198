"Parameters of a notebook: names and literals of one cell, and the values that are given in place of them."
import ast

from .files import near, shorten


def literals_of(
    source: str,  # of a cell of assignments
    where: str,  # how an error calls it
) -> dict:  # name -> value
    "Read a cell of NAME = literal. ValueError for anything else in it."
    try:
        assignments = ast.parse(source).body  # NAME = literal, or NAME: type = literal
        targets = [(a.target if isinstance(a, ast.AnnAssign) else a.targets[0]).id for a in assignments]
        return {name: ast.literal_eval(a.value) for name, a in zip(targets, assignments)}
    except (SyntaxError, ValueError, AttributeError):
        raise ValueError(f"{where} may hold nothing but NAME = literal.") from None


def check_values(
    known: dict,  # name -> default
    values: dict,  # name -> value that is given
    where: str,  # how an error calls the notebook
) -> None:
    "Raise ValueError unless every value fits a parameter, by name and type."
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{where} has no parameter {name!r}{near(name, known)}; it has {', '.join(known)}.")
        if type(value) is not type(known[name]):
            raise ValueError(f"{where}: {name} is {shorten(value)}, wanted {type(known[name]).__name__}, "
                             f"as in {name}={known[name]!r}.")


def check_injected() -> None:
    """Raise ValueError for parameters that papermill injected and the notebook does not know.

    Papermill itself only warns of them, and runs the defaults. Call it in the cell below; without papermill there is
    nothing to check.
    """
    try:
        cells = get_ipython().user_ns["In"]
    except (NameError, KeyError):  # no IPython
        return
    injected = [i for i, source in enumerate(cells[:-1]) if source.startswith("# Parameters\n")]
    if injected and injected[-1] > 0:
        known = literals_of(cells[injected[-1] - 1], "the cell of parameters")
        check_values(known, literals_of(cells[injected[-1]], "the injected cell"), "this notebook")
