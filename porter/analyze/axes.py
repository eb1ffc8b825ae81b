"""Axis algebra: what view, reshape, slicing and broadcasting do to the axes of a tensor."""

from typing import Any

from porter.analyze.graph import Axes, Axis, Factor, axis_size, has_role
from porter.analyze.symbols import arith, constant, describe, key, product, same


class AxisError(ValueError):
    """The shapes don't fit in a way that the algebra can follow."""


def reshape(axes: Axes, sizes: list[Any], equal=same) -> Axes:
    """Regroup the factors of `axes` into axes of the given sizes; one may be -1.
    equal(a, b): whether two sizes are one."""
    factors = [leaf for axis in axes for factor in axis for leaf in factor.leaves()]
    wild = [i for i, s in enumerate(sizes) if constant(s) == -1]
    if len(wild) > 1:
        raise AxisError("more than one -1 in a view")
    cut = wild[0] if wild else len(sizes)
    left = [_take(factors, size, True, equal) for size in sizes[:cut]]
    right = [_take(factors, size, False, equal) for size in reversed(sizes[cut + 1 :])]
    if not wild:
        if any(constant(f.size) != 1 for f in factors):
            raise AxisError(f"the view leaves out {[f.size for f in factors]}")
        return tuple(left)
    return (*left, tuple(factors), *reversed(right))


def _take(factors: list[Factor], size, front: bool, equal=same) -> Axis:
    """Remove from one end of `factors` those that make up `size`, splitting the last."""
    if constant(size) == 1:
        return ()
    taken: list[Factor] = []
    rest: Any = size
    while True:
        if constant(rest) == 1:
            break
        if not factors:
            raise AxisError(f"no axis of size {describe(size)} to make this view from")
        factor = factors[0 if front else -1]
        count = _whole_factors(factors, rest, front)
        if not count and not factor.role and equal(rest, factor.size):
            count = 1
        if count:
            for _ in range(count):
                taken.append(factors.pop(0 if front else -1))
            break
        if factor.role:
            raise AxisError(f"the view would split the {factor.role} axis")
        if _is_multiple(rest, factor.size):
            taken.append(factors.pop(0 if front else -1))
            rest = arith("floordiv", rest, factor.size)
            continue
        other = arith("floordiv", factor.size, rest)
        pieces = factor.split((rest, other) if front else (other, rest))
        mine, remaining = (pieces[0], pieces[1]) if front else (pieces[1], pieces[0])
        taken.append(mine)
        factors[0 if front else -1] = remaining
        break
    return tuple(taken if front else reversed(taken))


def _whole_factors(factors: list[Factor], size, front: bool) -> int:
    total: Any = 1
    order = factors if front else factors[::-1]
    for count, factor in enumerate(order, start=1):
        total = arith("mul", total, factor.size)
        if same(total, size):
            return count
    return 0


def _is_multiple(size, factor) -> bool:
    """Whether `size` plainly has `factor` as one of its terms (and not the reverse)."""
    a, b = constant(size), constant(factor)
    if a is not None and b is not None:
        return b > 1 and a > b and a % b == 0
    if a is not None:
        return False
    quotient = key(arith("floordiv", size, factor))
    return (
        quotient[0] == "p"
        and all(exponent > 0 for monomial, _ in quotient[1] for _, exponent in monomial)
        or (quotient[0] in ("field", "or_default") and b is None)
    )


def broadcast(operands: list[Axes], equal=same) -> Axes:
    """Axes of an elementwise result, right-aligned. equal(a, b): whether sizes fit."""
    rank = max((len(a) for a in operands), default=0)
    # an activation's factors carry the identity of its axes, before those of a weight;
    # scores those of theirs, before a bias on them
    operands = sorted(operands, key=lambda axes: -sum(bool(roles(a)) for a in axes))
    padded = [((),) * (rank - len(a)) + tuple(a) for a in operands]
    return tuple(_meet([p[i] for p in padded], equal) for i in range(rank))


