"""A one-place change of a real source: where it is, what it becomes, what it means."""

import ast
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.reference.sources import source_text


class NotPinned(Exception):
    """A snippet that isn't in its scope as often as the entry says."""


@dataclass(frozen=True)
class Mutation:
    """One change of the arithmetic of `model`'s source.

    where: qualified name of the class or function that holds it (`Class.method`).
    edits: (old, new) snippets; each old is in the scope exactly `of` times for the
        first edit, of which the `nth` is replaced, and exactly once for the others.
    kind: the heading in the report.
    expressible: a vLLM model file can compute it, so a port is expected.
    mixes_tokens: one token's value reaches another outside attention, or a value
        depends on the number of tokens: only a refusal on that line will do.
    either: Python's means rather than arithmetic (aliases, names bound again): a
        refusal is as good as a port, so it doesn't count among the expressible.
    control: HF's eager logits stay the same, so the port must equal the original.
    config: fields that differ from the model's tiny config.
    tp2: judged at tensor parallel 2 as well.
    """

    name: str
    model: str
    where: str
    edits: tuple[tuple[str, str], ...]
    kind: str
    nth: int = 0
    of: int = 1
    expressible: bool = True
    mixes_tokens: bool = False
    either: bool = False
    control: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    tp2: bool = False

    @property
    def must_refuse(self) -> bool:
        return self.mixes_tokens or not self.expressible

    def apply(self) -> tuple[str, frozenset[int]]:
        """The mutated text, and the 1-based lines in it that the change made.

        Raises NotPinned where the installed source doesn't hold the snippets.
        """
        text = source_text(self.model)
        start, end = scope_span(text, self.where)
        places = []
        for index, (old, new) in enumerate(self.edits):
            count, nth = (self.of, self.nth) if index == 0 else (1, 0)
            places.append((_locate(text, old, start, end, count, nth), old, new))
        lines: set[int] = set()
        for at, old, new in sorted(places, reverse=True):
            new = _indented(text, at, new)
            text = text[:at] + new + text[at + len(old) :]
        shift = 0
        for at, old, new in sorted(places):
            new = _indented(text, at + shift, new)
            lines |= _new_lines(text, at + shift, old, new)
            shift += len(new) - len(old)
        return text, frozenset(lines)


def scope_span(text: str, where: str) -> tuple[int, int]:
    """Character span of the class or function with this qualified name."""
    body: list[ast.stmt] = ast.parse(text).body
    node: ast.stmt | None = None
    for part in where.split("."):
        found = [n for n in body if getattr(n, "name", None) == part]
        if len(found) != 1:
            raise NotPinned(f"{where}: {len(found)} definitions of {part}")
        node = found[0]
        body = node.body  # type: ignore[attr-defined]
    assert node is not None and node.end_lineno is not None
    lines = text.splitlines(True)
    start = sum(len(line) for line in lines[: node.lineno - 1])
    end = sum(len(line) for line in lines[: node.end_lineno])
    return start, end


def _locate(text: str, old: str, start: int, end: int, of: int, nth: int) -> int:
    spots = []
    at = text.find(old, start, end)
    while at >= 0:
        spots.append(at)
        at = text.find(old, at + len(old), end)
    if len(spots) != of:
        raise NotPinned(f"{old!r} is there {len(spots)} times, not {of}")
    return spots[nth]


def _indented(text: str, at: int, new: str) -> str:
    """`new` with the indentation of the line at `at` put before its further lines."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    margin = line[: len(line) - len(line.lstrip())]
    return new.replace("\n", "\n" + margin)


def _new_lines(text: str, at: int, old: str, new: str) -> set[int]:
    """Lines of the replaced span that aren't lines of the old one."""
    first = text.rfind("\n", 0, at) + 1
    last = text.find("\n", at + len(new))
    head, tail = text[first:at], text[at + len(new) : last]
    before = Counter(line.strip() for line in (head + old + tail).split("\n"))
    number = text.count("\n", 0, first) + 1
    lines = set()
    for i, line in enumerate((head + new + tail).split("\n")):
        if before[line.strip()]:
            before[line.strip()] -= 1
        elif line.strip():
            lines.add(number + i)
    return lines
