"""Lines of the output: their text, where they come from, and what their names stand for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from porter.analyze.graph import Node, Span

_PAD = "    "


@dataclass
class Line:
    """A statement of the output and the places in the source that it comes from.

    reads, writes: the values that the statement means by the names in it. cond: of
    `if ...:`, the condition under which what is indented behind it runs. spends: values
    whose memory the statement writes over.
    """

    text: str
    spans: list[Span] = field(default_factory=list)
    reads: Sequence[tuple[str, Node]] = ()
    writes: Sequence[tuple[str, Node]] = ()
    cond: Any = None
    spends: Sequence[Node] = ()

    @property
    def depth(self) -> int:
        return (len(self.text) - len(self.text.lstrip(" "))) // len(_PAD)

    @property
    def opens(self) -> bool:
        """Whether it is the head of a block whose statements are lines of their own."""
        return self.text.endswith(":")


@dataclass
class Block:
    """A branch as a tree: `if` line, its statements, `else` line, its statements."""

    head: Line
    then: list["Line | Block"]
    middle: Line | None = None
    other: list["Line | Block"] = field(default_factory=list)


def as_tree(lines: list[Line]) -> list[Line | Block]:
    """The lines with each branch's statements below it."""
    out: list[Line | Block] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if not line.opens:
            out.append(line)
            continue
        end = _end(lines, at, line.depth)
        block = Block(line, as_tree(lines[at:end]))
        at = end
        if at < len(lines) and lines[at].text.strip() == "else:":
            end = _end(lines, at + 1, line.depth)
            block.middle, block.other = lines[at], as_tree(lines[at + 1 : end])
            at = end
        out.append(block)
    return out


def _end(lines: list[Line], start: int, depth: int) -> int:
    while start < len(lines) and lines[start].depth > depth:
        start += 1
    return start


def as_lines(tree: list[Line | Block]) -> list[Line]:
    """The inverse of as_tree, without the branches whose sides read alike: a module in
    the place of another needs no condition."""
    out: list[Line] = []
    for part in tree:
        if isinstance(part, Line):
            out.append(part)
            continue
        then, other = as_lines(part.then), as_lines(part.other)
        if [line.text for line in then] == [line.text for line in other]:
            for a, b in zip(then, other, strict=True):
                text = "\n".join(p.removeprefix(_PAD) for p in a.text.split("\n"))
                out.append(Line(text, [*a.spans, *b.spans]))
            continue
        out += [part.head, *then]
        if part.middle is not None:
            out += [part.middle, *other]
    return out


def indented(lines: list[Line], levels: int) -> list[Line]:
    pad = _PAD * levels
    return [
        Line("\n".join(pad + t for t in ln.text.split("\n")), ln.spans) for ln in lines
    ]
