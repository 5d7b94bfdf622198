"A few seconds of fuzzing, always the same cases; `make fuzz` goes on where this ends."

import pytest

from fuzz.runner import Case, end_of, quick_cases, targets


@pytest.mark.parametrize("name", targets())
def test_no_faults(name):
    ends = {case.name: end_of(case) for case in quick_cases(targets()[name])}
    assert ends and not {name: words for name, (end, words) in ends.items() if end == "fault"}


def _raise(error):
    raise error


@pytest.mark.parametrize("error, mentions, end, words", [
    (ValueError("x.json has no key."), ("x.json",), "refused", ""), (ValueError("it is bad."), (), "refused", ""),
    (FileNotFoundError(2, "no such file", "x.json"), ("x.json",), "refused", ""),
    (ValueError("it has no key."), ("x.json", "z"), "fault", "names none of x.json, z"),
    (ValueError("one\ntwo."), (), "fault", "2 lines"), (ValueError(), (), "fault", "no sentence"),
    (TypeError("'NoneType' object is not callable"), (), "fault", "no sentence"),
    (KeyError("it."), (), "fault", "no stated error"), (RuntimeError("it."), (), "fault", "no stated error"),
    (UnicodeDecodeError("utf-8", b"", 0, 1, "it."), (), "fault", "no stated error")], ids=repr)
def test_what_counts_as_a_fault(error, mentions, end, words):
    said = end_of(Case("case", lambda: _raise(error), mentions))
    assert said[0] == end and words in said[1]
