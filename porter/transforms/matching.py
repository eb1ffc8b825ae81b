"""Small questions about the value graph that matchers share."""

from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import constant, same
from porter.analyze.values import MISSING, is_scalar
from porter.transforms.scalar_tensors import held


def strip_casts(value):
    """The value under casts: equal up to rounding to the activations' dtype.

    A cast to a fixed narrower dtype, or to integers, changes the value and stays.
    """
    while isinstance(value, Node) and value.op == "cast" and is_neutral(value):
        value = value.args[0]
    return value


def strip_views(value):
    """The value under casts and views that repeat nothing: the same elements."""
    while isinstance(value, Node):
        inner = strip_casts(value)
        if inner.op == "rearrange" and not _repeats(inner, inner.args[0]):
            inner = inner.args[0]
        if inner is value:
            break
        value = inner
    return value


def _repeats(view: Node, base: Node) -> bool:
    known = {id(f) for a in base.axes for f in a if f.repeats}
    return any(f.repeats and id(f) not in known for a in view.axes for f in a)


def is_neutral(cast: Node) -> bool:
    return cast.dtype in (None, "float32", "float64")


def is_op(value, *ops: str) -> bool:
    return isinstance(value, Node) and value.op in ops


def either_way(node: Node):
    """The two operands of a commutative operation, in both orders."""
    yield node.args[0], node.args[1]
    yield node.args[1], node.args[0]


def scaled(node):
    """(value, factor) of a tensor times or over a scalar, else None."""
    if is_op(node, "mul"):
        for tensor, factor in either_way(node):
            if isinstance(tensor, Node) and (by := held(factor)) is not MISSING:
                return tensor, by, "mul"
    if is_op(node, "truediv") and isinstance(node.args[0], Node):
        if (by := held(node.args[1])) is not MISSING:
            return node.args[0], by, "truediv"
    return None


def last_size(node: Node):
    return axis_size(node.axes[-1])


def squared(node):
    """x of x**2 or x*x, else None."""
    if is_op(node, "pow") and constant(node.args[1]) == 2:
        return node.args[0]
    if is_op(node, "mul") and node.args[0] is node.args[1]:
        return node.args[0]
    return None


def is_number(value, number) -> bool:
    return is_scalar(value) and same(value, number)
