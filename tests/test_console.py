"""Tables fit 80 columns; colour and progress are for terminals."""

import io
import sys

import pytest

from porter.console import open_console, print_table, working

LONG = "a norm over all heads after a projection that is split by heads " * 3
PATH = "model.decoder.layers.0.self_attn.q_proj.weight" * 3


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_long_cells_wrap_and_nothing_is_cut() -> None:
    stream = io.StringIO()
    rows = [("strip", 12, LONG)]
    print_table(["transform", "changes", "why"], rows, right=["changes"], stream=stream)
    shown = stream.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.split().count("heads") == LONG.split().count("heads")

    stream = io.StringIO()
    print_table(["path"], [(PATH,)], stream=stream)
    shown = stream.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert "".join(shown.split()).endswith(PATH)


def test_no_line_ends_in_blanks() -> None:
    stream = io.StringIO()
    print_table(["name", "value"], [("a", 1), ("bb", "2")], stream=stream)
    lines = stream.getvalue().split("\n")
    assert lines[-1] == ""
    assert lines[0].split() == ["name", "value"]
    assert all(line == line.rstrip() for line in lines)


def test_square_brackets_are_text() -> None:
    stream = io.StringIO()
    print_table(["shape"], [("[num_tokens, hidden]",)], stream=stream)
    assert "[num_tokens, hidden]" in stream.getvalue()


def test_no_colour_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    print_table(["name"], [("a",)], stream=stream)
    open_console(stream).print("word", style="bold red")
    assert "\x1b[" not in stream.getvalue()


def test_colour_on_a_terminal_unless_it_is_unwanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    open_console(stream).print("word", style="red")
    assert "\x1b[" in stream.getvalue()

    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    open_console(stream).print("word", style="red")
    assert "\x1b[31m" not in stream.getvalue()


def test_progress_is_silent_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with working("verifying"):
        pass
    assert stream.getvalue() == ""


def test_progress_names_the_work_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with working("verifying opt.py"):
        pass
    assert "verifying opt.py" in stream.getvalue()
