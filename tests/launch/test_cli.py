"""What all launchers share: progress that a terminal and a log file can both bear."""

import io
import sys

import jax
import pytest

from launch import cli
from rapid_jax.decoding.programs import Programs


class Terminal(io.StringIO):
    """Standard error on a screen."""

    def isatty(self):
        return True


def test_a_bar_on_a_terminal_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with cli.progress("prefill", "tok") as progress:
        for done in (1, 2, 3):
            progress(done, 3)
    drawn = sys.stderr.getvalue()
    assert "prefill" in drawn and "\n" not in drawn
    assert drawn.endswith("\r") and not drawn.rstrip("\r").split("\r")[-1].strip()


def test_an_error_finds_a_clean_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(ValueError), cli.progress("loading", "B") as progress:
        progress(1, 3)
        raise ValueError("truncated")
    assert sys.stderr.getvalue().endswith("\r")


def test_a_log_file_gets_a_line_now_and_then(monkeypatch):
    clock = iter([0.0, 1.0, 12.0, 13.0, 30.0])
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with cli.progress("prefill", "tok") as progress:
        for done in (1000, 2000, 3000, 4000):
            progress(done, 4000)
    assert sys.stderr.getvalue() == (
        "prefill: 2,000 of 4,000 tok (50%), about 22 s left\nprefill: 4,000 of 4,000 tok (100%), about 0 s left\n"
    )


def test_a_loader_of_two_models_shows_two_bars(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with cli.progress("loading", "B") as progress:
        for done in (2, 4, 3, 6):
            progress(done, 4 if done in (2, 4) else 6)
    assert "/4.00" in sys.stderr.getvalue() and "/6.00" in sys.stderr.getvalue()


def compiled(programs, count):
    for size in range(1, count + 1):
        programs.get(jax.numpy.negative, (), (jax.numpy.ones(size),))


def test_a_terminal_says_that_it_compiles_while_it_does(monkeypatch):
    """Half a minute of silence looks like a hang."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    programs, shown = Programs(), []
    with cli.showing_compilation(programs):
        show = programs.on_compile
        programs.on_compile = lambda begins: (show(begins), shown.append(sys.stderr.getvalue()))
        compiled(programs, 1)
    during, behind = shown
    assert "compiling ..." in during and during.split("\r")[-1].strip() == "compiling ..."
    assert behind.endswith("\r") and not behind.rstrip("\r").split("\r")[-1].strip()


def test_a_log_file_is_told_of_compilations_now_and_then(monkeypatch):
    clock = iter([0.0, 5.0, 11.0, 11.0])
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    programs = Programs()
    with cli.showing_compilation(programs):
        programs.on_compile(True)
        programs.on_compile(False)
        programs.on_compile(True)
        programs.on_compile(False)
    programs.on_compile(True)
    assert sys.stderr.getvalue() == "compiling: program 2\n"


def test_a_failed_compilation_is_over_too():
    programs, told = Programs(), []
    programs.on_compile = told.append
    with pytest.raises(TypeError):
        programs.get(lambda x, y: x, (), (jax.numpy.ones(1),))
    assert told == [True, False]
