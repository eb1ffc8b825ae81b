"""The value of a tensor at one query position and one key position.

Masks, and scores under masks, are whatever a source makes of ranges, triangles, filled
tensors, comparisons and choices. `value` computes an element symbolically: a number, a
boolean, an expression of the positions, or `Data`: exactly the element of a node whose
own value porter doesn't look into. It follows where each axis's index comes from; where
it can't, it raises Unproved.
"""

from dataclasses import dataclass, replace
from typing import Any

from porter.analyze.axes import leaves
from porter.analyze.graph import Node, has_role, walk
from porter.analyze.inequalities import KEY, QUERY
from porter.analyze.paths import Paths, Unproved
from porter.analyze.symbols import (
    PAST,
    Sym,
    arith,
    constant,
    contains,
    is_symbolic,
    unwrap,
)

LOWEST = -3.4028234663852886e38  # torch.finfo(torch.float32).min
BLOCKED = -1e4  # and below: exp() of it is 0 beside any score

_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge"}
_LOGIC = {"bitand": all, "bitor": any, "xor": lambda pair: pair[0] is not pair[1]}


@dataclass(frozen=True)
class Data:
    """The element of this node at these positions, whatever it is. fixed: it is the same
    at all positions. terms: where it is known as a sum of (factors, expression of the
    positions), these; the factors are nodes that are fixed."""

    node: Node
    fixed: bool = False
    terms: tuple[tuple[tuple[Node, ...], Any], ...] | None = None


Coords = tuple[Any, ...]  # an index for each axis, None where it isn't known


def coordinates(node: Node) -> Coords:
    """Of scores or a mask for them: query index and key position, by the axes' roles."""
    out: list[Any] = []
    for axis in node.axes:
        if has_role(axis, "hist"):
            out.append(KEY)
        elif has_role(axis, "seq"):
            out.append(arith("sub", QUERY, PAST))
        else:
            out.append(None)
    return tuple(out)


def value(x: Any, at: Coords, paths: Paths) -> Any:
    """Element of x at the indices `at`, right-aligned to its axes."""
    if not isinstance(x, Node):
        return _number(x)
    if len(at) < len(x.axes):
        raise Unproved("a mask of more axes than the scores")
    at = at[len(at) - len(x.axes) :]
    at = tuple(i if axis else 0 for i, axis in zip(at, x.axes, strict=True))
    fixed = not any(is_symbolic(i) for i in at)
    try:
        found = _computed(x, at, paths)
    except NoIndex:
        if not fixed:
            raise
        found = Data(x)
    if isinstance(found, Data) and found.node is x and fixed and not found.fixed:
        return replace(found, fixed=True)
    return found


def _computed(x: Node, at: Coords, paths: Paths) -> Any:
    handler = _HANDLERS.get(x.op)
    if handler is not None:
        return handler(x, at, paths)
    if x.op in _COMPARISONS:
        return _compare(x, at, paths)
    if x.op in _LOGIC:
        return _logic(x, at, paths)
    if x.op in ("add", "sub", "mul", "truediv", "neg", "maximum", "minimum", "abs"):
        return _arithmetic(x, at, paths)
    return Data(x)


def _number(x: Any) -> Any:
    inner = unwrap(x)
    if isinstance(inner, Sym) and inner.op == "finfo":
        if inner.args[0] == "min":
            return LOWEST
        if inner.args[0] == "max":
            return -LOWEST
        raise Unproved(f"torch.finfo's {inner.args[0]} in a mask")
    number = constant(inner)
    if isinstance(inner, bool):
        return inner
    return number if number is not None else inner


class NoIndex(Unproved):
    """An element is asked for by an index that isn't known."""


def _index(axis_at: Any) -> Any:
    if axis_at is None:
        raise NoIndex("a mask depends on an index that can't be followed")
    return axis_at


# -- tensors made from nothing


def _fill(x: Node, at: Coords, paths: Paths) -> Any:
    if x.attrs.get("init") == "empty":
        raise Unproved("a mask of values that nothing set")
    return value(x.args[0], (), paths)


