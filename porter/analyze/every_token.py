"""Choosing all tokens: `scores.topk(min(k, n))` of n tokens, while there are at most k.

Sparse attention scores the tokens so far and lets each query see the k best. Up to k tokens
it sees them all, whatever the scores are, and what computes them is never read. Beyond k
vLLM's attention can't express it: the port bounds max_model_len by k.
"""

from typing import Any

from porter.analyze.graph import Node, axis_size
from porter.analyze.settling import beyond_length
from porter.analyze.symbols import HIST, Sym, constant, same, unwrap


def every_index(interp, x: Node, at: int, k: Any) -> Node | None:
    """The indices of the k largest along an axis of all tokens so far, in some order, where
    k is that many and at most a size of the config's; None where it isn't so."""
    if not same(axis_size(x.axes[at]), HIST):
        return None
    k = unwrap(k)
    if not (isinstance(k, Sym) and k.op == "call" and k.args[0] == "min"):
        return None
    sizes = [size for size in k.args[1:] if not same(size, HIST)]
    if len(k.args) != 3 or len(sizes) != 1:
        return None
    if beyond_length(interp, Sym("lt", (sizes[0], HIST))) is not False:
        return None
    return interp.node("every_index", (), x.axes, dtype="int64", dim=at - len(x.axes))


def filled_at_every_index(
    interp, x: Node, at: int, index: Any, src: Any
) -> Node | None:
    """x.scatter(dim, index, src) of one number at every index: nothing else is left."""
    while isinstance(index, Node) and index.op == "cast":
        index = index.args[0]
    if not (isinstance(index, Node) and index.op == "every_index"):
        return None
    number = None if isinstance(src, Node) else constant(src)
    if number is None or len(index.axes) != len(x.axes):
        return None
    if index.attrs["dim"] != at - len(x.axes):
        return None
    sizes = zip(index.axes, x.axes, strict=True)
    if not all(same(axis_size(a), axis_size(b)) for a, b in sizes):
        return None
    value = bool(number) if x.dtype == "bool" else number
    return interp.node("fill", (value,), index.axes, dtype=x.dtype, init="full")


def fills_nothing(x: Node, mask: Any) -> bool:
    """Whether x.masked_fill(mask, ...) is x: the mask was made as nothing but False."""
    made = mask
    while isinstance(made, Node) and made.op == "rearrange":
        made = made.args[0]
    if not (isinstance(made, Node) and made.op == "fill" and made.dtype == "bool"):
        return False
    if constant(made.args[0]) != 0 or len(mask.axes) > len(x.axes):
        return False
    sizes = zip(reversed(mask.axes), reversed(x.axes), strict=False)
    return all(m == () or same(axis_size(m), axis_size(n)) for m, n in sizes)
