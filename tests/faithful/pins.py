"""Which entries that could be ported are refused today, pinned in refused_today.txt.

A pin lets every entry be a test of its own: a port that is lost fails, and so does one
that is gained until its pin is taken out (`python -m tests.faithful --pin`).
"""

from collections.abc import Iterable
from pathlib import Path

from tests.faithful.judge import Judgement, Verdict

FILE = Path(__file__).with_name("refused_today.txt")


def pinned() -> frozenset[str]:
    return frozenset(FILE.read_text(encoding="utf-8").split())


def write_pins(rows: Iterable[Judgement]) -> None:
    names = sorted(
        row.mutation.name
        for row in rows
        if row.verdict is Verdict.REFUSED and not row.mutation.must_refuse
    )
    FILE.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
