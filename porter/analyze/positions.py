"""Token positions: the ways in which sources compute them come down to `positions`.

`arange(seq) + past`, `arange(past, past + seq)` and `cumsum(ones(past + seq)) - 1`, cut
to the new tokens, are the position of each token, which vLLM hands to the model.
"""

from typing import Any

from porter.analyze.graph import Node, batch_axis, has_role, hist_axis, seq_axis
from porter.analyze.symbols import BATCH, HIST, PAST, SEQ, arith, constant, same
from porter.analyze.values import is_scalar


def positions(interp, axes) -> Node:
    """The absolute position of every token."""
    rank = tuple(f.role for a in axes for f in a)
    return _everywhere(interp, "positions", axes, dtype="int64", rank=rank)


def _everywhere(interp, op: str, axes, **attrs) -> Node:
    """A node of the step as a whole: one, whichever module makes it."""
    saved = interp.frame, interp.loop
    interp.frame = interp.loop = None
    try:
        return interp.node(op, (), axes, **attrs)
    finally:
        interp.frame, interp.loop = saved


def arange(interp, start, stop, step) -> Node | None:
    if constant(step) != 1:
        return None
    if interp.cacheless and same(start, 0) and same(stop, SEQ):
        return positions(interp, (seq_axis(),))
    if same(start, 0) and same(stop, SEQ):
        return interp.node(
            "seq_index", (), (seq_axis(),), dtype="int64", line=interp.line
        )
    if same(start, PAST) and same(stop, HIST):
        return positions(interp, (seq_axis(),))
    if same(start, 0) and same(stop, HIST):
        return interp.node("key_index", (), (hist_axis(),), dtype="int64")
    return None


def of_range(interp, x: Node, low, high) -> Node | None:
    """`arange(n)[past : past + seq]`, as buffers of position ids are cut, else None."""
    new = same(low, PAST) and same(high, HIST)
    if not (new or (interp.cacheless and same(low, 0) and same(high, SEQ))):
        return None
    base = x
    while base.op in ("rearrange", "buffer", "cast"):
        if base.op == "rearrange" and sum(bool(a) for a in base.axes) != 1:
            return None
        base = base.args[0]
    if base.op != "arange" or not (same(base.args[0], 0) and same(base.args[2], 1)):
        return None
    return positions(interp, tuple(seq_axis() if a else () for a in x.axes))


def shift(interp, op: str, left, right) -> Node | None:
    """`arange(seq) + past` is the positions, and past is 0 in the first step."""
    if op != "add":
        return None
    for index, other in ((left, right), (right, left)):
        if interp.first_step and isinstance(index, Node) and same(other, 0):
            return index
        if (
            isinstance(index, Node)
            and not isinstance(other, Node)
            and same(other, PAST)
        ):
            base, axes = index, index.axes
            if base.op == "rearrange":
                base = base.args[0]
            if base.op == "seq_index":
                return positions(interp, axes)
    return None


def is_full_length(sizes: list) -> bool:
    return len(sizes) == 2 and same(sizes[0], BATCH) and same(sizes[1], HIST)


def ones(interp) -> Node:
    """A mask of ones over all tokens so far: nothing is padded."""
    return _everywhere(interp, "pos_ones", (batch_axis(), hist_axis()))


def is_position_mask(value) -> bool:
    return isinstance(value, Node) and value.op in ("pos_ones", "pos_index")


def is_all_ones(value) -> bool:
    """A mask that the source makes itself where it is given none: nothing is padded."""
    return isinstance(value, Node) and value.op == "pos_ones"


def operate(interp, name: str, args: list, kwargs: dict) -> Any:
    x = args[0]
    if not is_position_mask(x):
        return NotImplemented
    if name == "cumsum" and x.op == "pos_ones":
        dim = constant(args[1] if len(args) > 1 else kwargs.get("dim"))
        if dim in (1, -1):
            return interp.node("pos_index", (), x.axes, offset=1)
    if name in ("long", "int", "to", "contiguous", "type_as", "bool", "float"):
        return x
    return NotImplemented


def binary(interp, op: str, left, right) -> Any:
    if is_position_mask(left) and is_position_mask(right) and op == "mul":
        return left if left.op == "pos_index" else right
    if is_position_mask(left) and left.op == "pos_index" and is_scalar(right):
        if op in ("add", "sub"):
            offset = arith(op, left.attrs["offset"], right)
            return interp.node("pos_index", (), left.axes, offset=offset)
    return NotImplemented


def index(interp, x: Node, items: list) -> Node | None:
    """[:, past:] leaves the new tokens."""
    ok = len(items) == 2 and all(isinstance(i, slice) for i in items)
    if ok and x.op == "pos_index" and items[0] == slice(None):
        part = items[1]
        whole = part.start is not None and same(part.start, PAST)
        if whole and part.stop is None and part.step is None:
            made = positions(interp, (x.axes[0], seq_axis()))
            offset = x.attrs["offset"]
            return made if same(offset, 0) else interp.elementwise("add", made, offset)
    return None


def last(x: Node) -> Any:
    """max() of all positions: the last one. None for another tensor's."""
    while x.op in ("rearrange", "cast"):
        x = x.args[0]
    return arith("sub", HIST, 1) if x.op == "positions" else None


def depends_on_tokens(node: Node) -> bool:
    return any(has_role(a, "seq") for a in node.axes)
