"""vLLM's log, kept off the user's screen and read when something fails.

vLLM and its worker processes write to the file descriptors 1 and 2, so these are what
is redirected. A failure in a worker reaches the parent as "see the root cause above":
the cause is then looked up in what was written.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

# "(Worker_TP0 pid=12) ERROR 11-24 09:54:31 [file.py:380] " before each line.
_PREFIX = re.compile(
    r"^(?:\(.*? pid=\d+\) )?(?:ERROR|WARNING|INFO) \S+ \S+ \[[^]]*\] ?"
)
_EXCEPTION = re.compile(r"^(?:[\w.]*(?:Error|Exception|Gap|Refused|CannotRun))(?:: |$)")
# What vLLM raises in the parent where a worker has failed.
_ELSEWHERE = ("root cause", "background process", "Engine core initialization failed")


class Log:
    """What vLLM has written while this log was open."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()

    def text(self) -> str:
        self.file.seek(0)
        return self.file.read().decode(errors="replace")

    def cause(self, error: BaseException) -> str:
        """The error in one line, a worker's own where it only says that one failed."""
        said = " ".join(str(error).split()) or type(error).__name__
        if any(words in said for words in _ELSEWHERE):
            found = exceptions_in(self.text())
            others = [f for f in found if not any(w in f for w in _ELSEWHERE)]
            if others:
                return others[0]
        return f"{type(error).__name__}: {said}"


def exceptions_in(text: str) -> list[str]:
    """The lines of a log that end a traceback, without vLLM's prefix, in order."""
    lines = [_PREFIX.sub("", line) for line in text.splitlines()]
    return [line for line in lines if _EXCEPTION.match(line)]


@contextmanager
def keep_quiet(log: Log | None = None) -> Iterator[Log]:
    """Let standard output and error go into the log; with PORTER_DEBUG=1 to the screen.

    Processes started inside keep writing there.
    """
    log = log or Log()
    if os.environ.get("PORTER_DEBUG") == "1":
        yield log
        return
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        os.dup2(log.file.fileno(), 1)
        os.dup2(log.file.fileno(), 2)
        yield log
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, screen in zip((1, 2), saved, strict=True):
            os.dup2(screen, descriptor)
            os.close(screen)
