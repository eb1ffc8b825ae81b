"""Run one function on many items, each in a process of its own with a time limit.

A process a task, forked from this one: what was imported is there already, and what a
task leaks, breaks or never finishes ends with it.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any


class TaskFailed(Exception):
    """A task that gave no result: it raised, ran too long, or its process died."""


@dataclass
class _Running:
    index: int
    process: BaseProcess
    receiver: Connection
    deadline: float


def run_each(
    work: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    workers: int,
    timeout: float,
) -> Iterator[tuple[int, Any]]:
    """Yield (index of the item, result or TaskFailed) as the tasks finish.

    workers: processes at a time. timeout: seconds a task may take. What `work` returns
    must be picklable. The processes that are still running end when the caller stops.
    """
    waiting = list(enumerate(items))[::-1]
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_start(work, *waiting.pop(), timeout))
            nearest = min(task.deadline for task in running) - time.monotonic()
            wait([task.receiver for task in running], max(0.0, nearest))
            for task in [t for t in running if _is_over(t)]:
                running.remove(task)
                yield task.index, _result(task, timeout)
    finally:
        for task in running:
            _end(task)


def _start(
    work: Callable[[Any], Any], index: int, item: Any, timeout: float
) -> _Running:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, item, sender))
    process.start()
    sender.close()
    return _Running(index, process, receiver, time.monotonic() + timeout)


def _child(work: Callable[[Any], Any], item: Any, sender: Connection) -> None:
    os.setsid()  # so that its own processes end with it
    try:
        sender.send((True, work(item)))
    except BaseException as error:  # told to the parent, which decides
        sender.send((False, f"{type(error).__name__}: {error}"))
        raise SystemExit(1) from None


def _is_over(task: _Running) -> bool:
    return task.receiver.poll() or time.monotonic() >= task.deadline


def _result(task: _Running, timeout: float) -> Any:
    try:
        if not task.receiver.poll():
            return TaskFailed(f"took longer than {timeout:.0f} s")
        succeeded, value = task.receiver.recv()
        return value if succeeded else TaskFailed(value)
    except EOFError:
        task.process.join(5)
        return TaskFailed(f"its process ended with code {task.process.exitcode}")
    finally:
        _end(task)


def _end(task: _Running) -> None:
    task.process.join(0.5)
    try:
        os.killpg(task.process.pid or 0, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        task.process.kill()
    task.process.join()
    task.receiver.close()
