"""Caches as they were before transformers had a class for them: tuples of tensors.

`past_key_values[layer]` is (keys, values) of the tokens before, None at the first step,
and the model returns new ones. A source that joins them to its new states by `cat` does
what the engine's cache does, if what it returns is what it joined. The first step is the
one without tokens before it (past == 0), and must compute what the others do.
"""

from dataclasses import dataclass, field
from typing import Any

from porter.analyze.graph import Node, axis_size, has_role
from porter.analyze.remember import remembered
from porter.analyze.sequences import SymList
from porter.analyze.symbols import (
    ARITHMETIC,
    BATCH,
    LAYER,
    PAST,
    Sym,
    arith,
    constant,
    key,
    same,
    unwrap,
)
from porter.analyze.values import is_scalar

FIRST = Sym("eq", (PAST, 0))


class Past:
    """What the caller hands over: None at first, then a tuple with an item a layer."""


@dataclass(frozen=True)
class PastLayer:
    layer: Any


@dataclass(frozen=True)
class PastStates:
    """The keys (which 0) or values (which 1) of the tokens before."""

    which: int
    layer: Any


@dataclass(frozen=True)
class PastShape:
    states: PastStates


@dataclass
class Record:
    """What a source does with such a cache, to be checked when all is read."""

    touched: bool = False
    asked: list[tuple[int, int]] = field(default_factory=list)  # (which, axis)
    joined: dict[int, tuple[Node, int]] = field(default_factory=dict)
    returned: bool = False


def is_past(value: Any) -> bool:
    return isinstance(value, (Past, PastLayer, PastStates))


def item(interp, past: Any, index: Any) -> Any:
    if isinstance(past, Past):
        interp.past.touched = True
        if same(index, LAYER) or constant(index) == 0:
            return PastLayer(index)
    elif isinstance(past, PastLayer) and index == slice(None, 2):
        return past
    elif isinstance(past, PastLayer) and constant(index) in (0, 1):
        return PastStates(int(constant(index)), past.layer)
    elif isinstance(past, PastShape) and isinstance(index, int):
        interp.past.asked.append((past.states.which, index))
        return PAST
    raise interp.gap("this part of the cache isn't followed")


def unpacked(past: PastLayer) -> list[PastStates]:
    return [PastStates(0, past.layer), PastStates(1, past.layer)]


def attribute(interp, past: Any, name: str) -> Any:
    if isinstance(past, PastStates) and name == "shape":
        return PastShape(past)
    raise interp.gap(f"`.{name}` of the cache isn't followed")


def method(interp, past: Any, name: str, args: list) -> Any:
    if isinstance(past, PastStates):
        if name == "size" and args:
            return item(interp, PastShape(past), args[0])
        if name in ("to", "type_as", "contiguous"):
            return past
        if name == "numel":
            return arith("mul", BATCH, PAST)  # 0 where there is nothing past
    raise interp.gap(f"`.{name}()` of the cache isn't followed")


def join_past(interp, tensors: list, dim: int) -> Node:
    """cat((past, new), dim): the keys or values of all tokens so far."""
    past, new = tensors if len(tensors) == 2 else (None, None)
    if not (isinstance(past, PastStates) and isinstance(new, Node)):
        raise interp.gap("the cache is joined in a way that isn't followed")
    at = dim % len(new.axes)
    if not has_role(new.axes[at], "seq") or not same(past.layer, LAYER):
        raise interp.gap("the cache is joined along another axis than the tokens")
    if past.which in interp.past.joined:
        raise interp.gap("the cache is joined twice")
    made = remembered(interp, new)
    interp.past.joined[past.which] = made, at
    return made


