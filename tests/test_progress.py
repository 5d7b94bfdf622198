"Progress of long steps: a bar where it is wanted, a line in the log, silence elsewhere."

import logging

import pytest

import learngene as lg
from learngene.progress import is_shown, show_progress, step, track


@pytest.fixture(autouse=True)
def as_before():
    yield
    show_progress(None)


def test_silent_where_there_is_no_terminal(capsys):
    assert list(track([1, 2], "counting")) == [1, 2] and not is_shown()
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_standard_error_alone(capsys):
    show_progress(True)
    with step("outer", 2) as advance:
        assert [x for x in track(iter("ab"), "inner", 2)] == ["a", "b"]
        advance()
    out, err = capsys.readouterr()
    assert out == "" and "outer" in err and "inner" in err


def test_silent_when_asked(capsys, monkeypatch):
    monkeypatch.setenv("LEARNGENE_QUIET", "1")
    show_progress(True)
    list(track([1], "counting"))
    assert not is_shown() and capsys.readouterr().err == ""
    monkeypatch.delenv("LEARNGENE_QUIET")
    show_progress(False)
    assert not is_shown()


def test_only_the_first_process_draws(monkeypatch):
    show_progress(True)
    monkeypatch.setenv("RANK", "1")
    assert not is_shown()


def test_long_steps_log_their_seconds(caplog):
    caplog.set_level(logging.INFO, "learngene")
    ancestry, images = lg.load_ancestry("vit_nano_p2_8.digits"), lg.load_data("digits")
    lg.shrink(ancestry, images, params=0.2, max_images=40)
    lg.evaluate(ancestry, images.test)
    for title in ("reading images", "pricing parts", "solving", "solving layers", "measuring", "evaluating"):
        assert any(r.message.startswith(f"{title}: ") for r in caplog.records), title


def test_an_error_ends_the_display(capsys):
    show_progress(True)
    with pytest.raises(KeyError):
        for _ in track([1, 2], "failing"):
            raise KeyError
    list(track([1], "next"))
    assert "next" in capsys.readouterr().err
