"""Keys and values as they were before they went into the cache.

Attention reads them [batch, heads, history, dim], perhaps with the heads behind the batch,
perhaps each repeated for a group of queries. The engine caches them once a head; what
repeats them, before the cache or behind it, is its own grouping: query head i reads
key/value head i // group. Values that are copied as a whole before they are grouped, as
when half of the heads serves all queries, are cached with the copies, as heads of
their own.
"""

from collections.abc import Callable
from typing import Any

from porter.analyze.axes import leaves
from porter.analyze.graph import Axes, Axis, Factor, Node, Span
from porter.analyze.shared_states import own_side
from porter.gap import Gap, Refused
from porter.transforms.matching import is_op
from porter.transforms.paths import ELEMENTWISE

Make = Callable[..., Node]  # make(op, args, like, **attrs)


def heads_apart(axes: Axes) -> Axes | None:
    """The axes with the heads by themselves, where they may stand behind the batch:
    [batch * heads, seq, dim] -> [batch, heads, seq, dim]; None where they stand
    otherwise."""
    *lead, seq, dim = axes
    factors = [f for axis in lead for f in axis]
    batch = factors[:1]
    if not batch or batch[0].role != "batch" or any(f.role for f in factors[1:]):
        return None
    return (tuple(batch), tuple(factors[1:]), seq, dim)


def cached_states(node: Any, where: Node, transposed: bool, make: Make) -> Node:
    """The states that `node` reads from the cache: [batch, kv heads, seq, dim].

    Raises Refused where they aren't vLLM's: changed behind the cache, or grouped
    otherwise.
    """
    base = node
    while is_op(base, "rearrange", "cast"):
        base = base.args[0]
    chosen = own_side(base) if isinstance(base, Node) else None
    base = base if chosen is None else chosen[0]  # see shared_caches
    if not is_op(base, "remember"):
        span = base.span if isinstance(base, Node) else where.span
        raise _gap(
            span,
            f"cached keys or values go through `{base.op}`",
            "apply it before the cache is updated",
        )
    axes = list(node.axes)
    if transposed:
        axes[-1], axes[-2] = axes[-2], axes[-1]
    axes = list(heads_apart(tuple(axes)) or axes)
    copies = [] if transposed else _whole_copies(axes[1])
    _check_repeats(node, axes, copies)
    states: Node = base.args[0]
    wanted = _as_stored(axes, base, states, copies)
    if wanted is None:
        raise _gap(node.span, "the cached heads are regrouped before attention")
    return viewed(_once_a_head(states, make, node), wanted, make)


def _whole_copies(heads: Axis) -> list[Factor]:
    """The copies of all heads that stand in front of them, where a group stands behind."""
    factors = leaves(heads)
    first = next((i for i, f in enumerate(factors) if not f.repeats), 0)
    return list(factors[:first]) if factors and factors[-1].repeats else []


def _check_repeats(node: Node, axes: list[Axis], copies: list[Factor]) -> None:
    heads = [f for f in leaves(axes[1]) if f not in copies]
    repeats = [i for i, f in enumerate(heads) if f.repeats]
    if repeats and repeats != [len(heads) - 1]:
        raise _gap(
            node.span,
            "key/value heads are repeated in another order than vLLM's",
            "query head i must read key/value head i // group",
        )
    if any(f.repeats for i, a in enumerate(axes) if i != 1 for f in a):
        raise _gap(node.span, "cached tokens are repeated")


def _as_stored(
    axes: list[Axis], base: Node, states: Node, copies: list[Factor]
) -> Axes | None:
    """The read axes in terms of the states' factors, without repeats but for `copies`;
    None where they are other factors, or in another order within an axis."""
    twin: dict[int, Factor] = {id(f): f for f in copies}
    for after, before in zip(base.axes, states.axes, strict=True):
        for new, old in zip(leaves(after), leaves(before), strict=True):
            twin[id(new)] = old
    out: list[Axis] = []
    for axis in axes:
        kept = [f for f in leaves(axis) if not f.repeats or f in copies]
        if any(id(f) not in twin for f in kept):
            return None
        out.append(tuple(twin[id(f)] for f in kept))
    used = [id(f) for a in out for f in a if f not in copies]
    stored = [id(f) for a in states.axes for f in leaves(a) if not f.repeats]
    return tuple(out) if sorted(used) == sorted(stored) else None


def viewed(states: Node, wanted: Axes, make: Make) -> Node:
    """The states with the wanted axes, of the same factors."""
    mine = [[id(f) for f in leaves(a)] for a in states.axes]
    if mine == [[id(f) for f in leaves(a)] for a in wanted]:
        return states
    return make("rearrange", (states,), states, axes=wanted)


def _once_a_head(states: Node, make: Make, where: Node) -> Node:
    """The states without the copies that were made of each head before the cache."""
    copies = {id(f) for a in states.axes for f in leaves(a) if f.repeats and not f.role}
    if not copies:
        return states
    made: dict[int, Node] = {}

    def copied(node: Node) -> bool:
        return any(id(f) in copies for a in node.axes for f in leaves(a))

    def without(node: Node) -> Node:
        if node.id not in made:
            made[node.id] = _remade(node)
        return made[node.id]

    def _remade(node: Node) -> Node:
        axes = tuple(tuple(f for f in a if id(f) not in copies) for a in node.axes)
        if node.op == "rearrange" and not copied(node.args[0]):
            return make("rearrange", node.args, node, axes=axes)
        if node.op not in _EACH_ALONE:
            raise _gap(
                where.span, f"the copies of key/value heads go through `{node.op}`"
            )
        args = tuple(_each(a, copied, without) for a in node.args)
        new = make(node.op, args, node, axes=axes)
        new.attrs = {k: v for k, v in node.attrs.items() if k != "layout"}
        new.frame, new.loop, new.dtype = node.frame, node.loop, node.dtype
        return new

    return without(states)


_EACH_ALONE = ELEMENTWISE | {"rearrange", "slice", "select", "cat", "norm"}


def _each(arg: Any, copied, without) -> Any:
    if isinstance(arg, tuple):
        return tuple(_each(a, copied, without) for a in arg)
    return without(arg) if isinstance(arg, Node) and copied(arg) else arg


def _gap(span: Span, what: str, advice: str = "") -> Refused:
    return Refused([Gap(span.file, span.line, what, advice)])
