"""Pydantic's validation with errors of one line: where, which key, its value, what was wanted, and the near name."""
import functools
from math import isfinite, prod
from types import NoneType, UnionType
from typing import Annotated, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, TypeAdapter, ValidationError

from .files import can_name_files, near, shorten


def as_number(value):
    "Turn text such as \"5e-4\" into a float; leave the rest to the checks that follow."
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


# Types of fields. True is no number and 1.0 no int, but an int becomes a float where a float belongs.
MOST_RUNS = 10_000  # of one sweep
MOST = 2**32 - 1  # of whole numbers: what NumPy takes for a seed
Count = Annotated[StrictInt, Field(ge=0, le=MOST)]
Positive = Annotated[StrictInt, Field(ge=1, le=MOST)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False), BeforeValidator(as_number)]
Amount = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Positives = Annotated[list[Positive], Field(strict=True, min_length=1)]
Shares = Annotated[list[Annotated[float, Field(strict=True, ge=0, le=1)]], Field(min_length=1)]
Mapping = Annotated[dict, Field(strict=True)]


def check_plain(value, place="it"):
    "Return a value that JSON can hold. ValueError names the place of one that it cannot."
    if isinstance(value, dict):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            raise ValueError(f"text as keys, not {shorten(odd[0])}, in {place}")
        for key, inner in value.items():
            check_plain(inner, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            check_plain(inner, f"{place}[{i}]")
    elif not (value is None or isinstance(value, (str, bool, int)) or isinstance(value, float) and isfinite(value)):
        raise ValueError(f"text, finite numbers, lists and mappings, not {shorten(value)}, in {place}")
    return value


def check_different(values):
    "Return a list. ValueError when a value is in it twice."
    if len(set(values)) < len(values):
        raise ValueError("values that are all different")
    return values


def check_sweep(
    name,  # of the sweep
    vary,  # axis -> label -> changes
    seeds,  # whole numbers
):
    "Raise ValueError unless a sweep's name can be a folder's, and its runs can be counted."
    if not can_name_files(name):
        raise ValueError(f"name is {shorten(name)}, wanted one that can be a folder's.")
    count = prod(map(len, vary.values())) * len(seeds)
    if count > MOST_RUNS:
        raise ValueError(f"the axes and seeds make {shorten(count)} runs, at most {MOST_RUNS:,} are possible; "
                         "split the sweep.")


PlainMapping = Annotated[Mapping, AfterValidator(check_plain)]  # as a file can hold it
Seeds = Annotated[list[Count], Field(strict=True, min_length=1), AfterValidator(check_different)]


def validate(
    model,  # a pydantic dataclass or model
    values,  # nested dicts
    name,  # of what is validated, e.g. a file
):  # an instance of the model
    "Validate nested dicts. ValueError: one line with name, key, value and what was wanted."
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    raise ValueError(f"{name}: {explain(problems, model)}")


def one_line_errors(cls):
    "Let a pydantic dataclass raise errors of one line when Python code constructs it."
    construct = cls.__init__

    @functools.wraps(construct)
    def __init__(self, *args, **values):
        problems = None
        try:
            construct(self, *args, **values)
        except ValidationError as error:
            problems = error.errors(include_url=False)
        if any(problem["type"] == "unexpected_positional_argument" for problem in problems or []):
            raise TypeError(f"{cls.__name__} takes fewer values than {len(args)}; give them by name: "
                            f"{', '.join(fields_of(cls))}.")
        if problems:  # outside of `except`, so that pydantic's error is not shown above
            raise ValueError(f"{cls.__name__}: {explain(problems, cls)}")

    cls.__init__ = __init__
    return cls


# The text of an error is ours: pydantic's takes several lines, and names neither the file nor the near key.
WANTED = {
    "int_type": "int", "float_type": "float", "string_type": "str", "bool_type": "bool", "dict_type": "dict",
    "list_type": "list", "finite_number": "a finite number", "literal_error": "{expected}",
    "greater_than_equal": "at least {ge:g}", "greater_than": "more than {gt:g}", "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:.10g}", "too_short": "at least {min_length} of them", "value_error": "{error}",
    "string_pattern_mismatch": "text like {pattern}",
}
UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden", "invalid_key")


def explain(
    problems,  # of a ValidationError
    model,  # that was validated
) -> str:
    "Put the first problem into one line; a misspelt key comes before all else."
    first = next((p for p in problems if p["type"] in UNKNOWN_KEY), problems[0])
    field, hint = find_field(first["loc"], model)
    if first["type"] in UNKNOWN_KEY:
        *parents, key = first["loc"]
        known = fields_of(type_at(parents, model))
        place = f"{place_of(parents)}: " if parents else ""
        return f"{place}unknown key {shorten(key)}{near(key, known)}; known are {', '.join(known)}."
    if first["type"] == "missing":
        return f"{place_of(first['loc'])!r} is missing."
    same = [p for p in problems if p["loc"][: len(field)] == field]
    problem = max(same, key=lambda p: len(p["loc"]))  # each type of a union has one: that of the type that fits best
    inside = problem["loc"][len(field) + (len(types_of(hint)) > 1):]
    wanted = words(problem, hint, inside)
    if not field and problem["type"] == "value_error":  # a rule about several keys
        return wanted
    path = ".".join(field) + "".join(f"[{shorten(place)}]" for place in inside)
    return f"{path or 'it'} is {shorten(problem['input'])}, wanted {wanted}."


def words(problem, hint, inside) -> str:
    "Say what was wanted: other types, or a value within a limit."
    kind, may_be_empty = problem["type"], " or nothing" * (NoneType in get_args(hint) and not inside)
    if kind in ("dataclass_type", "model_type"):
        return "keys: " + ", ".join(fields_of(hint))
    if kind.endswith("_type") and not inside:
        return " or ".join((get_origin(t) or t).__name__ for t in types_of(hint)) + may_be_empty
    if kind in WANTED:
        return WANTED[kind].format(**problem.get("ctx", {})) + may_be_empty
    return problem["msg"].removeprefix("Input should be ")


def find_field(loc, model):
    "Find the names of the fields that lead to a place, and the type of the last."
    names = []
    for name in loc:
        known = fields_of(model)
        if not known:
            break
        names.append(name)
        model = known.get(name)
    return tuple(names), model


def type_at(loc, model):
    "Find the type at a place, also of a list's elements and a dict's values."
    for step in loc:
        kind = types_of(model)[0]
        inner = get_args(kind)[-1] if get_origin(kind) in (list, dict) else None
        model = inner or fields_of(kind).get(step)
    return types_of(model)[0]


def place_of(loc) -> str:
    "Write the keys and indices that lead to a place, e.g. clusters[0].mean."
    steps = [f"[{step}]" if isinstance(step, int) else f".{shorten(step, quote=False)}" for step in loc]
    return "".join(steps).removeprefix(".")


def fields_of(model) -> dict:
    "Name -> type of the fields of a pydantic class; nothing for other types."
    names = getattr(model, "__pydantic_fields__", {})
    hints = get_type_hints(model) if names else {}
    return {name: hints[name] for name in names}


def types_of(hint) -> list:
    "List the types of a union but for None, or the one type."
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    return [kind for kind in kinds if kind is not NoneType]
