"Checking a method's options when it is made, long before it is used."
import numbers

from ..files import near


def check_options(
    method,  # a dataclass of options
    **rules,  # option -> allowed names and types (a tuple), least whole number (an int), or exclusive bound (a float)
) -> None:
    """Raise ValueError for the first option that breaks its rule, with the near name.

    None passes where it is the option's default; True and False never do.
    """
    for name, rule in rules.items():
        value = getattr(method, name)
        if value is None and getattr(type(method), name) is None:
            continue
        wanted = _violated(value, rule)
        if wanted:
            known = [k for k in rule if isinstance(k, str)] if isinstance(rule, tuple) else []
            raise ValueError(f"{name} is {value!r}{near(value, known)}, wanted {wanted}.")


def _violated(value, rule):
    "Describe what a value should have been; None when it keeps the rule."
    if isinstance(rule, tuple):
        kinds = tuple(k for k in rule if isinstance(k, type))
        fine = value in [k for k in rule if isinstance(k, str)] or isinstance(value, kinds)
        wanted = f"one of {', '.join(k if isinstance(k, str) else f'a {k.__name__}' for k in rule)}"
    elif isinstance(rule, int):
        fine, wanted = isinstance(value, numbers.Integral) and value >= rule, f"a whole number of at least {rule}"
    else:
        fine, wanted = isinstance(value, numbers.Real) and value > rule, f"a number of more than {rule:g}"
    return None if fine and not isinstance(value, bool) else wanted
