"Whether a record is what it says: its key is its recipe's, its numbers are possible, its file has its own name."
import math
import re
from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr

from .files import can_name_files, shorten
from .recipe import key_of

SEEN = ".safetensors"  # ends the name of a small file beside a record: what was looked at in its trained model
RECORD_FILE = re.compile(r"(?P<name>.+)-s(?P<seed>\d+)-(?P<key>[0-9a-f]{12})")  # without its ending


def _be_a_name(text):
    if not can_name_files(text):
        raise ValueError("one that can be a file's")
    return text


# Types of a record's fields. It is used as it was read, so text is no number, and 1 is not true.
Flag, Text = StrictBool, StrictStr
Whole = Annotated[StrictInt, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Key = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{12}$")]
Name = Annotated[StrictStr, AfterValidator(_be_a_name)]


def finite_or_none(
    value,  # of a result
):  # None for NaN and infinity, which JSON does not know
    "Return a value as a record can hold it."
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_name(
    record: dict,  # of a run
) -> str:
    "Name, seed and key of the run."
    info = record["run_info"]
    return f"{info['name']}-s{info['seed']}-{info['key']}.json"


def check_identity(
    record: dict,  # with all its fields
    path,  # how an error calls it
) -> None:
    "Raise ValueError unless key, name and seed are those of the recipe inside."
    info, recipe = record["run_info"], record["meta_info"]["recipe"]
    try:
        own = dict(key=key_of(recipe), name=recipe.get("name"), seed=recipe.get("seed"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: meta_info.recipe is no recipe ({shorten(str(error))}); "
                         "remove it and run again.") from None
    for name, value in own.items():
        if info[name] != value or type(info[name]) is not type(value):
            raise ValueError(f"{path}: run_info.{name} is {shorten(info[name])}, but the recipe inside says "
                             f"{shorten(value)}: it was edited; remove it and run again.")


def check_place(
    record: dict,  # as it was read
    path,  # a Path, where it lies
    counts: bool,  # whether records count that lie there
) -> dict:  # the same
    "Raise ValueError unless a record lies under its own name, and in a store where it belongs."
    if path.name != file_name(record):
        raise ValueError(f"{path} holds the record {file_name(record)}; give it this name, or remove it.")
    if counts and not record["run_info"]["code"]["clean"]:
        raise ValueError(f"{path}: run_info.code.clean is False, so it does not count; move it to local/dirty, or "
                         "remove it.")
    return record


def files_of(
    store,  # a folder, as a Path
    key: str,  # of a record
) -> set:  # of Paths
    "Find a key's record, under whatever name, and the file beside it; nobody else's files."
    names = {path: RECORD_FILE.fullmatch(path.stem) for path in store.glob(f"*-{key}.*")}
    return {path for path, match in names.items() if match and match["key"] == key and path.suffix in (".json", SEEN)}
