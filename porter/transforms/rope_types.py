"""Rope tables that a source makes by rope type in a way of its own.

Before transformers had one table of initialisations, models chose a class by type,
divided the positions, or ignored the type. Whatever the branches are, for each type the
table is followed down the branches of that type, and is vLLM's if what is left is: the
default formula; divided by the factor for `linear`; the default formula again for
`dynamic`, within the length up to which nothing is scaled; or transformers' own
initialisation of that type, for longrope also with the parameters' own `short_mscale`.
The types for which that holds are those of the port.
"""

from dataclasses import dataclass
from typing import Any

from porter.analyze.graph import Node, walk
from porter.analyze.symbols import Sym, constant, same, unwrap
from porter.analyze.values import is_scalar
from porter.transforms.matching import either_way, is_op
from porter.transforms.rope_angles import angles_of, default_dim, under_views

TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional")


@dataclass(frozen=True)
class Plain:
    """cos or sin of positions * frequencies without a branch. form: what the frequencies
    are: `default`, `divided` (by `factor`) or `library`; scaling: of the table."""

    dim: Any  # None for the library's
    positions: Node
    pairing: str
    form: str
    factor: Any
    scaling: Any


def match_by_type(node: Node, fn: str):
    """(rope_parameters, dim, positions, pairing, types, mscale) of a table, or None.
    mscale: whether longrope's scaling is the parameters' own `short_mscale`."""
    parameters = _parameters(node)
    if parameters is None:
        return None
    kind = Sym("item", (parameters, "rope_type"))
    plain = {t: _plain(Fold(kind, t).node(node), fn, parameters) for t in TYPES}
    default = plain["default"]
    if default is None or default.form != "default":
        return None
    types = tuple(
        t
        for t, table in plain.items()
        if table is not None
        and _is_of_type(table, t, parameters, kind)
        and table.positions is default.positions
        and table.pairing == default.pairing
        and (table.dim is None or same(table.dim, default.dim))
    )
    if "default" not in types:
        return None
    long = plain["longrope"]
    mscale = (
        "longrope" in types and long is not None and _is_short(long, parameters, kind)
    )
    return parameters, default.dim, default.positions, default.pairing, types, mscale


def _is_short(table: Plain, parameters, symbol) -> bool:
    """Within the original length vLLM scales longrope by it, and by the library's scaling
    where it isn't given."""
    short, scaling = Sym("item", (parameters, "short_mscale")), unwrap(table.scaling)
    if isinstance(scaling, Sym) and scaling.op == "ifexp":
        cond, absent, scaling = scaling.args
        if not same(cond, Sym("is_none", (short,))) or not _is_scaling(absent, symbol):
            return False
    return same(scaling, short)


def _is_scaling(value: Any, symbol) -> bool:
    value = unwrap(value)
    known = isinstance(value, Sym) and value.op == "rope_scaling"
    return known and same(value.args[0], symbol)


def _is_of_type(table: Plain, kind: str, parameters, symbol) -> bool:
    scaling = unwrap(table.scaling)
    if table.form == "library":
        if kind == "longrope" and _is_short(table, parameters, symbol):
            return True
        return _is_scaling(scaling, symbol)
    if not same(1 if scaling is None else scaling, 1):
        return False
    if table.form == "divided":
        factor = Sym("item", (parameters, "factor"))
        return kind == "linear" and same(table.factor, factor)
    return kind in ("default", "dynamic")


def _parameters(node: Node):
    """The rope_parameters whose theta the table is made with."""
    for inner in walk([node]):
        if inner.op == "pow" and isinstance(unwrap(inner.args[0]), Sym):
            theta = unwrap(inner.args[0])
            if theta.op == "item" and theta.args[1] == "rope_theta":
                return theta.args[0]
    return None


