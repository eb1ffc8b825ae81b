"""Parts of tensors: slices, chunks, items; and putting parts together."""

from typing import Any

from porter.analyze import axes as ax
from porter.analyze import legacy_cache
from porter.analyze import positions as pos
from porter.analyze.expert_loops import PairIndex
from porter.analyze.graph import (
    Node,
    axis_size,
    has_role,
    sized_axis,
)
from porter.analyze.symbols import LAYER, Sym, arith, constant, contains, same, unwrap
from porter.analyze.table_rows import at_rows
from porter.analyze.token_axes import forbid_tokens
from porter.analyze.torch_shapes import rearranged, unsqueeze


def index(interp, x: Node, item) -> Node:
    """x[...] with integers, slices, None and `...`."""
    items = list(item) if isinstance(item, tuple) else [item]
    items = [_one_item(interp, it) for it in items]
    if pos.is_position_mask(x):
        cut = pos.index(interp, x, items)
        if cut is not None:
            return cut
    if any(isinstance(it, PairIndex) for it in items):
        return interp.index_by_pairs(x, items)
    for it in items:
        if isinstance(it, Node):
            return _gather_rows(interp, x, items)
    count = sum(1 for i in items if i is not None and i is not Ellipsis)
    if Ellipsis in [i for i in items if not _unhashable(i)]:
        at = next(n for n, i in enumerate(items) if i is Ellipsis)
        items[at : at + 1] = [slice(None)] * (len(x.axes) - count)
    else:
        items += [slice(None)] * (len(x.axes) - count)
    out, dim = x, 0
    for it in items:
        if it is None:
            out = unsqueeze(interp, out, dim)
            dim += 1
        elif isinstance(it, slice):
            out = narrow(interp, out, dim, it.start, it.stop, it.step)
            dim += 1
        elif constant(it) is not None:
            out = select(interp, out, dim, constant(it))
        elif isinstance(unwrap(it), Sym) and same(it, LAYER):
            out = select(interp, out, dim, unwrap(it))
        else:
            raise interp.gap("a tensor is indexed by something that can't be followed")
    return out


def put(interp, x: Node, item, value) -> Node:
    """x with `value` in the place of x[item], one slice along a feature axis."""
    items = list(item) if isinstance(item, tuple) else [item]
    if Ellipsis in [i for i in items if not _unhashable(i)]:
        at = next(n for n, i in enumerate(items) if i is Ellipsis)
        items[at : at + 1] = [slice(None)] * (len(x.axes) - len(items) + 1)
    items += [slice(None)] * (len(x.axes) - len(items))
    if any(not isinstance(i, slice) or i.step not in (None, 1) for i in items):
        raise interp.gap("a tensor is written to in place by index")
    cuts = [n for n, i in enumerate(items) if i != slice(None)]
    if len(cuts) > 1:
        raise interp.gap("a block of a tensor is written to in place")
    at = cuts[0] if cuts else len(x.axes) - 1
    size = axis_size(x.axes[at])
    low, high = ax.bounds(items[at].start, items[at].stop, size)
    part = narrow(interp, x, at, low, high)
    if not isinstance(value, Node):
        value = interp.node("fill", (value,), part.axes, dtype=x.dtype)
    fits = len(part.axes) == len(value.axes) and value.dtype == x.dtype
    for mine, other in zip(part.axes, value.axes, strict=False):
        fits = fits and interp.must_equal(axis_size(mine), axis_size(other))
    if not fits:
        raise interp.gap("a part of a tensor is written with other sizes than its own")
    around = [(0, low), None, (high, size)]
    pieces = [value if r is None else _piece(interp, x, at, *r) for r in around]
    kept = [p for p in pieces if p is not None]
    return kept[0] if len(kept) == 1 else cat(interp, kept, at)


def _piece(interp, x: Node, at: int, low, high) -> Node | None:
    """x from low to high along an axis; where x was put together of parts, those parts."""
    if same(low, high):
        return None
    if x.op != "cat" or x.attrs["dim"] % len(x.axes) != at:
        return narrow(interp, x, at, low, high)
    edge: Any = 0
    edges = [edge]
    for part in x.args[0]:
        edge = arith("add", edge, axis_size(part.axes[at]))
        edges.append(edge)
    first = next((i for i, e in enumerate(edges) if same(e, low)), None)
    last = next((i for i, e in enumerate(edges) if same(e, high)), None)
    if first is None or last is None:
        return narrow(interp, x, at, low, high)
    parts = list(x.args[0][first:last])
    return parts[0] if len(parts) == 1 else cat(interp, parts, at)


