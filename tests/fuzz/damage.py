"Seeded damage to bytes and to JSON-like values."

import copy
import random

VALUES = (None, True, 0, -1, 1, 2**31, 10**30, 0.5, -1.5, 1e308, float("nan"), float("inf"), "", "x", "ü\n", "9" * 50, [],
          {}, [1], {"a": 1}, [[]], "../x", "nan")  # fmt: skip


def places(value, path=()):
    "Every place inside nested dicts and lists."
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def change_value(rng: random.Random, value):
    "A copy with one entry replaced, removed, repeated, renamed or moved; and where."
    value = copy.deepcopy(value)
    path = rng.choice([place for place in places(value) if place])
    *parents, last = path
    inner = value
    for parent in parents:
        inner = inner[parent]
    kind = rng.choice(("replace", "replace", "replace", "remove", "repeat", "rename", "grow"))
    if kind == "remove":
        del inner[last]
    elif kind == "repeat" and isinstance(inner, list):
        inner.insert(last, copy.deepcopy(inner[last]))
    elif kind == "rename" and isinstance(inner, dict):
        inner[str(last) + "x"] = inner.pop(last)
    elif kind == "grow" and isinstance(inner[last], (int, float)) and not isinstance(inner[last], bool):
        inner[last] = inner[last] * rng.choice((-1, 2, 0, 1000, 10**6)) + rng.choice((0, 1))
    else:
        inner[last] = copy.deepcopy(rng.choice(VALUES))
    return value, f"{kind} {'.'.join(map(str, path))}"


def change_bytes(rng: random.Random, raw):
    "A copy with bits flipped, a part cut, repeated, zeroed or put in; and what was done."
    raw, kind = bytearray(raw), rng.choice(("flip", "flip", "cut", "head", "zero", "repeat", "insert", "swap"))
    at = rng.randrange(len(raw)) if rng.random() < 0.5 else rng.randrange(min(len(raw), 400))
    size = rng.choice((1, 4, 16, 256, 4096))
    if kind == "flip":
        raw[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del raw[at:]
    elif kind == "head":
        del raw[:at]
    elif kind == "zero":
        raw[at:at + size] = bytes(len(raw[at:at + size]))
    elif kind == "repeat":
        raw[at:at] = raw[at:at + size]
    elif kind == "insert":
        raw[at:at] = rng.randbytes(size)
    else:
        other = rng.randrange(len(raw))
        raw[at], raw[other] = raw[other], raw[at]
    return bytes(raw), f"{kind} at {at}"