def _range(x: Node, at: Coords, paths: Paths) -> Any:
    start, _stop, step = x.args
    return arith("add", start, arith("mul", _index(at[-1]), step))


def _own_index(x: Node, at: Coords, paths: Paths) -> Any:
    for axis, index in zip(x.axes, at, strict=True):
        if has_role(axis, "seq", "hist"):
            base = PAST if x.op == "positions" else x.attrs.get("offset", 0)
            return arith("add", _index(index), base)
    raise Unproved("positions without a token axis")


def _library_mask(x: Node, at: Coords, paths: Paths) -> Any:
    """transformers' own masks, as they are added to the scores."""
    if x.attrs["kind"] == "chunked":
        raise Unproved("chunked attention isn't ported yet")
    query, key = arith("add", _index(at[-2]), PAST), _index(at[-1])
    if not paths.compare("le", key, query):
        return LOWEST
    window = x.args[0]
    if window is None:
        return 0.0
    return 0.0 if paths.compare("lt", arith("sub", query, key), window) else LOWEST


def _triangle(x: Node, at: Coords, paths: Paths) -> Any:
    row, column = _index(at[-2]), _index(at[-1])
    edge = arith("add", row, x.attrs["diagonal"])
    inside = paths.compare("ge" if x.attrs["upper"] else "le", column, edge)
    if inside:
        return value(x.args[0], at, paths)
    return False if x.dtype == "bool" else 0


# -- the same elements elsewhere


def _cast(x: Node, at: Coords, paths: Paths) -> Any:
    inner = value(x.args[0], at, paths)
    if isinstance(inner, Data):
        return replace(inner, node=x) if inner.node is x.args[0] else _neutral(x, inner)
    if x.dtype == "bool":
        return _truth(inner, paths)
    if isinstance(inner, bool):
        return int(inner)
    if isinstance(inner, float) and str(x.dtype).startswith("int"):
        raise Unproved("a mask's fractions are cut off")
    return inner


def _neutral(x: Node, inner: Data) -> Data:
    if x.dtype in (None, "float32", "float64"):
        return inner
    raise Unproved("masked scores are rounded")


def _rearrange(x: Node, at: Coords, paths: Paths) -> Any:
    base = x.args[0]
    where: dict[int, Any] = {}
    for axis, index in zip(x.axes, at, strict=True):
        parts = leaves(axis)
        if len(parts) == 1:
            where[id(parts[0])] = index
    moved: list[Any] = []
    for axis in base.axes:
        parts = leaves(axis)
        alone = where.get(id(parts[0])) if len(parts) == 1 else None
        moved.append(alone if parts else 0)
    inner = value(base, tuple(moved), paths)
    if isinstance(inner, Data):
        if inner.node is base:
            return replace(inner, node=x)
        if [leaves(a) for a in x.axes[-2:]] != [leaves(a) for a in base.axes[-2:]]:
            raise Unproved("masked scores change their axes")
    return inner


def _slice(x: Node, at: Coords, paths: Paths) -> Any:
    base, low, _high = x.args
    dim = x.attrs["dim"]
    moved = list(at)
    step = x.attrs.get("step", 1)
    if moved[dim] is not None:
        moved[dim] = arith("add", arith("mul", moved[dim], step), low)
    return _part(x, base, tuple(moved), paths)


def _select(x: Node, at: Coords, paths: Paths) -> Any:
    base, index = x.args
    dim = x.attrs["dim"] % len(base.axes)
    return _part(x, base, (*at[:dim], index, *at[dim:]), paths)


def _part(x: Node, base: Node, at: Coords, paths: Paths) -> Any:
    inner = value(base, at, paths)
    if isinstance(inner, Data):
        if inner.node is not base:
            raise Unproved("a part of masked scores")
        return replace(inner, node=x)
    return inner


def _cat(x: Node, at: Coords, paths: Paths) -> Any:
    dim = x.attrs["dim"]
    index = at[dim]
    for part in x.args[0][:-1]:
        size = _size(part.axes[dim])
        if paths.compare("lt", _index(index), size):
            return _joined(x, part, dim, index, at, paths)
        index = arith("sub", index, size)
    return _joined(x, x.args[0][-1], dim, index, at, paths)


