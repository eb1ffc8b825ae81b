"""x * cos + rotate(x) * sin, transformers' frequencies  ->  get_rope(...)(positions, q, k).

The rotation is recognised by its algebra: cos and sin of position * inv_freq, inv_freq
the default formula or transformers' ROPE_INIT_FUNCTIONS, the halves (or even/odd pairs)
of the head swapped with one sign. RoFormer (Su et al. 2021), arXiv:2104.09864.

Before: q_embed = (q * cos) + (rotate_half(q) * sin)
After:  q, k = self.rotary_emb(positions, q, k)
Leaves: any other arithmetic; `keep_rope` then takes care of its tables.
"""

from dataclasses import dataclass, replace
from typing import Any

from porter.analyze.config_items import read_item
from porter.analyze.equal_sizes import as_sizes
from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import (
    Sym,
    arith,
    constant,
    key,
    negate,
    same,
    simplify,
    unwrap,
)
from porter.analyze.values import is_scalar
from porter.transforms.base import Transform
from porter.transforms.matching import either_way, is_number, is_op, strip_casts
from porter.transforms.ntk_alpha import alpha_base, split_alpha, without_alpha
from porter.transforms.rope_types import TYPES, match_by_type


@dataclass(frozen=True)
class Table:
    """cos or sin of position * inv_freq, each frequency used for two elements."""

    parameters: Any  # the rope_parameters Sym
    dim: Any  # how many elements of the head are rotated
    positions: Node
    pairing: str  # "halves": (f, f); "pairs": each twice
    partial: bool  # dim = int(head_dim * partial_rotary_factor)
    types: tuple[str, ...] = TYPES  # for which it is so
    alpha: bool = False  # whether an alpha in the parameters counts
    mscale: bool = False  # whether longrope is scaled by their short_mscale

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


@dataclass(frozen=True)
class Rotation:
    x: Node
    table: Table


