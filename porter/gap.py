"""What porter says when it stops: a refusal, or a mistake of the caller."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Gap:
    """One reason why a source can't be ported faithfully.

    file: path of the source as the user named it. line: 1-based, 0 where none applies.
    what: what was seen. advice: what to do about it.
    """

    file: str
    line: int
    what: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}: {self.what}"
        return f"{text}\n    {self.advice}" if self.advice else text


class Refused(Exception):
    """The source can't be ported faithfully; `gaps` say where and why (exit code 3)."""

    def __init__(self, gaps: list[Gap]):
        self.gaps = gaps
        super().__init__("\n".join(str(gap) for gap in gaps))


class NeedsConfig(Refused):
    """The source does several things, of which a port has one: --config says which.

    fields: those of the config that decide.
    """

    def __init__(self, gaps: list[Gap], fields: list[str]):
        super().__init__(gaps)
        self.fields = fields


# What a call that porter misread, or a case that it forgot, ends in.
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def fault(file: str, line: int, error: Exception) -> Refused:
    """A refusal where porter itself fails: never a traceback, never a guess.

    With PORTER_DEBUG=1 the error is raised as it is.
    """
    if os.environ.get("PORTER_DEBUG") == "1":
        raise error
    what = f"porter can't follow this ({type(error).__name__}: {error})"
    return Refused(
        [Gap(file, line, what, "this is a fault of porter's: please report it")]
    )


class UsageError(Exception):
    """A mistake of the caller that one clear message explains (exit code 2)."""


class CannotRun(Exception):
    """A port that can't be run or verified here, and why (exit code 3)."""


class NoKernel(CannotRun):
    """The engine has no kernel for heads of such sizes: no fault of the port's."""
