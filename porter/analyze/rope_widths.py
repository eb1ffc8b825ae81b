"""How wide the tables of rope are: a number of the rope type's.

A source makes the frequencies of the default type itself and takes those of the other
types from transformers, whose width is `int(head_dim * partial_rotary_factor)` whatever
the source's own formula reads. So where a table meets what it rotates, the sizes that
must be equal depend on the type: the analysis writes the default type's and marks it
here; `keep_rope` widens the check where the config class gives a factor.
"""

from dataclasses import replace
from typing import Any

from porter.analyze.equal_sizes import EqualSizes
from porter.analyze.graph import Node, walk
from porter.analyze.symbols import Sym, arith, same, simplify, unwrap

# Types whose tables are as wide as the head; the factor is another number to the second.
_WHOLE = ("default", "proportional")


def mark_rope_widths(facts: list[EqualSizes], known: int, tensors: list[Node]) -> None:
    """Mark the facts behind the first `known` where a table of rope met a tensor."""
    if len(facts) == known or not any(_is_table(t) for t in tensors):
        return
    facts[known:] = [replace(f, of_rope=True) for f in facts[known:]]


def _is_table(node: Node) -> bool:
    """Whether the tensor is made of rope's frequencies, and of no weights."""
    ops = {n.op for n in walk([node])}
    return "rope_init" in ops and not ops & {"linear", "embedding", "attend"}


def width_of_table(
    facts: list[EqualSizes], dim: Any, parameters: Any, reads: tuple[str, ...]
) -> Any:
    """What a table of width `dim` by default is as wide as, for every type, or `dim`.

    The facts of that table become one that asks for each type's own width. That needs
    facts that hold under every condition, and a `dim` that is the head size that
    transformers reads; reads: the fields head_dim, hidden_size and num_attention_heads.
    """
    if not _is_head(dim, reads):
        return dim
    wide, half = _by_type(dim, parameters), arith("floordiv", dim, 2)
    for fact in facts:
        if fact.of_rope and same(fact.left, wide):  # rewritten for the other table
            return fact.right
    mine = [f for f in facts if f.of_rope and (same(f.left, dim) or same(f.left, half))]
    widths = [f.right for f in mine if same(f.left, dim)]
    if not widths or not _always(mine):
        return dim
    width = widths[0]
    of_half = arith("floordiv", width, 2)
    if not all(same(f.right, width) or same(f.right, of_half) for f in mine):
        return dim
    one = EqualSizes(wide, width, (), mine[0].span, of_rope=True)
    facts[facts.index(mine[0])] = one
    facts[:] = [f for f in facts if f not in mine]
    return width


def _by_type(dim: Any, parameters: Any) -> Sym:
    kind = Sym("item", (parameters, "rope_type"))
    factor = Sym("get", (parameters, "partial_rotary_factor", 1.0))
    part = Sym("call", ("int", arith("mul", dim, factor)))
    return Sym("ifexp", (Sym("in", (kind, _WHOLE)), dim, part))


def with_width(value: Any, dim: Any, width: Any) -> Any:
    """A size of a table, `width` in the place of `dim`."""
    inner = unwrap(value)
    if not isinstance(inner, Sym):
        return value
    if same(inner, dim):
        return width
    args = tuple(with_width(a, dim, width) for a in inner.args)
    return simplify(Sym(inner.op, args))


def reads_size(value: Any, dim: Any) -> bool:
    """Whether a number is made of that size."""
    inner = unwrap(value)
    if not isinstance(inner, Sym):
        return False
    return same(inner, dim) or any(reads_size(a, dim) for a in inner.args)


def _always(facts: list[EqualSizes]) -> bool:
    """Whether the conditions of some fact hold, whatever the config."""
    conds = [f.conds for f in facts]
    if () in conds:
        return True
    single = [c[0] for c in conds if len(c) == 1]
    return any(
        same(a, b) and holds is not other for a, holds in single for b, other in single
    )


def _is_head(dim: Any, reads: tuple[str, ...]) -> bool:
    """`getattr(config, "head_dim", None) or config.hidden_size // config.num_heads`"""
    head, hidden, heads = reads
    dim = unwrap(dim)
    if not (isinstance(dim, Sym) and dim.op == "ifexp"):
        return False
    cond, given, derived = (unwrap(arg) for arg in dim.args)
    if not (_is_field(given, head) and same(cond, Sym("truthy", (given,)))):
        return False
    division = isinstance(derived, Sym) and derived.op == "floordiv"
    return division and all(map(_is_field, derived.args, (hidden, heads)))


def _is_field(value: Any, name: str) -> bool:
    inner = unwrap(value)
    known = isinstance(inner, Sym) and inner.op in ("field", "or_default")
    return known and inner.args[:2] == (("config",), name)