def _joined(x: Node, part: Node, dim: int, index, at: Coords, paths: Paths) -> Any:
    moved = list(at)
    moved[dim] = index
    inner = value(part, tuple(moved), paths)
    return Data(x) if isinstance(inner, Data) else inner


def _size(axis) -> Any:
    from porter.analyze.graph import axis_size

    return axis_size(axis)


# -- choices


def _phi(x: Node, at: Coords, paths: Paths) -> Any:
    cond, a, b = x.args
    if not contains(cond, "runtime"):
        left, right = value(a, at, paths), value(b, at, paths)
        if _is_itself(left, a) and _is_itself(right, b):
            return Data(x)
    side = a if paths.condition(cond) else b
    return value(side, _fitted(x, side, at, paths), paths)


def _fitted(x: Node, side: Any, at: Coords, paths: Paths) -> Coords:
    """A side may be as long as the new tokens only, where there are no others."""
    if isinstance(side, Node):
        for whole, part in zip(reversed(x.axes), reversed(side.axes), strict=False):
            if has_role(whole, "hist") and has_role(part, "seq"):
                if not paths.compare("le", PAST, 0):
                    raise Unproved("a mask is shorter than the cached tokens")
    return at


def _is_itself(inner: Any, node: Any) -> bool:
    return isinstance(inner, Data) and inner.node is node


def _where(x: Node, at: Coords, paths: Paths) -> Any:
    cond, a, b = x.args
    return value(a if _holds(cond, at, paths) else b, at, paths)


def _masked_fill(x: Node, at: Coords, paths: Paths) -> Any:
    base, cond, filler = x.args
    return value(filler if _holds(cond, at, paths) else base, at, paths)


def _holds(cond: Any, at: Coords, paths: Paths) -> bool:
    return _truth(value(cond, at, paths), paths)


def _truth(inner: Any, paths: Paths) -> bool:
    if isinstance(inner, Data):
        raise Unproved("a mask depends on the values of a tensor")
    if is_symbolic(inner):
        return paths.compare("ne", inner, 0)
    return bool(inner)


def _compare(x: Node, at: Coords, paths: Paths) -> Any:
    a, b = (value(arg, at, paths) for arg in x.args)
    if isinstance(a, Data) or isinstance(b, Data):
        return Data(x)
    if isinstance(a, float) or isinstance(b, float):
        if is_symbolic(a) or is_symbolic(b):
            raise Unproved("positions are compared with a fraction")
    if not (is_symbolic(a) or is_symbolic(b)):
        return _PYTHON[x.op](a, b)
    return paths.compare(x.op, a, b)


_PYTHON = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


def _logic(x: Node, at: Coords, paths: Paths) -> Any:
    parts = [value(arg, at, paths) for arg in x.args]
    if any(isinstance(p, Data) for p in parts):
        return Data(x)
    if not all(isinstance(p, bool) or p in (0, 1) for p in parts):
        raise Unproved("a mask's bits are worked on")
    return _LOGIC[x.op]([bool(p) for p in parts])


def _invert(x: Node, at: Coords, paths: Paths) -> Any:
    inner = value(x.args[0], at, paths)
    if isinstance(inner, Data):
        return Data(x)
    if not isinstance(inner, bool):
        raise Unproved("the bits of a mask that isn't boolean are inverted")
    return not inner


# -- arithmetic


def _arithmetic(x: Node, at: Coords, paths: Paths) -> Any:
    parts = [value(arg, at, paths) for arg in x.args]
    if any(isinstance(p, Data) for p in parts):
        return _with_data(x, parts)
    parts = [int(p) if isinstance(p, bool) else p for p in parts]
    if x.op == "neg":
        return arith("neg", parts[0])
    if x.op in ("maximum", "minimum", "abs"):
        return _plain(x.op, parts, paths)
    if x.op == "mul" and any(_is_zero(p) for p in parts):
        other = parts[0] if _is_zero(parts[1]) else parts[1]
        if isinstance(other, float) and other in (float("inf"), float("-inf")):
            raise Unproved("0 times infinity in a mask")
        return 0.0
    return arith(x.op, *parts)