def _meet(candidates: list[Axis], equal) -> Axis:
    best: Axis = ()
    for axis in candidates:
        if not axis:
            continue
        if not best:
            best = axis
        elif not equal(axis_size(axis), axis_size(best)):
            raise AxisError(
                f"sizes {describe(axis_size(axis))} and {describe(axis_size(best))} "
                "don't match"
            )
        elif roles(axis) != roles(best):
            raise AxisError("a token axis meets another kind of axis of the same size")
        elif _copies(axis) != _copies(best):
            best = min(axis, best, key=_copies)
        elif len(leaves(axis)) > len(leaves(best)):
            best = axis
    return best


def tie(axes: Axes, others: Axes) -> None:
    """The features of either side of a condition are those of its result: what splits the
    one splits the other."""
    for mine, other in zip(reversed(axes), reversed(others), strict=False):
        if len(mine) != 1 or len(other) != 1:
            continue
        one, two = mine[0], other[0]
        plain = not (one.role or two.role or one.repeats or two.repeats or two.pieces)
        if plain and one is not two and two not in one.leaves():
            two.pieces = (one,)


def _copies(axis: Axis) -> int:
    return sum(f.repeats for f in axis)


def roles(axis: Axis) -> tuple[str, ...]:
    return tuple(f.role for f in axis if f.role)


def leaves(axis: Axis) -> tuple[Factor, ...]:
    return tuple(leaf for factor in axis for leaf in factor.leaves())


def leaf_ids(axis: Axis) -> list[int]:
    """What the axis is made of, however it was put together or split since."""
    return [id(leaf) for leaf in leaves(axis)]


def normalize(dim: int, rank: int) -> int:
    if not isinstance(dim, int) or not -rank <= dim < rank:
        raise AxisError(f"dimension {dim} of a tensor of rank {rank}")
    return dim % rank


def feature_layout(axes: Axes) -> tuple[bool, list[Axis]]:
    """The flattened layout: whether there is a token axis in front, then the others.

    Batch and seq axes become the one token axis. A size-1 axis left of the sequence where
    no batch axis stands is a batch to broadcast over, and goes as well.
    """
    tokens = any(has_role(a, "batch", "seq") for a in axes)
    if sum(has_role(a, "seq") for a in axes) > 1:
        raise AxisError("two axes of tokens: tokens are paired outside attention")
    out: list[Axis] = []
    for axis in axes:
        token_factors = [f for f in axis if f.role]
        if not token_factors:
            out.append(axis)
        elif len(token_factors) != len(axis):
            raise AxisError("an axis mixes tokens with features")
    if (
        tokens
        and not any(has_role(a, "batch") for a in axes)
        and axes
        and axes[0] == ()
    ):
        out.remove(())
    return tokens, out


def slice_size(start, stop, step, size) -> Any:
    """Length of size[start:stop:step], None meaning the end."""
    low = _bound(start, size, 0)
    high = _bound(stop, size, size)
    length = arith("sub", high, low)
    if step in (None, 1):
        return length
    first, every = constant(low), constant(step)
    if (
        first is not None
        and every is not None
        and 0 <= first < every
        and same(high, size)
    ):
        return arith("floordiv", size, step)  # sizes divide by the step
    return arith("floordiv", length, step)


def _bound(value, size, default):
    if value is None:
        return default
    number = constant(value)
    if number is not None and number < 0:
        return arith("add", size, value)
    if number is None and _negative(value):
        return arith("add", size, value)
    return value


def _negative(value) -> bool:
    k = key(value)
    return k[0] == "p" and all(coefficient < 0 for _, coefficient in k[1])


def bounds(start, stop, size) -> tuple[Any, Any]:
    return _bound(start, size, 0), _bound(stop, size, size)


def total(axis_list: list[Axis]):
    return product(axis_size(a) for a in axis_list)
