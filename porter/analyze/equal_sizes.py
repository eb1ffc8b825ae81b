"""Sizes that are equal because the source itself fails where they aren't.

torch multiplies, adds and projects only tensors whose sizes fit. So where two sizes of the
source meet that the config ties together by convention only, it can only run where they are
equal. Some are then equal by themselves: a field that is a size is neither None nor 0,
which decides `f if f else g`. For the others the port may assume it and checks the config.
"""

from dataclasses import dataclass
from typing import Any

from porter.analyze.graph import Span
from porter.analyze.symbols import (
    Sym,
    arith,
    constant,
    key,
    poly,
    same,
    simplify,
    unwrap,
)


@dataclass(frozen=True)
class EqualSizes:
    """One fact: left == right wherever all of `conds` (condition, outcome) hold.

    of_rope: one side is the width of a table of rope, written as it is for the default
    type of rope (`rope_widths` knows that of the others).
    """

    left: Any
    right: Any
    conds: tuple[tuple[Any, bool], ...]
    span: Span
    of_rope: bool = False


class SizeFacts:
    """Which sizes of a source are equal, by algebra or because it would fail."""

    def __init__(self) -> None:
        self.checked: list[EqualSizes] = []

    def same(self, a, b) -> bool:
        """Whether a and b are equal, both being sizes, wherever the port runs."""
        if same(a, b):
            return True
        a, b = _reduced(a, b)
        return same(a, b) or any(_follows(f, a, b) for f in self.checked if not f.conds)

    def require(self, a, b, conds, span: Span) -> bool:
        """Note that two sizes must be equal; False where they can't be, or where it can't
        be checked of a config alone."""
        if self.same(a, b):
            return True
        a, b = _reduced(a, b)
        if not _may_be_equal(a, b):
            return False
        if any(_follows(f, a, b) and set(f.conds) <= set(conds) for f in self.checked):
            return True
        self.checked.append(EqualSizes(a, b, conds, span))
        return True


def _reduced(a, b) -> tuple:
    """Two sizes that are equal only if, or whenever, a and b are."""
    a, b = (simplify(size) for size in as_sizes(a, b))
    while _call(a) and _call(a) == _call(b):  # int(x) and int(y)
        a, b = unwrap(a).args[1], unwrap(b).args[1]
    for part in _parts(a):
        less = [poly(arith("floordiv", size, part)) for size in (a, b)]
        if all(len(p) == 1 and not _below(p, key(part)) for p in less):
            a, b = (simplify(arith("floordiv", size, part)) for size in (a, b))
    return a, b


def _call(value) -> str:
    inner = unwrap(value)
    one = isinstance(inner, Sym) and inner.op == "call" and len(inner.args) == 2
    return inner.args[0] if one else ""


def _parts(size) -> list:
    inner = unwrap(size)
    if isinstance(inner, Sym) and inner.op in ("mul", "floordiv"):
        return [part for arg in inner.args for part in _parts(arg)]
    return [inner] if isinstance(inner, Sym) else []


def _below(p, atom) -> bool:
    """Whether something is divided by the atom, which may be a sum, and stays so."""
    return any(
        (a == atom and e < 0) or (a[0] == "floordiv" and a[2] == atom)
        for monomial in p
        for a, e in monomial
    )


def _may_be_equal(a, b) -> bool:
    if not (_of_config(a) and _of_config(b)):
        return False
    if _is_one_of_a_count(a, b) or _is_one_of_a_count(b, a):
        return False
    difference, ratio = poly(arith("sub", a, b)), poly(arith("truediv", a, b))
    return not (set(difference) <= {()} or set(ratio) <= {()})


def _is_one_of_a_count(one, count) -> bool:
    """Whether they are equal only where a count (of heads, say) is 1, which is another
    model altogether. A ratio of 1 is two equal sizes."""
    if constant(one) != 1:
        return False
    return all(exponent > 0 for term in poly(count) for _, exponent in term)


def _of_config(size) -> bool:
    """Whether the config (and the layer's index) gives the size."""
    inner = unwrap(size)
    if not isinstance(inner, Sym):
        return True
    if inner.op in ("runtime", "node_value", "rope_scaling"):
        return False
    if (
        inner.op == "slice"
        or inner.op == "call"
        and inner.args[0] == "rope_frequencies"
    ):
        return False
    return all(_of_config(a) for a in inner.args)


def _follows(fact: EqualSizes, a, b) -> bool:
    """Whether a == b is the fact with both sides multiplied by one factor."""
    return any(
        same(arith("mul", a, y), arith("mul", b, x))
        for x, y in ((fact.left, fact.right), (fact.right, fact.left))
    )


def as_sizes(*values) -> tuple:
    """Sizes of tensors as they are: their factors are numbers from 1, not None and not 0,
    which decides conditions like `if config.head_dim`; and what one of them reads by key
    is there for the others."""
    known = {atom for value in values for atom in _factors(value)}
    known |= {key(part) for value in values for part in _items(value)}
    return tuple(_decided(value, known) for value in values)


def _factors(size) -> list:
    """Keys of what the size is a product of."""
    monomials = list(poly(size))
    return [atom for atom, _ in monomials[0]] if len(monomials) == 1 else []


def _items(value) -> list:
    inner = unwrap(value)
    if not isinstance(inner, Sym) or inner.op in _ATOMS:
        return []
    mine = [inner] if inner.op == "item" else []
    return mine + [part for arg in inner.args for part in _items(arg)]


def _decided(value, known: set):
    inner = unwrap(value)
    if not isinstance(inner, Sym) or inner.op in _ATOMS:
        return value
    if inner.op == "ifexp":
        verdict = _verdict(inner.args[0], known)
        if verdict is not None:
            return _decided(inner.args[1 if verdict else 2], known)
    if inner.op == "get" and key(Sym("item", inner.args[:2])) in known:
        return Sym("item", inner.args[:2])
    return Sym(inner.op, tuple(_decided(a, known) for a in inner.args))


_ATOMS = {"field", "or_default", "hasattr", "runtime", "layer", "node_value"}


def _verdict(cond, known: set) -> bool | None:
    """A condition on whether a known size is None or 0, else None."""
    cond = unwrap(cond)
    if not isinstance(cond, Sym):
        return None
    if cond.op == "not":
        inner = _verdict(cond.args[0], known)
        return None if inner is None else not inner
    if cond.op in ("truthy", "is_none") and key(cond.args[0]) in known:
        return cond.op == "truthy"
    return None