def _one_item(interp, item):
    """x[..., [i]] is the slice of one item."""
    if not isinstance(item, list):
        return item
    at = constant(item[0]) if len(item) == 1 else None
    if not isinstance(at, int):
        raise interp.gap("a tensor is indexed by a list")
    return slice(at, at + 1 if at != -1 else None)


def _unhashable(item) -> bool:
    return isinstance(item, (slice, Node, Sym))


def _gather_rows(interp, x: Node, items: list) -> Node:
    """table[ids]: rows picked by a tensor of ids, as an embedding does."""
    items = items[:1] + [i for i in items[1:] if i != slice(None)]
    if len(items) == 1:
        formula = at_rows(interp, x, items[0])
        if formula is not None:
            return formula
    if len(items) != 1 or any(has_role(a, "batch", "seq", "hist") for a in x.axes):
        raise interp.gap("a tensor is indexed by a tensor")
    ids = items[0]
    return interp.node("rows", (x, ids), (*ids.axes, *x.axes[1:]), dtype=x.dtype)


def gathered_rows(interp, x: Node, dim, index) -> Node | None:
    """`table[ids]` of a gather by ids that are the same along each row, else None."""
    table = _repeated_base(x)
    ids = _repeated_base(index)
    rank = len(x.axes)
    if (
        ax.normalize(constant(dim), rank) == rank - 2
        and len(table.axes) == 2
        and len(index.axes) == rank == len(ids.axes) + 1
        and same(axis_size(index.axes[-1]), axis_size(table.axes[-1]))
        and table.axes == x.axes[-2:]
        and ids.axes == index.axes[:-1]
        and all(f.repeats for a in x.axes[:-2] for f in a)
    ):
        return _gather_rows(interp, table, [ids])
    return None


def _repeated_base(x: Node) -> Node:
    """What a view only copies along axes of its own."""
    if x.op != "rearrange":
        return x
    base = x.args[0]
    kept = [a for a in x.axes if a and not all(f.repeats for f in a)]
    if kept == [a for a in base.axes if a]:
        if len(base.axes) == len(kept) or base.axes == x.axes[: len(base.axes)]:
            return base
    return x


def index_select(interp, x: Node, dim, index) -> Node:
    if constant(dim) != 0:
        raise interp.gap("`index_select` along another axis than the first")
    return _gather_rows(interp, x, [index])


def narrow(interp, x: Node, dim: int, start, stop, step=None) -> Node:
    axis = x.axes[dim]
    size = axis_size(axis)
    low, high = ax.bounds(start, stop, size)
    low = _of_the_end(low, high, size)
    if constant(low) == 0 and same(high, size) and step in (None, 1):
        return x
    if step in (None, 1) and (made := pos.of_range(interp, x, low, high)) is not None:
        return made
    if has_role(axis, "batch", "seq"):
        return _narrow_tokens(interp, x, axis)
    length = ax.slice_size(low, high, step, size)
    axes = (*x.axes[:dim], sized_axis(length), *x.axes[dim + 1 :])
    if not same(length, 1) and axes[dim] == ():
        raise interp.gap("a slice of unknown size")
    return interp.node(
        "slice",
        (x, low, high),
        axes,
        dtype=x.dtype,
        dim=dim - len(x.axes),
        step=step if step is not None else 1,
    )


def _of_the_end(low, high, size):
    """`size - n` of `max(0, size - n)`, where n counts tokens: the last n of a table. A
    table of fewer doesn't fit what it is added to, there the source itself fails."""
    inner = unwrap(low)
    if isinstance(inner, Sym) and inner.op == "call" and inner.args[0] == "max":
        parts = inner.args[1:]
        if len(parts) == 2 and constant(parts[0]) == 0 and same(high, size):
            if contains(arith("sub", size, parts[1]), "runtime"):
                return parts[1]
    return low


def _narrow_tokens(interp, x, axis):
    raise interp.gap(
        "this takes part of the tokens: it mixes tokens outside attention",
        "vLLM batches tokens of several sequences; only attention may look across them",
    )


