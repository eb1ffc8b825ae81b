"""Picking along a feature axis: topk, gather, scatter, one_hot, the largest with its place.

Routers are made of these. Each works on every token by itself; along the tokens they are
Gaps like everything else that mixes them.
"""

from typing import Any

from porter.analyze import axes as ax
from porter.analyze.every_token import every_index, filled_at_every_index
from porter.analyze.graph import Axis, Node, axis_size, feature_axis, has_role
from porter.analyze.symbols import constant, same
from porter.analyze.token_axes import forbid_tokens
from porter.analyze.torch_parts import gathered_rows
from porter.analyze.values import Opaque, is_scalar


class Picked(tuple):
    """(values, indices), as torch returns them: also by name."""

    def attribute(self, interp, name: str):
        if name in ("values", "indices"):
            return self[name == "indices"]
        raise interp.gap(f"`.{name}` of a result of topk isn't followed")


def axis_number(interp, x: Node, dim, what: str) -> int:
    """The axis number from the front."""
    at = constant(dim)
    if at is None:
        raise interp.gap(f"`{what}` along a symbolic dimension")
    try:
        return ax.normalize(at, len(x.axes))
    except ax.AxisError as error:
        raise interp.gap(f"`{what}`: {error}") from error


def feature_dim(interp, x: Node, dim, what: str) -> int:
    """The axis number from the front; it must be a feature axis."""
    at = axis_number(interp, x, dim, what)
    forbid_tokens(interp, x.axes[at], f"`{what}`")
    return at


def topk(interp, x: Node, k, dim=-1, largest=True, sorted=True) -> Picked:
    every = every_index(interp, x, axis_number(interp, x, dim, "topk"), k)
    if every is not None:
        return Picked((Opaque("the scores of all tokens in order"), every))
    at = feature_dim(interp, x, dim, "topk")
    if not is_scalar(k) or not isinstance(largest, bool):
        raise interp.gap("`topk` with arguments that can't be followed")
    axes = (*x.axes[:at], feature_axis(k), *x.axes[at + 1 :])
    found = interp.node(
        "topk", (x, k), axes, dtype=x.dtype, dim=at - len(x.axes), largest=largest
    )
    return picked(interp, found, axes)


def picked(interp, found: Node, axes) -> Picked:
    return Picked(
        interp.node(
            "picked", (found, i), axes, dtype=found.dtype if i == 0 else "int64"
        )
        for i in (0, 1)
    )


def extreme(name: str):
    """max and min along one axis, which come with the place of what they found."""

    def fn(interp, x: Node, dim=None, keepdim=False, other=None):
        dim = dim if other is None else other
        if isinstance(dim, Node):
            op = "maximum" if name == "max" else "minimum"
            return interp.elementwise(op, x, dim)
        if dim is None:
            return _last_position(x) or _all_elements(interp, x, name)
        at = feature_dim(interp, x, dim, name)
        axes = [() if i == at else a for i, a in enumerate(x.axes)]
        if keepdim is not True:
            del axes[at]
        found = interp.node(
            "extreme", (x,), tuple(axes), dtype=x.dtype, fn=name,
            dim=at - len(x.axes), keepdim=keepdim is True,
        )  # fmt: skip
        return picked(interp, found, tuple(axes))

    return fn


def _last_position(x: Node) -> Opaque | None:
    """The length so far: only branches on the config may leave it unread."""
    while x.op == "rearrange":
        x = x.args[0]
    return Opaque("the last position") if x.op == "positions" else None


def _all_elements(interp, x: Node, name: str):
    for axis in x.axes:
        forbid_tokens(interp, axis, f"`{name}` over all elements")
    raise interp.gap(f"`{name}` over all elements isn't followed")


def argmax(interp, x: Node, dim=None, keepdim=False) -> Node:
    if dim is None:
        return _all_elements(interp, x, "argmax")
    return extreme("max")(interp, x, dim, keepdim)[1]


def gather(interp, x: Node, dim, index) -> Node:
    rows = gathered_rows(interp, x, dim, index)
    if rows is not None:
        return rows
    at = feature_dim(interp, x, dim, "gather")
    _check_beside(interp, x, index, at, "gather")
    axes = (*x.axes[:at], index.axes[at], *x.axes[at + 1 :])
    return interp.node("gather", (x, index), axes, dtype=x.dtype, dim=at - len(x.axes))


def scatter(interp, x: Node, dim, index, src=None, value=None) -> Node:
    src = value if src is None else src
    at = axis_number(interp, x, dim, "scatter")
    full = filled_at_every_index(interp, x, at, index, src)
    if full is not None:
        return full
    at = feature_dim(interp, x, dim, "scatter")
    _check_beside(interp, x, index, at, "scatter")
    if isinstance(src, Node):
        _check_beside(interp, index, src, at, "scatter")
        if not same(axis_size(src.axes[at]), axis_size(index.axes[at])):
            raise interp.gap("`scatter` of another number of values than places")
    elif not is_scalar(src):
        raise interp.gap("`scatter` of something that can't be followed")
    axes = tuple(_longer(a, b) for a, b in zip(x.axes, index.axes, strict=True))
    axes = (*axes[:at], x.axes[at], *axes[at + 1 :])
    return interp.node(
        "scatter", (x, index, src), axes, dtype=x.dtype, dim=at - len(x.axes)
    )


def _longer(mine: Axis, other: Axis) -> Axis:
    """Of two axes of one size that with the identity of the tokens."""
    return other if any(f.repeats for f in mine) else mine


def _check_beside(interp, x: Node, index: Any, at: int, what: str) -> None:
    """Off the axis picked along both must be the same places."""
    if not isinstance(index, Node) or len(index.axes) != len(x.axes):
        raise interp.gap(f"`{what}` with an index of another rank isn't followed")
    for i, (mine, other) in enumerate(zip(x.axes, index.axes, strict=True)):
        if i == at:
            forbid_tokens(interp, other, f"`{what}`")
        elif ax.roles(mine) != ax.roles(other) or not same(
            axis_size(mine), axis_size(other)
        ):
            raise interp.gap(f"`{what}` with an index of other sizes")


def one_hot(interp, ids: Node, num_classes=-1) -> Node:
    if constant(num_classes) == -1 or not is_scalar(num_classes):
        raise interp.gap("`one_hot` without a number of classes depends on the data")
    axes = (*ids.axes, feature_axis(num_classes))
    return interp.node("one_hot", (ids, num_classes), axes, dtype="int64")


def is_feature(axis: Axis) -> bool:
    return not has_role(axis, "batch", "seq", "hist", "pair")
