"""Labels as tables hold them, turned into class numbers, or refused with file, column and row."""
import math
import numbers
import unicodedata

import numpy as np

UNLABELLED = -1


def normal_name(name):
    "Return a class name in Unicode's composed form, without white space at its ends."
    return unicodedata.normalize("NFC", str(name)).strip()


def check_names(names, table, column):
    """Return class names in their normal form.

    Raises ValueError for two that are equal then, and for what are no names; it tells `table` and `column`.
    """
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, (str, int)) for name in names):
        raise ValueError(f"{table}: the class names of column {column!r} are {names!r:.80}, wanted a list of text; "
                         "write the file again.")
    first = {}
    for number, name in enumerate(map(normal_name, names)):
        if name in first:
            raise ValueError(f"{table}: classes {first[name]} and {number} of column {column!r} have one name, "
                             f"{ascii(names[first[name]])} and {ascii(names[number])}; rename or join them.")
        first[name] = number
    return list(first)


def clean_labels(values, table, column):
    """Return label values as whole numbers and text in normal form.

    Raises ValueError, with table, column and row, for a missing value and for what is no label of one class.
    """
    return [_clean(value, row, table, column) for row, value in enumerate(values)]


def _clean(value, row, table, column):
    where = f"{table}, column {column!r}, row {row}"
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str) and value.strip():
        return normal_name(value)
    if isinstance(value, (bool, int)):
        return int(value)
    missing = value is None or isinstance(value, str) or type(value).__name__ in ("NAType", "NaTType")
    if missing or isinstance(value, numbers.Number) and value != value:
        raise ValueError(f"{where}, has no label ({value!r}); write the row again or remove it.")
    if isinstance(value, (list, tuple, set, dict, np.ndarray)):
        raise ValueError(f"{where}, has {value!r:.60} for a label, wanted one class an image; "
                         "choose one, or remove the image.")
    try:
        whole = int(value) if isinstance(value, numbers.Number) and math.isfinite(value) else None
    except TypeError:  # a complex number
        whole = None
    if whole is None or whole != value:
        raise ValueError(f"{where}, has {value!r:.60} for a label, wanted a whole number or text; correct it.")
    return whole


def classes_of(values, table, column):
    "List the classes that clean labels name, in order. ValueError for text among numbers."
    kinds = {type(value) for value in values}
    if len(kinds) > 1:
        text = next(value for value in values if isinstance(value, str))
        raise ValueError(f"{table}: column {column!r} holds numbers and text such as {text!r}; use one of them.")
    return sorted(set(values))


def encode_labels(values, classes, table, column):
    """Turn clean label values into class numbers, an int64 array.

    Numbers are class numbers already, unless the classes are numbers, too; anything else is looked up in `classes`.
    -1 stands for no label where it is no class. Raises ValueError, with table and column, for a value that is no class.
    """
    numbered = all(isinstance(value, int) for value in values) and not all(isinstance(c, int) for c in classes)
    class_numbers = {c: number for number, c in enumerate(range(len(classes)) if numbered else classes)}
    class_numbers.setdefault(UNLABELLED, UNLABELLED)
    unknown = [row for row, value in enumerate(values) if value not in class_numbers]
    if not unknown:
        return np.array([class_numbers[value] for value in values], dtype=np.int64)
    row = unknown[0]
    if numbered:
        raise ValueError(f"{table}, column {column!r}, has labels from {min(values)} to {max(values)}, but "
                         f"{len(classes)} classes (the first beyond them in row {row}); wanted labels from 0 to "
                         f"{len(classes) - 1}, or -1 for none.")
    names = ", ".join(sorted({str(values[row]) for row in unknown})[:5])
    raise ValueError(f"{table}, column {column!r}, has labels {names} that are not among the classes of train (the "
                     f"first in row {row}); correct them, or add the classes to train.")
