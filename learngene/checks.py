"Checks that many options share: one of some names, a whole number."
from .files import near


def check_choices(
    **choices,  # option = (value, known values)
) -> None:
    "Raise ValueError for the first option whose value is not known, with the near one."
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name} is {value!r}{near(value, known)}; give one of {', '.join(known)}.")


def changed(
    **options,  # option = (value, default)
) -> dict:  # option -> value
    "Return the options that are not at their default."
    return {name: value for name, (value, default) in options.items() if value != default}


def whole_number(x):
    "Return x as an int when it is a whole number of any type, else None."
    try:
        return int(x) if int(x) == x else None
    except (TypeError, ValueError, OverflowError):
        return None
