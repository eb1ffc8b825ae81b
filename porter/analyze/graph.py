"""The value graph: what each tensor of the forward functions is made of, and its axes.

A `Node` is one pure operation. Its `axes` say what every dimension means: an axis is a
tuple of factors, major first, so a view that merges or splits heads is followed exactly.
Nodes refer to the nodes they read; the module call in which one was made is its `frame`.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

from porter.analyze.symbols import BATCH, HIST, SEQ, Sym, contains, key, product

_ids = itertools.count(1)


@dataclass(eq=False)
class Factor:
    """One indivisible piece of an axis. role: `batch`, `seq`, `hist` (cached tokens),
    `span` (another number of tokens) or `` (a feature). repeats: copies made by expand.
    pieces: what a view split it into."""

    size: Any
    role: str = ""
    repeats: bool = False
    pieces: tuple["Factor", ...] = ()

    def split(self, sizes: tuple) -> tuple["Factor", ...]:
        if not self.pieces:
            self.pieces = tuple(Factor(s, self.role, self.repeats) for s in sizes)
        elif [key(p.size) for p in self.pieces] != [key(s) for s in sizes]:
            return tuple(Factor(s, self.role, self.repeats) for s in sizes)
        return self.pieces

    def leaves(self) -> tuple["Factor", ...]:
        if not self.pieces:
            return (self,)
        return tuple(leaf for piece in self.pieces for leaf in piece.leaves())


Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]

TOKEN_ROLES = ("batch", "seq")


def axis_size(axis: Axis) -> Any:
    return product(f.size for f in axis)


def has_role(axis: Axis, *roles: str) -> bool:
    return any(f.role in roles for f in axis)


def batch_axis() -> Axis:
    return (Factor(BATCH, "batch"),)


def seq_axis() -> Axis:
    return (Factor(SEQ, "seq"),)


def hist_axis() -> Axis:
    return (Factor(HIST, "hist"),)


def feature_axis(size) -> Axis:
    return () if key(size) == key(1) else (Factor(size),)


def sized_axis(size, repeats: bool = False) -> Axis:
    """An axis by its size: that of the batch, of the new tokens, of all tokens so far,
    of another number of tokens (`span`), or of features."""
    if key(size) == key(1):
        return ()
    role = _ROLES.get(key(size), "span" if contains(size, "runtime") else "")
    return (Factor(size, role, repeats),)


def apart(axes: Axes) -> Axes:
    """The axes, with a factor of its own where one would stand in two of them."""
    seen: set[int] = set()
    out = []
    for axis in axes:
        mine = [id(leaf) for f in axis for leaf in f.leaves()]
        if seen & set(mine):
            axis = tuple(Factor(f.size, f.role, f.repeats) for f in axis)
        seen |= set(mine)
        out.append(axis)
    return tuple(out)


_ROLES = {key(BATCH): "batch", key(SEQ): "seq", key(HIST): "hist"}


def pairs_tokens(axes: Axes) -> bool:
    """Whether a tensor of these axes has values for pairs of tokens, as masks have."""
    tokens = [a for a in axes if has_role(a, "seq", "hist", "span")]
    return len(tokens) > 1 or any(has_role(a, "hist", "span") for a in tokens)


@dataclass(frozen=True)
class Span:
    """A place in a source file; line is 1-based."""

    file: str
    line: int
    end_line: int = 0
    col: int = 0


@dataclass(eq=False)
class Frame:
    """One call of a module's method: the module, who called it, what it was given."""

    inst: Any
    parent: "Frame | None"
    span: Span
    function: str = "forward"
    names: dict[int, str] = field(default_factory=dict)
    returns: Any = None
    calls: int = 0

    def is_inside(self, other: "Frame | None") -> bool:
        frame: Frame | None = self
        while frame is not None:
            if frame is other:
                return True
            frame = frame.parent
        return False

    def child_of(self, other: "Frame") -> "Frame":
        """The frame directly below `other` on the way to this one."""
        frame = self
        while frame.parent is not None and frame.parent is not other:
            frame = frame.parent
        return frame


@dataclass(eq=False)
class Loop:
    """The loop over a ModuleList: carried values are (entry, init, result, exit) nodes."""

    modules: Any
    frame: Frame
    span: Span
    outer: "Loop | None" = None
    carried: list[tuple["Node", "Node", "Node", "Node"]] = field(default_factory=list)
    index: Any = None
    stop: Any = None
    start: int = 0


@dataclass(eq=False)
class Node:
    """One operation. args: nodes, Syms and constants, in order; attrs: what else it needs.

    dtype: None (that of the activations), a torch dtype's name, or the node whose dtype
    it was cast to. hints: names that the source gave it, by frame
    (None in constructors).
    """

    op: str
    args: tuple
    attrs: dict[str, Any]
    axes: Axes
    frame: Frame | None
    span: Span
    loop: Loop | None = None
    dtype: Any = None
    hints: dict[Frame | None, list[tuple[int, str]]] = field(default_factory=dict)
    forward: "Node | None" = None
    id: int = field(default_factory=lambda: next(_ids))

    @property
    def final(self) -> "Node":
        """This node, or the one that a transform put in its place."""
        node = self
        while node.forward is not None:
            node = node.forward
        return node

    def inputs(self) -> list["Node"]:
        return [n.final for n in iter_nodes(self.args)]

    def __repr__(self) -> str:
        sizes = ",".join("*".join(str(f.size) for f in a) or "1" for a in self.axes)
        return f"<{self.op}#{self.id} [{sizes}] line {self.span.line}>"


def iter_nodes(value):
    if isinstance(value, Node):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from iter_nodes(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from iter_nodes(item)
    elif isinstance(value, Sym):
        if value.op == "node_value":
            yield value.args[0]
        else:
            for item in value.args:
                yield from iter_nodes(item)


def walk(roots):
    """Every node that the roots are made of, operands first, each once."""
    seen: set[int] = set()
    order: list[Node] = []
    stack: list[tuple[Node, bool]] = [(r.final, False) for r in reversed(list(roots))]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        if node.id in seen:
            continue
        seen.add(node.id)
        stack.append((node, True))
        stack.extend((i, False) for i in reversed(dependencies(node)))
    return order


def dependencies(node: Node) -> list[Node]:
    deps = node.inputs()
    if node.op == "loop_exit":
        loop = node.attrs["loop"]
        for _entry, init, result, exit_ in loop.carried:
            if exit_.final is node:
                deps = [init.final, result.final]
    return deps


def users(roots) -> dict[int, list[Node]]:
    """node id -> the nodes that read it, within what the roots reach."""
    out: dict[int, list[Node]] = {}
    for node in walk(roots):
        for dep in dependencies(node):
            out.setdefault(dep.id, []).append(node)
    return out
