"""Layers that attend over the keys and values of an earlier layer.

Attention reads either its own cache or, in some layers, what an earlier layer left
(`porter/analyze/shared_states`). Where that is exactly what the earlier layer's attention
has in its own cache, the later one reads that cache: vLLM's kv_sharing_target_layer_name.
The layer is the last one before, of which the source's store has the key and conditions
that the source's read asks for; the port works it out from the same expressions.

Refuses: other values than those that are cached there; a window that isn't the same in
both layers.
"""

from dataclasses import dataclass
from typing import Any

from porter.analyze.graph import Node, Span
from porter.analyze.shared_states import Shelf, own_side
from porter.analyze.symbols import LAYER, Sym, contains, key, same, unwrap
from porter.gap import Gap, Refused
from porter.transforms.matching import is_op

TARGET = Sym("target", ())  # the earlier layer, in expressions that are about it


@dataclass(frozen=True)
class Sharing:
    """cond: in which layers; earlier: what is true of the layer that is shared, in terms
    of TARGET, and of LAYER for the one that reads."""

    cond: Any
    earlier: tuple[Any, ...]
    read: Any
    write: Any
    may_chain: bool  # whether the source doesn't say that the earlier layer shares none


def sharing_of(keys: Node, values: Node) -> Sharing | None:
    """How attention shares the cache that keys and values are read from, None where it
    doesn't. Raises Refused where it is shared in a way that vLLM has not."""
    chosen = [own_side(_base(states)) for states in (keys, values)]
    if chosen[0] is None and chosen[1] is None:
        return None
    if chosen[0] is None or chosen[1] is None:
        raise _gap(keys.span, "only the keys or the values are another layer's")
    own_keys, left_keys, cond = chosen[0]
    own_values, left_values, other = chosen[1]
    shelf = _shelf(left_keys)
    if not same(cond, other) or _shelf(left_values) is not shelf:
        raise _gap(keys.span, "keys and values of different earlier layers")
    if len(shelf.stored) != 1:
        raise _gap(left_keys.span, "keys and values that no earlier layer leaves")
    stored = shelf.stored[0]
    left = [_place(n) for n in (left_keys, left_values)]
    kept = [stored.values[at] if at < len(stored.values) else None for at in left]
    if kept[0] is None or kept[1] is None:
        raise _gap(left_keys.span, "more is read than an earlier layer leaves")
    for mine, theirs in ((own_keys, kept[0]), (own_values, kept[1])):
        there = own_side(theirs.final)
        made = theirs.final if there is None else there[0].final
        if not is_op(mine, "remember") or made is not mine:
            raise _gap(
                left_keys.span,
                "what an earlier layer leaves isn't what its attention has cached",
                "leave the keys and values that the cache's update returned",
            )
    read = _index(left_keys)
    if not same(read, _index(left_values)):
        raise _gap(left_keys.span, "keys and values of different earlier layers")
    held = [(of_target(c), holds) for c, holds in stored.conds]
    conds = [c if holds else Sym("not", (c,)) for c, holds in held]
    found = Sym("eq", (of_target(stored.index), read))
    chain = any(own_side(n.final) is not None for n in kept if n is not None)
    return Sharing(cond, (found, *conds), read, stored.index, chain)


def same_in_both(value: Any, sharing: Sharing) -> bool:
    """Whether a value of the layer is that of the layer whose cache it reads: it depends
    on the layer through the key alone."""
    if not same(sharing.read, sharing.write):
        return not contains(value, "layer")
    return not contains(_without(value, sharing.read), "layer")


def of_target(value: Any) -> Any:
    """What a layer's expression is for the earlier layer."""
    inner = unwrap(value)
    if isinstance(inner, (tuple, list)):
        return type(inner)(of_target(v) for v in inner)
    if not isinstance(inner, Sym):
        return inner
    if same(inner, LAYER):
        return TARGET
    if not contains(inner, "layer"):
        return inner
    return Sym(inner.op, tuple(of_target(a) for a in inner.args))


def _without(value: Any, part: Any) -> Any:
    inner = unwrap(value)
    if not isinstance(inner, Sym):
        return inner
    if key(inner) == key(part):
        return None
    return Sym(inner.op, tuple(_without(a, part) for a in inner.args))


def _base(states: Node) -> Node:
    while is_op(states, "rearrange", "cast"):
        states = states.args[0]
    return states


def _shelf(node: Node) -> Shelf:
    shelf: Shelf = _base(node).attrs["shelf"]
    return shelf


def _index(node: Node) -> Any:
    return _base(node).attrs["index"]


def _place(node: Node) -> int:
    at: int = _base(node).attrs["at"]
    return at


def _gap(span: Span, what: str, advice: str = "") -> Refused:
    return Refused([Gap(span.file, span.line, what, advice)])
