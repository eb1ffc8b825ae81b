"""Reads a written method back: at each statement, does every name hold the value that the
statement means by it?

Names are chosen while statements are written (method.py), by what is still to be read; a
mistake there would be a port that is silently wrong. What a statement writes over in
place is no value behind it. Here the statements are gone through
in the order in which Python runs them, both sides of each branch, and nothing is known of
how the names were chosen.
"""

import ast
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from porter.analyze.graph import Node, Span
from porter.analyze.symbols import key, negate
from porter.emit.lines import Block, Line, as_tree
from porter.gap import Gap, Refused


@dataclass(eq=False)
class _Joined:
    """What a name holds behind a branch: one value or the other."""

    cond: Any
    then: Any
    other: Any


Held = dict[str, Any]  # name -> Node | _Joined | None, which no value matches


def read_back(
    lines: list[Line], bound: dict[str, Node], ends: dict[str, Node], span: Span
) -> None:
    """bound: names and their values before the first line. ends: what names must hold
    behind the last. Raises Refused where a name would hold another value than the one
    that a reader means."""
    reader = _Reader(span)
    after = reader.run(as_tree(lines), dict(bound))
    for name, node in ends.items():
        reader.expect(after, name, node)


class _Reader:
    def __init__(self, span: Span):
        self.span = span

    def run(self, tree: list[Line | Block], held: Held) -> Held:
        for part in tree:
            if isinstance(part, Line):
                self._statement(part, held)
                continue
            self._reads(part.head, held, part.head.text.strip() + " pass")
            then = self.run(part.then, dict(held))
            other = self.run(part.other, dict(held))
            held = {
                name: then.get(name)
                if then.get(name) is other.get(name)
                else _Joined(part.head.cond, then.get(name), other.get(name))
                for name in {**then, **other}
            }
        return held

    def _statement(self, line: Line, held: Held) -> None:
        stored = self._reads(line, held, textwrap.dedent(line.text))
        if stored - {"_"} != {name for name, _ in line.writes} - {"_"}:
            what = f"`{line.text.strip()}` isn't accounted for"
            raise self._refused(line.spans, what)
        for name, value in held.items():
            if any(_may_be(value, node) for node in line.spends):
                held[name] = None
        held.update(line.writes)

    def _reads(self, line: Line, held: Held, text: str) -> set[str]:
        """Check the names that a statement reads; return those that it sets."""
        tree = ast.parse(text)
        inner = {
            n.id
            for c in ast.walk(tree)
            if isinstance(c, ast.comprehension)
            for n in ast.walk(c.target)
            if isinstance(n, ast.Name)
        }
        names = [
            n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id not in inner
        ]
        stored = {n.id for n in names if isinstance(n.ctx, ast.Store)}
        for name in {n.id for n in names if isinstance(n.ctx, ast.Load)}:
            means = [node for read, node in line.reads if read == name]
            if not means and name in held:
                raise self._refused(
                    line.spans, f"`{name}` is read, as what isn't known"
                )
            for node in means:
                self.expect(held, name, node, line.spans)
        return stored

    def expect(
        self, held: Held, name: str, node: Node, spans: Sequence[Span] = ()
    ) -> None:
        if not _is(held.get(name), node):
            what = f"`{name}` would hold another value where `{node.op}` is read"
            raise self._refused(spans, what)

    def _refused(self, spans: Sequence[Span], what: str) -> Refused:
        span = spans[0] if spans else self.span
        advice = "porter's choice of names is at fault here: please report the file"
        return Refused([Gap(span.file, span.line, what, advice)])


def _may_be(value: Any, node: Node) -> bool:
    if isinstance(value, _Joined):
        return _may_be(value.then, node) or _may_be(value.other, node)
    return value is not None and _is(value, node)


def _is(value: Any, node: Node) -> bool:
    """Whether what a name holds is the node's value."""
    if value is None:
        return False
    node = node.final
    if isinstance(value, Node) and value.final is node:
        return True
    if node.op != "phi":
        if isinstance(value, _Joined):
            return _is(value.then, node) and _is(value.other, node)
        return False
    cond, then, other = node.args
    if not isinstance(value, _Joined):
        return _is(value, then) and _is(value, other)
    if key(value.cond) == key(negate(cond)):
        then, other = other, then
    elif key(value.cond) != key(cond):
        return _is(value.then, node) and _is(value.other, node)
    return _is(value.then, then) and _is(value.other, other)
