"""What `porter` does before any command runs, and when a command fails."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from porter import __version__
from porter.cli import COMMANDS, main
from porter.commands import convert
from porter.gap import CannotRun, Gap, Refused
from tests.cli.conftest import Porter
from tests.processes import ROOT


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"porter {__version__}\n"


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_fits_80_columns(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    if not arguments:
        assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_what_it_does(name: str) -> None:
    assert importlib.import_module(f"porter.commands.{name}").__doc__


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["--frobnicate"],
        ["convert"],
        ["convert", "opt", "--frobnicate"],
        ["convert", "opt", "--vllm", "0.1"],
        ["convert", "opt", "--arc", "OPTForCausalLM"],
        ["verify"],
        ["verify", "opt.py", "--tp", "0"],
        ["verify", "opt.py", "--tp", "two"],
        ["verify", "opt.py", "--pp", "-1"],
        ["verify", "opt.py", "--engine", "tensorrt"],
        ["verify", "opt.py", "--against", "jax"],
        ["check"],
        ["run", "opt.py"],
        ["run", "opt.py", "--model", ".", "--max-tokens", "0"],
    ],
    ids=" ".join,
)
def test_wrong_command_line_is_one_message(
    arguments: list[str], porter: Porter
) -> None:
    outcome = porter(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("porter: ")
    assert "--help'" in outcome.err


def test_refusal_prints_every_gap(
    porter: Porter, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaps = [Gap("m.py", 7, "cumsum over the sequence", "no"), Gap("m.py", 9, "a flip")]
    _convert_raises(monkeypatch, Refused(gaps))
    outcome = porter("convert", "m.py")
    assert outcome.code == 3
    assert "m.py:7: cumsum over the sequence\n    no\n" in outcome.err
    assert "m.py:9: a flip\n" in outcome.err
    assert outcome.err.endswith("porter: refused: 2 gaps, nothing written\n")


def test_what_cannot_run_says_why(
    porter: Porter, monkeypatch: pytest.MonkeyPatch
) -> None:
    _convert_raises(monkeypatch, CannotRun("no vLLM here"))
    outcome = porter("convert", "m.py")
    assert (outcome.code, outcome.err) == (3, "porter: no vLLM here\n")


def test_bug_is_reported_without_a_traceback(
    porter: Porter, monkeypatch: pytest.MonkeyPatch
) -> None:
    _convert_raises(monkeypatch, KeyError("placement"))
    outcome = porter("convert", "m.py")
    assert outcome.code == 70
    assert "internal error: KeyError: 'placement'" in outcome.err
    assert "Traceback" not in outcome.err

    monkeypatch.setenv("PORTER_DEBUG", "1")
    with pytest.raises(KeyError):
        porter("convert", "m.py")


def test_output_whose_reader_left_is_no_error(tmp_path: Path) -> None:
    """`porter explain | head -0`: neither a traceback nor a message."""
    command = f"{sys.executable} -m porter explain | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode in (0, 141)
    assert done.stderr == ""


def _convert_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(arguments: object) -> None:
        raise error

    monkeypatch.setattr(convert, "convert_again", fail)