def _plain(op: str, parts: list, paths: Paths) -> Any:
    if op == "abs":
        return parts[0] if paths.compare("ge", parts[0], 0) else arith("neg", parts[0])
    larger = paths.compare("ge", *parts)
    return parts[0] if larger is (op == "maximum") else parts[1]


def _is_zero(part: Any) -> bool:
    return not isinstance(part, Data) and constant(part) == 0


def _with_data(x: Node, parts: list) -> Any:
    """Arithmetic on the scores: what leaves them, what blocks them, or a new value."""
    if len(parts) == 2:
        for data, other in (parts, parts[::-1]):
            if isinstance(data, Data) and not isinstance(other, Data):
                number = constant(other)
                if number is not None:
                    done = _by_number(x.op, data, number, data is parts[0])
                    if done is not None:
                        return done
    for arg, part in zip(x.args, parts, strict=True):
        if isinstance(arg, Node) and not _is_itself(part, arg):
            positions = not isinstance(part, Data) and constant(part) is None
            if positions and (x.op in ("add", "sub") or _all_known(parts)):
                continue
            if any(has_role(a, "seq", "hist", "span") for a in arg.axes):
                raise Unproved(_foreign(x, arg))
    return Data(x, terms=_terms(x, parts))


def _foreign(x: Node, bias: Node) -> str:
    """Why something can't be added to scores, or the like."""
    rounded = {n.dtype for n in walk([bias])} & {"bfloat16", "float16"}
    if rounded:
        return f"positions go into the scores rounded to {rounded.pop()}"
    return f"masked scores go through `{x.op}`"


def _all_known(parts: list) -> bool:
    """Whether none of the elements is a score's."""
    return all(not isinstance(p, Data) or p.fixed or p.terms for p in parts)


def _terms(x: Node, parts: list) -> Any:
    """A sum of products of fixed elements with expressions of the positions, else None."""
    if x.dtype not in (None, "float32", "float64") and not str(x.dtype).startswith(
        "int"
    ):
        return None  # rounded to what holds few positions exactly
    sums = [_sum_of(p) for p in parts]
    if any(s is None for s in sums):
        return None
    if x.op == "neg":
        return tuple((f, arith("neg", e)) for f, e in sums[0])
    if x.op == "add":
        return sums[0] + sums[1]
    if x.op == "sub":
        return sums[0] + tuple((f, arith("neg", e)) for f, e in sums[1])
    if x.op == "mul":
        return tuple(
            (f + g, arith("mul", d, e)) for f, d in sums[0] for g, e in sums[1]
        )
    if x.op == "truediv" and not isinstance(parts[1], Data):
        return tuple((f, arith("truediv", e, parts[1])) for f, e in sums[0])
    return None


def _sum_of(part: Any) -> Any:
    if not isinstance(part, Data):
        return (((), part),)
    if part.terms is not None:
        return part.terms
    return (((part.node,), 1),) if part.fixed else None


def _by_number(op: str, data: Data, number, first: bool) -> Any:
    if op == "add" and number == 0 or op == "sub" and number == 0 and first:
        return data
    if op in ("mul", "truediv") and number == 1 and (first or op == "mul"):
        return data
    if op == "mul" and number == 0:
        return 0.0
    if op == "add" and number <= BLOCKED:
        return number
    if op == "sub" and first and -number <= BLOCKED:
        return -number
    if op == "maximum" and number <= BLOCKED:
        return data
    return None


_HANDLERS = {
    "fill": _fill,
    "constant": _fill,
    "arange": _range,
    "seq_index": _own_index,
    "key_index": _own_index,
    "positions": _own_index,
    "pos_index": _own_index,
    "mask": _library_mask,
    "tri": _triangle,
    "cast": _cast,
    "rearrange": _rearrange,
    "slice": _slice,
    "select": _select,
    "cat": _cat,
    "phi": _phi,
    "where": _where,
    "masked_fill": _masked_fill,
    "invert": _invert,
    "buffer": lambda x, at, paths: value(x.args[0], at, paths),
    "pos_ones": lambda x, at, paths: 1,
}