class Fold:
    """Follows the branches that one rope type takes."""

    def __init__(self, kind: Sym, value: str):
        self.kind, self.value = kind, value
        self.done: dict[int, Any] = {}

    def node(self, node: Any) -> Any:
        if isinstance(node, (tuple, list)):
            return type(node)(self.node(n) for n in node)
        if not isinstance(node, Node):
            return self.scalar(node)
        if node.id not in self.done:
            self.done[node.id] = self._fold(node)
        return self.done[node.id]

    def _fold(self, node: Node) -> Node:
        if node.op == "phi":
            verdict = self.verdict(node.args[0])
            if verdict is not None:
                return self.node(node.args[1] if verdict else node.args[2])
        args = tuple(self.node(a) for a in node.args)
        if all(a is b for a, b in zip(args, node.args, strict=True)):
            return node
        made = Node(node.op, args, node.attrs, node.axes, node.frame, node.span)
        made.dtype = node.dtype
        return made

    def scalar(self, x: Any) -> Any:
        inner = unwrap(x)
        if isinstance(inner, Sym) and inner.op == "ifexp":
            verdict = self.verdict(inner.args[0])
            if verdict is not None:
                return self.scalar(inner.args[1] if verdict else inner.args[2])
            sides = (self.scalar(side) for side in inner.args[1:])
            return Sym("ifexp", (self._undecided(inner.args[0]), *sides))
        return x

    def _undecided(self, cond: Any) -> Any:
        """The condition without those of its parts that the type decides."""
        inner = unwrap(cond)
        if not (isinstance(inner, Sym) and inner.op in ("and", "or")):
            return cond
        parts = [part for part in inner.args if self.verdict(part) is None]
        return parts[0] if len(parts) == 1 else Sym(inner.op, tuple(parts))

    def verdict(self, cond: Any) -> bool | None:
        cond = unwrap(cond)
        if isinstance(cond, bool):
            return cond
        if not isinstance(cond, Sym):
            return None
        if cond.op == "not":
            inner = self.verdict(cond.args[0])
            return None if inner is None else not inner
        if cond.op in ("and", "or"):
            return self._of_several(cond)
        if cond.op == "eq":
            for a, b in (cond.args, cond.args[::-1]):
                if isinstance(b, str) and same(a, self.kind):
                    return self.value == b
        if cond.op == "in":
            item, container = cond.args
            if isinstance(item, str) and same(container, self.kind):
                return item in self.value
            if same(item, self.kind) and isinstance(container, (tuple, list)):
                return self.value in container
        return None

    def _of_several(self, cond: Sym) -> bool | None:
        short = cond.op == "or"
        verdicts = [self.verdict(part) for part in cond.args]
        if short in verdicts:
            return short
        return None if None in verdicts else not short


# -- a table without branches


def _plain(node: Any, fn: str, parameters) -> Plain | None:
    node, doubled = under_views(node)
    scaling: Any = None
    while is_op(node, "mul"):
        found = [(i, f) for i, f in either_way(node) if is_scalar(f)]
        if not found or not same(1 if scaling is None else scaling, 1):
            return None
        inner, scaling = found[0]
        node, again = under_views(inner)
        doubled = doubled or again
    if not is_op(node, fn):
        return None
    angles, pairing = angles_of(node.args[0], doubled)
    if pairing is None or not is_op(angles, "mul"):
        return None
    for place, frequency in either_way(angles):
        found_table = _product(place, frequency, pairing, scaling, parameters)
        if found_table is not None:
            return found_table
    return None


def _product(place, frequency, pairing, scaling, parameters) -> Plain | None:
    place, factor = _divided(place)
    if not is_op(place, "positions"):
        return None
    frequency, other = _divided(frequency)
    if other is not None:
        if factor is not None:
            return None
        factor = other
    if is_op(frequency, "rope_init") and factor is None:
        if not same(frequency.args[1], parameters):
            return None
        return Plain(None, place, pairing, "library", None, scaling)
    dim = default_dim(frequency, parameters)
    if dim is None:
        return None
    form = "default" if factor is None else "divided"
    return Plain(dim, place, pairing, form, factor, scaling)


def _divided(node: Any) -> tuple[Any, Any]:
    """(what stands under views and casts, what it is divided by)."""
    factor = None
    while isinstance(node, Node):
        if node.op in ("rearrange", "cast", "buffer"):
            if node.op == "cast" and node.dtype not in (None, "float32", "float64"):
                if not str(node.dtype).startswith("int"):
                    return node, factor
            if node.op == "rearrange" and _repeats(node):
                return node, factor
            node = node.args[0]
            continue
        divides = node.op == "truediv" and isinstance(node.args[0], Node)
        if divides and is_scalar(node.args[1]) and factor is None:
            if constant(node.args[1]) != 1:
                factor = node.args[1]
            node = node.args[0]
            continue
        break
    return node, factor


def _repeats(node: Node) -> bool:
    return any(f.repeats and not f.role for a in node.axes for f in a)
