"""The tables of rope: cos and sin of position * inv_freq, as a source makes them.

inv_freq is the default formula or transformers' ROPE_INIT_FUNCTIONS, chosen by the rope
type as transformers chooses it (`rope_types` takes the other ways), under an alpha that
counts or not (`ntk_alpha`). The table is scaled as the library scales it.
"""

from dataclasses import dataclass, replace
from typing import Any

from porter.analyze.config_items import read_item
from porter.analyze.equal_sizes import as_sizes
from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import (
    Sym,
    arith,
    key,
    same,
    simplify,
    unwrap,
)
from porter.analyze.values import is_scalar
from porter.transforms.matching import either_way, is_op, strip_casts
from porter.transforms.ntk_alpha import alpha_base, split_alpha, without_alpha
from porter.transforms.rope_angles import angles_of, default_dim, under_views
from porter.transforms.rope_types import TYPES, match_by_type


@dataclass(frozen=True)
class Table:
    """cos or sin of position * inv_freq, each frequency used for two elements or one."""

    parameters: Any  # the rope_parameters Sym
    dim: Any  # how many elements of the head are rotated
    positions: Node
    pairing: str  # "halves": (f, f); "pairs": each twice; "once": f
    partial: bool  # dim = int(head_dim * partial_rotary_factor)
    types: tuple[str, ...] = TYPES  # for which it is so
    alpha: bool = False  # whether an alpha in the parameters counts
    mscale: bool = False  # whether longrope is scaled by their short_mscale

    def paired(self, pairing: str) -> "Table":
        """The same table with each frequency for two elements."""
        return replace(self, pairing=pairing)

    def same_as(self, other: "Table") -> bool:
        return (
            same(self.parameters, other.parameters)
            and same(self.dim, other.dim)
            and self.positions is other.positions
            and self.pairing == other.pairing
            and self.types == other.types
            and self.alpha == other.alpha
            and self.mscale == other.mscale
        )


def match_table(node, fn: str) -> Table | None:
    """cos or sin of the angles, times transformers' attention scaling."""
    found = _match_table(node, fn) or _match_half(node, fn)
    if found is None and isinstance(node, Node):
        by_type = match_by_type(node, fn)
        if by_type is not None:
            parameters, dim, place, pairing, types, mscale = by_type
            partial = _is_partial(dim, parameters)
            return Table(parameters, dim, place, pairing, partial, types, mscale=mscale)
    return found


def _match_table(node, fn: str) -> Table | None:
    node, doubled = under_views(node)
    scaling = None
    if is_op(node, "mul"):
        for inner, factor in either_way(node):
            if isinstance(inner, Node) and is_scalar(factor):
                node, scaling = strip_casts(inner), factor
                break
    if not is_op(node, fn):
        return None
    angles, pairing = angles_of(node.args[0], doubled)
    if angles is None:
        return None
    pairing = pairing or "once"
    if not is_op(angles, "mul"):
        return None
    for place, frequency in either_way(angles):
        place = _place(place)
        found = _inverse_frequencies(frequency)
        if place is None or found is None:
            continue
        parameters, dim, partial, rope_type, alpha = found
        if alpha is not None:
            scaling = without_alpha(scaling, alpha)
        if _scaling_fits(scaling, parameters, rope_type):
            given = alpha is not None
            return Table(parameters, dim, place, pairing, partial, alpha=given)
    return None


def _match_half(node, fn: str) -> Table | None:
    """Half of a table whose halves are the same has each frequency once; a view that
    repeats them makes it one in pairs."""
    half, doubled = under_views(node)
    if not is_op(half, "slice") or half.attrs["dim"] != -1 or half.attrs["step"] != 1:
        return None
    whole, low, high = half.args
    size = axis_size(whole.axes[-1])
    middle = arith("floordiv", size, 2)
    if not any(
        same(low, a) and same(high, b) for a, b in ((0, middle), (middle, size))
    ):
        return None
    table = match_table(whole, fn)
    if table is None or table.pairing != "halves":
        return None
    return table.paired(doubled or "once")


