"""What vLLM writes stays off the screen, and tells why something failed."""

import os
import subprocess
import sys

import pytest

from porter.vllm_engine.output import Log, exceptions_in, keep_quiet

WORKER = """\
(Worker_TP1 pid=71) ERROR 11-24 09:54:31 [multiproc_executor.py:380] Traceback (most recent call last):
(Worker_TP1 pid=71) ERROR 11-24 09:54:31 [multiproc_executor.py:380]   File "x.py", line 1, in f
(Worker_TP1 pid=71) ERROR 11-24 09:54:31 [multiproc_executor.py:380] ValueError: heads don't divide
Exception: WorkerProc initialization failed due to an exception in a background process.
"""  # noqa: E501


def test_the_cause_is_the_workers(capfd: pytest.CaptureFixture[str]) -> None:
    with keep_quiet() as log:
        os.write(2, WORKER.encode())
    error = Exception("initialization failed in a background process. See root cause")
    assert log.cause(error) == "ValueError: heads don't divide"
    assert log.cause(KeyError("x")) == "KeyError: 'x'"
    assert capfd.readouterr().err == ""


def test_without_a_log_the_error_itself_is_told() -> None:
    error = RuntimeError("see the root cause\nabove")
    assert Log().cause(error) == "RuntimeError: see the root cause above"


def test_lines_that_only_mention_an_error_are_no_exceptions() -> None:
    assert exceptions_in("an Error: no\n  ValueError: indented\nValueError\n") == [
        "ValueError"
    ]


def test_processes_inside_are_quiet_too_and_the_screen_returns(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with keep_quiet() as log:
        subprocess.run([sys.executable, "-c", "print('noise')"], check=True)
        os.write(1, b"more noise\n")
    os.write(1, b"heard\n")
    assert capfd.readouterr().out == "heard\n"
    assert log.text() == "noise\nmore noise\n"


def test_for_debugging_all_is_shown(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTER_DEBUG", "1")
    with keep_quiet():
        os.write(1, b"shown\n")
    assert capfd.readouterr().out == "shown\n"