class SubstituteRope(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        for attend in [n for n in self.nodes() if n.op == "attend"]:
            q, k = attend.args[0], attend.args[1]
            sizes = self.facts.interpreter.sizes
            cond, turned = _conditional(q, k, sizes.same)
            found = [self._rotation(t) for t in turned]
            if cond is not None and not _spared(found, q, k):
                continue  # without rope something else is done than nothing
            if found[0] and found[1] and found[0].table.same_as(found[1].table):
                self._replace_pair(attend, (q, k), found, cond)
            elif cond is not None:
                continue
            elif not (found[0] is None and found[1] is None):
                for node, rotation in zip((q, k), found, strict=True):
                    if rotation is not None:
                        self._replace_one(attend, node, rotation)

    def _attrs(self, attend: Node, table: Table) -> dict:
        return {
            "table": table,
            "head_size": attend.attrs["head_size"],
            "owner": attend.frame.inst if attend.frame else None,
        }

    def _replace_pair(self, attend: Node, states, found, cond) -> None:
        args = (found[0].table.positions, found[0].x, found[1].x)
        attrs = self._attrs(attend, found[0].table)
        pair = self.make("rope", args, attend, cond=cond, **attrs)
        for i, (node, rotation) in enumerate(zip(states, found, strict=True)):
            new = self.make("item", (pair, i), node, axes=rotation.x.axes)
            self.change(
                node, new, "x * cos + rotate(x) * sin is vLLM's rotary embedding"
            )

    def _replace_one(self, attend: Node, node: Node, rotation: Rotation) -> None:
        args = (rotation.table.positions, rotation.x)
        new = self.make(
            "rope",
            args,
            node,
            axes=rotation.x.axes,
            **self._attrs(attend, rotation.table),
        )
        self.change(node, new, "x * cos + rotate(x) * sin is vLLM's rotary embedding")

    def _rotation(self, node: Node) -> Rotation | None:
        found = match_rotation(node, self.facts.interpreter.sizes.same)
        if found is None:
            return None
        head = axis_size(found.x.axes[-1])
        table = found.table
        whole = rotated_head(table) if table.partial else table.dim
        sizes = self.facts.interpreter.sizes
        usual = unwrap(whole)
        if isinstance(usual, Sym) and usual.op == "or_default":
            if same(usual.args[2], head):  # a field that the config class doesn't have
                sizes.require(whole, head, (), node.span)
        if not sizes.same(whole, head):
            return None
        return found if table.partial else Rotation(found.x, replace(table, dim=head))


def _conditional(q: Node, k: Node, equal):
    """(cond, (q, k) where it holds) of operands that are rotated in some layers only."""
    if is_op(q, "phi") and is_op(k, "phi") and same(q.args[0], k.args[0]):
        for side in (1, 2):
            if match_rotation(q.args[side], equal) is not None:
                cond = q.args[0] if side == 1 else negate(q.args[0])
                return cond, (q.args[side], k.args[side])
    return None, (q, k)


def _spared(found, q: Node, k: Node) -> bool:
    """Whether the layers without rope leave queries and keys as they are."""
    for rotation, node in zip(found, (q, k), strict=True):
        if rotation is None:
            return False
        plain = [strip_casts(a) for a in node.args[1:]]
        if strip_casts(rotation.x) not in plain:
            return False
    return True


def match_rotation(node: Node, equal) -> Rotation | None:
    """equal(a, b): whether two sizes are the same."""
    value = strip_casts(node)
    if is_op(value, "cat") and value.attrs["dim"] == -1 and len(value.args[0]) == 2:
        rotated, passed = value.args[0]
        return _partial(rotated, passed, equal)
    return _full(value)


def _partial(rotated, passed, equal) -> Rotation | None:
    """cat(rotate(x[..., :r]), x[..., r:])"""
    found = _full(strip_casts(rotated))
    passed = strip_casts(passed)
    if found is None or not is_op(found.x, "slice") or not is_op(passed, "slice"):
        return None
    x, low, high = found.x.args
    if (
        strip_casts(passed.args[0]) is not strip_casts(x)
        or not same(passed.args[1], high)
        or not same(low, 0)
    ):
        return None
    if any(s.attrs["dim"] != -1 or s.attrs["step"] != 1 for s in (found.x, passed)):
        return None
    if not same(passed.args[2], axis_size(x.axes[-1])) or not equal(
        high, found.table.dim
    ):
        return None
    return Rotation(x, found.table)


def _full(node) -> Rotation | None:
    if not is_op(node, "add"):
        return None
    for first, second in either_way(node):
        first, second = strip_casts(first), strip_casts(second)
        if not (is_op(first, "mul") and is_op(second, "mul")):
            continue
        for x, cos in either_way(first):
            table = match_table(cos, "cos")
            if table is None:
                continue
            for turned, sin in either_way(second):
                other = match_table(sin, "sin")
                if other is None or not table.same_as(other):
                    continue
                x = _widened(x)
                if _turned(strip_casts(turned), strip_casts(x)) == table.pairing:
                    return Rotation(x, table)
    return None


def _widened(x):
    """x without casts to a wider dtype; one to the activations' dtype stays."""
    while is_op(x, "cast") and x.dtype in ("float32", "float64"):
        x = x.args[0]
    return x


def _turned(turned, x) -> str | None:
    """How `turned` is x with the halves (or pairs) swapped and one negated."""
    if is_op(turned, "cat") and turned.attrs["dim"] == -1 and len(turned.args[0]) == 2:
        first, second = (strip_casts(p) for p in turned.args[0])
        if not is_op(first, "neg"):
            return None
        high, low = strip_casts(first.args[0]), second
        size = axis_size(x.axes[-1])
        half = arith("floordiv", size, 2)
        if _is_slice(high, x, half, size) and _is_slice(low, x, 0, half):
            return "halves"
        return None
    if is_op(turned, "rearrange") and is_op(turned.args[0], "cat"):
        return _turned_pairs(turned, turned.args[0], x)
    return None


def _is_slice(node, x, low, high, step: int = 1) -> bool:
    return (
        is_op(node, "slice")
        and strip_casts(node.args[0]) is x
        and node.attrs["dim"] == -1
        and node.attrs["step"] == step
        and same(node.args[1], low)
        and same(node.args[2], high)
    )


def _turned_pairs(turned: Node, cat: Node, x) -> str | None:
    """stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)"""
    if cat.attrs["dim"] != -1 or len(cat.args[0]) != 2:
        return None
    parts = []
    for part in cat.args[0]:
        if not is_op(part, "rearrange") or part.axes[-1] != ():
            return None
        parts.append(strip_casts(part.args[0]))
    if not is_op(parts[0], "neg") or len(turned.axes) != len(x.axes):
        return None
    size = axis_size(x.axes[-1])
    odd, even = strip_casts(parts[0].args[0]), parts[1]
    if _is_slice(odd, x, 1, size, 2) and _is_slice(even, x, 0, size, 2):
        return "pairs"
    return None


# -- the tables


def match_table(node, fn: str) -> Table | None:
    """cos or sin of the angles, times transformers' attention scaling."""
    found = _match_table(node, fn)
    if found is None and isinstance(node, Node):
        by_type = match_by_type(node, fn)
        if by_type is not None:
            parameters, dim, place, pairing, types, mscale = by_type
            partial = _is_partial(dim, parameters)
            return Table(parameters, dim, place, pairing, partial, types, mscale=mscale)
    return found


def _match_table(node, fn: str) -> Table | None:
    node, doubled = _under_views(node)
    scaling = None
    if is_op(node, "mul"):
        for inner, factor in either_way(node):
            if isinstance(inner, Node) and is_scalar(factor):
                node, scaling = strip_casts(inner), factor
                break
    if not is_op(node, fn):
        return None
    angles, doubled_inside = _under_views(node.args[0])
    pairing = doubled or doubled_inside
    if is_op(angles, "cat") and pairing is None:
        first, second = angles.args[0] if len(angles.args[0]) == 2 else (None, None)
        if first is None or first is not second or angles.attrs["dim"] != -1:
            return None
        angles, pairing = _under_views(first)[0], "halves"
    if pairing is None or not is_op(angles, "mul"):
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


def _under_views(node):
    """(the value under casts and views, "pairs" if a view repeats each element)."""
    doubled = None
    node = strip_casts(node)
    while is_op(node, "rearrange"):
        last = node.axes[-1]
        if last and last[-1].repeats:
            if constant(last[-1].size) != 2:
                return node, None
            doubled = "pairs"
        elif any(f.repeats and not f.role for a in node.axes for f in a):
            return node, None
        node = strip_casts(node.args[0])
    return node, doubled


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
    dim = _default_dim(default, parameters)
    if dim is None:
        return None
    if own is not None:
        mine = _default_dim(own, parameters, alpha_base)
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


def _default_dim(node, parameters, base=None):
    """dim of 1 / theta ** (arange(0, dim, 2) / dim), else None. base(theta, parameters,
    dim) is what stands in theta's place."""
    node = strip_casts(node)
    if not is_op(node, "truediv") or not is_number(node.args[0], 1):
        return None
    power = strip_casts(node.args[1])
    if not is_op(power, "pow") or not is_scalar(power.args[0]):
        return None
    theta = read_item(parameters, "rope_theta")
    exponent = strip_casts(power.args[1])
    if not is_op(exponent, "truediv"):
        return None
    steps, dim = exponent.args
    if not same(power.args[0], base(theta, parameters, dim) if base else theta):
        return None
    while is_op(steps, "cast"):
        steps = steps.args[0]
    if not is_op(steps, "arange") or not is_scalar(dim):
        return None
    start, stop, step = steps.args
    return dim if same(start, 0) and same(stop, dim) and same(step, 2) else None


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