def see_returned(interp, old: Any, value: Any) -> None:
    """A tuple that grows by one item a layer: the cache, if it holds what was joined."""
    joined = interp.past.joined
    if not joined or not isinstance(old, (tuple, list)) or type(value) is not type(old):
        return
    if len(value) != len(old) + 1:
        return
    states = _stacked(value[-1]) or value[-1]
    if not isinstance(states, (tuple, list)):
        return
    nodes = [strip_casts(n) for n in states if isinstance(n, Node)]
    if not any(n is made for n in nodes for made, _ in joined.values()):
        return
    if len(nodes) != 2 or any(
        joined.get(i, (None,))[0] is not n for i, n in enumerate(nodes)
    ):
        raise interp.gap("the model returns another cache than it reads")
    interp.past.returned = True


def _stacked(value: Any) -> list[Node] | None:
    """The tensors of `torch.stack((keys, values))`, read back by [0] and [1]."""
    if not isinstance(value, Node) or value.op != "cat":
        return None
    if value.attrs["dim"] != -len(value.axes) or len(value.args[0]) != 2:
        return None
    parts = []
    for part in value.args[0]:
        if part.op != "rearrange" or part.axes != ((), *part.args[0].axes):
            return None
        parts.append(part.args[0])
    return parts


def strip_casts(node: Node) -> Node:
    while node.op == "cast":
        node = node.args[0]
    return node


def check(interp) -> None:
    """What must hold of a cache that was read, once everything is."""
    record = interp.past
    if not record.joined:
        return
    if len(record.joined) != 2 or not record.returned:
        raise interp.gap("the cache that the model reads isn't the one that it returns")
    for which, axis in record.asked:
        made, at = record.joined[which]
        rank = len(made.axes)
        if not -rank <= axis < rank or axis % rank != at:
            raise interp.gap("the cache's length is read from another axis")


# -- the first step computes what the others do


def joined(first: Any, later: Any) -> Any:
    """The one value of a branch on the first step, None where there is none."""
    if is_past(later) and (first is None or _all_none(first)):
        return later
    if isinstance(first, (tuple, list)) and type(first) is type(later):
        if len(first) != len(later):
            return None
        items = [joined(a, b) for a, b in zip(first, later, strict=True)]
        return None if any(item is None for item in items) else type(later)(items)
    if isinstance(first, Node) and isinstance(later, Node):
        return later if _equal_at_start(first, later, {}) else None
    if is_scalar(first) and is_scalar(later) and first is not None:
        return later if same(first, at_start(later)) else None
    return None


def _all_none(value: Any) -> bool:
    return isinstance(value, SymList) and value.element is None


def at_start(x: Any) -> Any:
    """x where there are no tokens before."""
    x = unwrap(x)
    if not isinstance(x, Sym):
        return x
    if x.key == PAST.key:
        return 0
    if x.op in ARITHMETIC:
        return arith(x.op, *(at_start(a) for a in x.args))
    return x


def _equal_at_start(first: Node, later: Node, known: dict) -> bool:
    if first is later:
        return True
    pair = first.id, later.id
    if pair not in known:
        known[pair] = True
        known[pair] = _compare(first, later, known)
    return known[pair]


def _compare(first: Node, later: Node, known: dict) -> bool:
    if later.op == "remember" and first.op != "remember":
        return _equal_at_start(first, later.args[0], known)
    sizes = [
        same(axis_size(a), at_start(axis_size(b)))
        for a, b in zip(first.axes, later.axes, strict=False)
    ]
    if len(first.axes) != len(later.axes) or not all(sizes):
        return False
    if first.op == "seq_index" and later.op in ("positions", "key_index"):
        return True
    if first.op != later.op or len(first.args) != len(later.args):
        return False
    kept = {"slot", "unique", "layout", "rank", "line"}
    if any(
        n not in kept and not _equal_values(v, later.attrs.get(n), known)
        for n, v in first.attrs.items()
    ):
        return False
    return all(
        _equal_values(a, b, known) for a, b in zip(first.args, later.args, strict=True)
    )


def _equal_values(a: Any, b: Any, known: dict) -> bool:
    if isinstance(a, Node) and isinstance(b, Node):
        return _equal_at_start(a, b, known)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(
            _equal_values(x, y, known) for x, y in zip(a, b, strict=True)
        )
    if is_scalar(a) and is_scalar(b):
        return key(a) == key(at_start(b))
    return a is b