def _place(node) -> Node | None:
    """The positions node under views and the cast to fp32."""
    while is_op(node, "rearrange", "cast"):
        node = node.args[0]
    return node if is_op(node, "positions") else None


def _inverse_frequencies(node):
    """(rope_parameters, dim, partial, rope_type, the condition under which alpha counts)
    of transformers' inverse frequencies."""
    node = strip_casts(node)
    while is_op(node, "rearrange", "cast", "buffer"):
        if node.op == "cast" and strip_casts(node) is node:
            return None
        if node.op == "rearrange" and any(
            f.repeats and not f.role for a in node.axes for f in a
        ):
            return None
        node = node.args[0]
    alpha, own = None, None
    split = split_alpha(node, _read_from)
    if split is not None:
        alpha, own, node = split
    if not is_op(node, "phi"):
        return None
    cond, default, scaled = node.args
    rope_type = tested_type(cond) if _plain_test(cond) else None
    if rope_type is None or not is_op(scaled, "rope_init"):
        return None
    parameters = scaled.args[1]  # what the library reads for the other types
    for kind in (scaled.args[0], rope_type):
        if not same(kind, read_item(parameters, "rope_type")):
            return None
    dim = default_dim(default, parameters)
    if dim is None:
        return None
    if own is not None:
        mine = default_dim(own, parameters, alpha_base)
        if mine is None or not same(*as_sizes(mine, dim)):
            return None
    return parameters, dim, _is_partial(dim, parameters), rope_type, alpha


def _read_from(rope_type):
    """The rope_parameters of `rope_parameters["rope_type"]`."""
    inner = unwrap(rope_type)
    if isinstance(inner, Sym) and inner.op == "item" and inner.args[1] == "rope_type":
        return inner.args[0]
    return None


def _plain_test(cond) -> bool:
    cond = unwrap(cond)
    return isinstance(cond, Sym) and cond.op == "eq"


def tested_type(cond):
    """x of `x == "default"`, or of its negation."""
    cond = unwrap(cond)
    if isinstance(cond, Sym) and cond.op == "not":
        cond = unwrap(cond.args[0])
    if isinstance(cond, Sym) and cond.op == "eq":
        for a, b in (cond.args, cond.args[::-1]):
            if b == "default":
                return a
    return None


def _is_partial(dim, parameters) -> bool:
    """int(head_dim * rope_parameters.get("partial_rotary_factor", 1.0))"""
    dim = unwrap(dim)
    if not (isinstance(dim, Sym) and dim.op == "call" and dim.args[0] == "int"):
        return False
    factor = Sym("get", (parameters, "partial_rotary_factor", 1.0))
    rest = arith("truediv", dim.args[1], factor)
    return "partial_rotary_factor" not in repr(key(rest))


def rotated_head(table: Table):
    """The head size of which `int(head_size * partial_rotary_factor)` is rotated."""
    factor = Sym("get", (table.parameters, "partial_rotary_factor", 1.0))
    product = unwrap(unwrap(table.dim).args[1])
    if product.op == "mul":
        for size, other in (product.args, product.args[::-1]):
            if same(other, factor):
                return size
    return simplify(arith("truediv", product, factor))


def _scaling_fits(scaling, parameters, rope_type) -> bool:
    """1 for the default type, transformers' scaling for the others."""
    scaling = unwrap(scaling)
    if not (isinstance(scaling, Sym) and scaling.op == "ifexp"):
        return False
    cond, a, b = scaling.args
    default, scaled = (a, b)
    tested = tested_type(cond)
    if not _plain_test(cond):
        default, scaled = b, a
    if tested is None or not same(tested, rope_type) or not same(default, 1):
        return False
    scaled = unwrap(scaled)
    return (
        isinstance(scaled, Sym)
        and scaled.op == "rope_scaling"
        and same(scaled.args[0], rope_type)
        and same(scaled.args[1], parameters)
    )