def select(interp, x: Node, dim: int, at) -> Node:
    axis = x.axes[dim % len(x.axes)]
    dim = dim % len(x.axes)
    if not axis:
        return rearranged(interp, x, lambda: [*x.axes[:dim], *x.axes[dim + 1 :]])
    forbid_tokens(interp, axis, "taking one item")
    if not isinstance(at, Sym) and at < 0:
        at = arith("add", axis_size(axis), at)
    return interp.node(
        "select",
        (x, at),
        (*x.axes[:dim], *x.axes[dim + 1 :]),
        dtype=x.dtype,
        dim=dim - len(x.axes),
    )


def chunk(interp, x: Node, chunks, dim=0):
    n = constant(chunks)
    at = ax.normalize(constant(dim), len(x.axes))
    forbid_tokens(interp, x.axes[at], "`chunk`")
    width = arith("floordiv", axis_size(x.axes[at]), n)
    return tuple(_part(interp, x, at, i, width) for i in range(int(n)))


def _part(interp, x, at, i, width):
    low = arith("mul", width, i)
    return narrow(interp, x, at, low, arith("add", low, width))


def split(interp, x: Node, split_size_or_sections=None, dim=0, **kwargs):
    sizes = kwargs.get("split_size", split_size_or_sections)
    at = ax.normalize(constant(dim), len(x.axes))
    forbid_tokens(interp, x.axes[at], "`split`")
    if not isinstance(sizes, (tuple, list)):
        count = constant(arith("floordiv", axis_size(x.axes[at]), sizes))
        if count is None:
            raise interp.gap("`split` into a symbolic number of parts")
        sizes = [sizes] * int(count)
    out, low = [], 0
    for size in sizes:
        high = arith("add", low, size)
        out.append(narrow(interp, x, at, low, high))
        low = high
    if not interp.must_equal(low, axis_size(x.axes[at])):
        raise interp.gap(f"`split` sizes don't add up to {axis_size(x.axes[at])}")
    return tuple(out)


def unbind(interp, x, dim=0):
    at = ax.normalize(constant(dim), len(x.axes))
    n = constant(axis_size(x.axes[at]))
    if n is None:
        raise interp.gap("`unbind` of an axis of symbolic size")
    return tuple(select(interp, x, at, i) for i in range(int(n)))


def cat(interp, tensors, dim=0, axis=None):
    dim = dim if axis is None else axis
    tensors = [interp.resolve(t) for t in tensors]
    if any(legacy_cache.is_past(t) for t in tensors):
        return legacy_cache.join_past(interp, tensors, constant(dim))
    if any(not isinstance(t, Node) for t in tensors):
        raise interp.gap("`cat` of something that isn't a tensor")
    at = ax.normalize(constant(dim), len(tensors[0].axes))
    size: Any = 0
    sinks = _is_sink_added([t.axes[at] for t in tensors])
    spans = any(has_role(x.axes[at], "span") for x in tensors)
    for x in tensors:
        if not (spans or sinks):
            forbid_tokens(interp, x.axes[at], "`cat`")
        size = arith("add", size, axis_size(x.axes[at]))
    try:
        rest = [
            ax.broadcast([(t.axes[i],) for t in tensors])[0] if i != at else ()
            for i in range(len(tensors[0].axes))
        ]
    except (ax.AxisError, IndexError) as error:
        raise interp.gap(f"`cat`: {error}") from error
    from porter.analyze.interpreter import promote

    rest[at] = sized_axis(size)
    rank = len(rest)
    return interp.node(
        "cat", (tuple(tensors),), tuple(rest), dtype=promote(tensors), dim=at - rank
    )


def _is_sink_added(axes: list) -> bool:
    """One more behind the cached tokens: only attention, as a whole, may have it."""
    return len(axes) == 2 and has_role(axes[0], "hist") and axes[1] == ()


def stack(interp, tensors, dim=0):
    at = constant(dim) % (len(tensors[0].axes) + 1)
    return cat(interp, [unsqueeze(interp, t, at) for t in tensors], at)


def pad(interp, x, *args, **kwargs):
    raise interp.gap(
        "`pad` isn't followed",
        "padding along the tokens mixes them; along features rewrite it as cat",
    )
