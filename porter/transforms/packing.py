"""How queries, keys and values lie in one packed weight, read off the graph.

A packed projection's rows are numbered by factors, such as (head, 3, dim) or
(group, queries + 2, dim). Views regroup them, and each operand of attention is cut out by
one slice along one of them. From that follows the permutation that brings the rows to all
queries, all keys, all values, each head by head.
"""

from dataclasses import dataclass
from typing import Any

from porter.analyze.graph import Node, axis_size, iter_nodes
from porter.analyze.symbols import arith, constant, same
from porter.analyze.values import is_scalar
from porter.transforms.matching import is_op

# elementwise work that may stand between a packed projection and the cuts
_PLAIN = ("clamp", "cast", "phi", "mul", "truediv", "tanh", "sigmoid")


@dataclass(frozen=True)
class Packing:
    """sizes: the rows as an outer product of factors; axis: the one that is cut; order:
    which of q, k, v the cuts are, as stored; parts: their widths along the axis; equal:
    whether all three are as wide and one behind the other."""

    sizes: tuple[Any, ...]
    axis: int
    order: tuple[int, int, int]
    parts: tuple[Any, Any, Any]

    @property
    def equal(self) -> bool:
        return all(same(p, self.parts[0]) for p in self.parts)


@dataclass(frozen=True)
class Cut:
    """One operand cut out: the node, and where along which feature axis of the base."""

    node: Node
    axis: int
    low: Any
    high: Any


def packed_base(linear: Node, users: dict[int, list[Node]]) -> tuple[Node, Node]:
    """(top, base) behind a packed projection: after elementwise work on all three, and
    as it is then viewed, cut by cut."""
    top = linear
    while (step := _step(top, users.get(top.id, []))) is not None:
        top = step
    readers = users.get(top.id, [])
    if len(readers) == 1 and readers[0].op == "rearrange":
        return top, readers[0]
    return top, top


def _step(base: Node, readers: list[Node]) -> Node | None:
    if len(readers) == 1 and _elementwise(readers[0], base):
        return readers[0]
    # if a: x = f(x): both sides are the same rows
    for phi in readers:
        sides = [s for s in phi.args[1:] if s is not base] if phi.op == "phi" else []
        if len(sides) == 1 and _elementwise(sides[0], base):
            if {id(r) for r in readers} == {id(phi), id(sides[0])}:
                return phi
    return None


def _elementwise(node: Any, base: Node) -> bool:
    """One tensor in, the same elements out, each by itself."""
    if not is_op(node, *_PLAIN) or node.op == "phi":
        return False
    others = [a for a in node.args if not isinstance(a, Node)]
    return [*iter_nodes(node.args)] == [base] and all(is_scalar(a) for a in others)


def cut_of(node: Node) -> Cut | None:
    """The cut that a slice or select of a packed projection makes."""
    base = node.args[0]
    at = node.attrs["dim"] % len(base.axes)
    if any(f.role for f in base.axes[at]):
        return None
    axis = sum(1 for a in base.axes[:at] if not any(f.role for f in a) and a)
    if node.op == "select":
        return Cut(node, axis, node.args[1], arith("add", node.args[1], 1))
    if node.op == "slice" and node.attrs["step"] == 1:
        return Cut(node, axis, node.args[1], node.args[2])
    return None


def packing(linear: Node, base: Node, cuts: list[Cut]) -> Packing | None:
    """The layout of a projection whose q, k, v (in this order) are the cuts of `base`."""
    features = [a for a in base.axes if a and not any(f.role for f in a)]
    order = [id(leaf) for f in linear.axes[-1] for leaf in f.leaves()]
    if [id(leaf) for a in features for f in a for leaf in f.leaves()] != order:
        return None
    axis = cuts[0].axis
    if any(c.axis != axis for c in cuts):
        return None
    stored = _in_order(cuts, axis_size(features[axis]))
    if stored is None:
        return None
    parts = tuple(arith("sub", cuts[i].high, cuts[i].low) for i in stored)
    sizes: tuple[Any, ...] = tuple(axis_size(a) for a in features)
    if axis == len(sizes) - 1 and axis > 0:  # (h, 3 * d) is (h, 3, d)
        if all(same(p, parts[0]) for p in parts):
            return Packing((*sizes[:-1], 3, parts[0]), axis, stored, (1, 1, 1))
        return Packing(sizes, axis, stored, parts)
    return Packing(sizes, axis, stored, parts)


def _in_order(cuts: list[Cut], size) -> tuple[int, int, int] | None:
    """The cuts' numbers as they lie one behind the other, from first row to last."""
    low: Any = 0
    found: list[int] = []
    for _ in range(3):
        behind = [i for i in range(3) if i not in found and same(cuts[i].low, low)]
        if len(behind) != 1:
            return None
        found.append(behind[0])
        low = cuts[behind[0]].high
    if not same(low, size) and constant(arith("sub", size, low)) != 0:
        return None
    return found[0], found[1], found[2]
