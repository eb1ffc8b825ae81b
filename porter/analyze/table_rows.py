"""table[ids] of a table that is computed from its row numbers: the formula at the ids.

Before: torch.outer(torch.arange(n), f).cos()[position_ids]
After:  (position_ids * f).cos()
A table that holds for any number of rows needs no length, and what is computed from it
is seen. Tables of parameters, and any other, stay tables.
"""

from typing import Any

from porter.analyze.graph import Node
from porter.analyze.symbols import constant, same
from porter.analyze.torch_shapes import rearranged

_ALONG_ROWS = {
    "cos", "sin", "tanh", "sigmoid", "exp", "log", "sqrt", "rsqrt", "abs", "neg",
    "add", "sub", "mul", "truediv", "pow", "reciprocal", "square", "floordiv", "mod",
}  # fmt: skip


def at_rows(interp, x: Node, ids: Node) -> Node | None:
    """x[ids] as a formula of the ids, or None. The rows are x's first axis of more than
    one element; axes of one element before it go."""
    if not any(x.axes):
        return None
    fn = _FORMS.get(x.op) or (_elementwise if x.op in _ALONG_ROWS else None)
    return fn(interp, x, ids) if fn is not None else None


def _row(x: Node) -> int:
    return next(i for i, axis in enumerate(x.axes) if axis)


def _range(interp, x: Node, ids: Node) -> Node | None:
    if x.op == "arange" and not (same(x.args[0], 0) and constant(x.args[2]) == 1):
        return None
    return _cast_to(interp, ids, x)


def _cast(interp, x: Node, ids: Node) -> Node | None:
    inner = at_rows(interp, x.args[0], ids)
    return inner and _cast_to(interp, inner, x)


def _cast_to(interp, inner: Node, x: Node) -> Node:
    if inner.dtype == x.dtype:
        return inner
    like = x.attrs.get("like")
    return interp.node("cast", (inner,), inner.axes, dtype=x.dtype, like=like)


def _buffer(interp, x: Node, ids: Node) -> Node | None:
    if x.attrs.get("persistent") is not False:
        return None  # a checkpoint may hold other values
    return at_rows(interp, x.args[0], ids)


def _rearrange(interp, x: Node, ids: Node) -> Node | None:
    base = x.args[0]
    if not any(base.axes) or base.axes[_row(base)] != x.axes[_row(x)]:
        return None
    inner = at_rows(interp, base, ids)
    if inner is None:
        return None
    tail = inner.axes[len(ids.axes) :]
    remade = dict(zip(map(_factors, base.axes[_row(base) + 1 :]), tail, strict=False))
    axes = [remade.get(_factors(axis), axis) for axis in x.axes[_row(x) + 1 :]]
    return rearranged(interp, inner, lambda: (*ids.axes, *axes))


def _factors(axis) -> tuple[int, ...]:
    return tuple(map(id, axis))


def _slice(interp, x: Node, ids: Node) -> Node | None:
    from porter.analyze.torch_parts import narrow

    base, low, high = x.args
    inner = at_rows(interp, base, ids)
    if inner is None:
        return None
    if x.attrs["dim"] == _row(x) - len(x.axes):
        whole = same(low, 0) and x.attrs["step"] == 1
        return inner if whole else None
    at = len(inner.axes) + x.attrs["dim"]
    return narrow(interp, inner, at, low, high, x.attrs["step"])


def _cat(interp, x: Node, ids: Node) -> Node | None:
    from porter.analyze.torch_parts import cat

    if x.attrs["dim"] <= _row(x) - len(x.axes):
        return None
    parts = [at_rows(interp, part, ids) for part in x.args[0]]
    if any(p is None for p in parts):
        return None
    return cat(interp, parts, x.attrs["dim"])


def _phi(interp, x: Node, ids: Node) -> Node | None:
    cond, a, b = x.args
    left, right = at_rows(interp, a, ids), at_rows(interp, b, ids)
    if left is None or right is None:
        return None
    return interp.join(cond, left, right)


def _elementwise(interp, x: Node, ids: Node) -> Node | None:
    args: list[Any] = []
    for arg in x.args:
        if isinstance(arg, Node):
            arg = _aligned(interp, arg, ids, _row(x) - len(x.axes))
            if arg is None:
                return None
        args.append(arg)
    return interp.elementwise(x.op, *args, dtype=x.dtype)


def _aligned(interp, arg: Node, ids: Node, row: int) -> Node | None:
    """An operand at the rows; row: their axis, counted from the end."""
    if len(arg.axes) < -row:
        return arg
    if arg.axes[row]:
        return at_rows(interp, arg, ids) if _row(arg) == len(arg.axes) + row else None
    if any(arg.axes[:row]):
        return None
    return rearranged(interp, arg, lambda: arg.axes[len(arg.axes) + row + 1 :])


_FORMS = {
    "arange": _range,
    "key_index": _range,
    "cast": _cast,
    "buffer": _buffer,
    "rearrange": _rearrange,
    "slice": _slice,
    "cat": _cat,
    "phi": _phi,
}
