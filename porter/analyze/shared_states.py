"""What one layer leaves for a later one, in a dictionary that was empty before the loop.

`states[a(layer)] = k, v` under a condition in one layer, `k, v = states[b(layer)]` in
another: what is read is what the last earlier layer j left of which the condition and
a(j) == b(layer) held. Nothing is decided here of which layer that is: the node that is
read carries both keys and the conditions, and a transform says what it is in vLLM.

Refuses a read behind the store in the same layer, two stores, and whatever else is done
with such a dictionary.
"""

import ast
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from porter.analyze.graph import Node, iter_nodes
from porter.analyze.part import Part
from porter.analyze.symbols import Sym, contains, unwrap
from porter.analyze.values import is_scalar


@dataclass(eq=False)
class Stored:
    """One store: under which key and conditions, what."""

    index: Any
    conds: tuple[tuple[Any, bool], ...]
    values: tuple[Node, ...]


@dataclass(eq=False)
class Shelf:
    """A dictionary that the layers share, empty before the first of them."""

    stored: list[Stored] = field(default_factory=list)


@dataclass(frozen=True)
class Left:
    """`shelf[index]`: as many tensors as were left there."""

    shelf: Shelf
    index: Any


class SharedStates(Part):
    """The part of the interpreter that stores into and reads from shelves."""

    def open_shelves(self, body: list[ast.stmt], env) -> None:
        """Empty dictionaries that the body of the loop over layers reads."""
        nodes = [n for stmt in body for n in ast.walk(stmt)]
        names = [n for n in nodes if isinstance(n, ast.Name)]
        read = {n.id for n in names if isinstance(n.ctx, ast.Load)}
        spread = {ast.unparse(n.value) for n in nodes if _is_spread(n)}
        for name in (read - spread) & set(env.vars):
            if env.vars[name] == {} and isinstance(env.vars[name], dict):
                env.vars[name] = Shelf()

    def leave(self, shelf: Shelf, index, value) -> None:
        """shelf[index] = value, in a layer."""
        if self.loop is None or not is_scalar(index):
            raise self.gap("a dictionary that layers share is written outside them")
        values = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(v, Node) for v in values):
            raise self.gap("a layer leaves something else than tensors for others")
        conds = self.conditions
        if any(contains(c, "runtime") or any(iter_nodes((c,))) for c, _ in conds):
            raise self.gap("what a layer leaves for others depends on the tokens")
        if shelf.stored:
            raise self.gap("a layer leaves tensors for others in two places")
        shelf.stored.append(Stored(unwrap(index), conds, tuple(values)))

    def left(self, shelf: Shelf, index) -> Left:
        """shelf[index], in a layer."""
        if self.loop is None or not is_scalar(index):
            raise self.gap("a dictionary that layers share is read outside them")
        if shelf.stored:
            raise self.gap("a layer reads behind where it may have written itself")
        return Left(shelf, unwrap(index))

    def left_item(self, left: Left, at: int) -> Node:
        """One of the tensors; its axes are those of what it is the alternative to."""
        return self.node("left", (), (), shelf=left.shelf, index=left.index, at=at)


def _is_spread(node: ast.AST) -> TypeGuard[ast.keyword]:
    """The `**kwargs` of a call."""
    return isinstance(node, ast.keyword) and node.arg is None


def is_left(value) -> bool:
    """Whether a tensor is one that an earlier layer left, under casts and views."""
    while isinstance(value, Node) and value.op in ("cast", "rearrange"):
        value = value.args[0]
    return isinstance(value, Node) and value.op == "left"


def own_side(value: Node) -> tuple[Node, Node, Any] | None:
    """(what the layer made, what it reads instead, the condition of that) of a choice."""
    if value.op != "phi":
        return None
    cond, a, b = value.args
    if is_left(a) and not is_left(b):
        return b, a, cond
    if is_left(b) and not is_left(a):
        return a, b, Sym("not", (cond,))
    return None
