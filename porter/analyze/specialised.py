"""A value made for each item of a list, as it is for one of them.

What a loop over `set(config.layer_types)` computes stands for every item at once, in terms
of the symbol `each` (`porter/analyze/families.py`). Here that symbol is replaced: in
scalars, with what is then decided folded away, and in the nodes of the graph, of which
those that depend on it are made again.
"""

from typing import Any

from porter.analyze.graph import Factor, Node
from porter.analyze.symbols import (
    ARITHMETIC,
    WRAPPERS,
    Sym,
    arith,
    compare,
    key,
    negate,
    unwrap,
)
from porter.analyze.values import Choice, Module, Output, is_scalar


def mentions(value, each: Sym | None) -> bool:
    """Whether a scalar depends on the symbol; None: on the symbol of any loop."""
    value = unwrap(value)
    if isinstance(value, Sym):
        if value.op == "each":
            return each is None or value.key == each.key
        return any(mentions(a, each) for a in value.args)
    if isinstance(value, (tuple, list)):
        return any(mentions(a, each) for a in value)
    if isinstance(value, dict):
        return any(mentions(a, each) for a in value.values())
    return False


class Specialiser:
    """Replaces one symbol by one item. One object per pair, so that what is made again is
    made once: two reads of the same item are the same node."""

    def __init__(self, interp, each: Sym, item):
        self.interp, self.each, self.item = interp, each, item
        self.nodes: dict[int, Node] = {}
        self.factors: dict[int, Factor] = {}

    def value(self, x) -> Any:
        if isinstance(x, Node):
            return self.node(x)
        if is_scalar(x):
            return self.scalar(x)
        if isinstance(x, (tuple, list)):
            return type(x)(self.value(v) for v in x)
        if isinstance(x, dict):
            return {k: self.value(v) for k, v in x.items()}
        if isinstance(x, Output):
            return Output(self.value(x.fields), x.properties)
        if isinstance(x, Choice):
            cond = self.scalar(x.cond)
            if isinstance(cond, bool):
                return self.value(x.then if cond else x.other)
            return Choice(cond, self.value(x.then), self.value(x.other))
        if isinstance(x, Module):
            raise self.interp.gap(
                "a module of its own for each layer type isn't followed here"
            )
        return x

    # -- scalars

    def scalar(self, x) -> Any:
        if not mentions(x, self.each):
            return x
        x = unwrap(x)
        if x.op == "each":
            return self.item
        args = [self._argument(a) for a in x.args]
        return rebuilt(x.op, args)

    def _argument(self, a) -> Any:
        if isinstance(a, Sym):
            return self.scalar(a)
        if isinstance(a, (tuple, list)) and mentions(a, self.each):
            return type(a)(self._argument(v) for v in a)
        return a

    # -- nodes

    def node(self, node: Node) -> Node:
        """Operands first, without recursion: a chain of nodes may be long."""
        stack = [node]
        while stack:
            current = stack[-1]
            if current.id in self.nodes:
                stack.pop()
                continue
            waiting = [n for n in current.inputs() if n.id not in self.nodes]
            if waiting:
                stack += waiting
            else:
                self.nodes[current.id] = self._remade(current)
                stack.pop()
        return self.nodes[node.id]

    def _remade(self, node: Node) -> Node:
        if node.op in ("loop_entry", "loop_exit"):
            return node
        args = tuple(self._operand(a) for a in node.args)
        attrs = {n: self._attribute(n, a) for n, a in node.attrs.items()}
        axes = tuple(tuple(self._factor(f) for f in axis) for axis in node.axes)
        dtype = (
            self.nodes.get(node.dtype.id, node.dtype)
            if isinstance(node.dtype, Node)
            else node.dtype
        )
        if (
            all(_same_operand(a, b) for a, b in zip(args, node.args, strict=True))
            and all(attrs[n] is a for n, a in node.attrs.items())
            and axes == node.axes
        ):
            return node
        if node.op == "phi" and isinstance(args[0], bool):
            return args[1] if args[0] else args[2]
        made = Node(node.op, args, attrs, axes, node.frame, node.span, node.loop, dtype)
        made.hints = {frame: list(names) for frame, names in node.hints.items()}
        return made

    def _operand(self, a) -> Any:
        if isinstance(a, Node):
            return self.nodes[a.final.id]
        if isinstance(a, (tuple, list)):
            return type(a)(self._operand(v) for v in a)
        return self.scalar(a) if is_scalar(a) else a

    def _attribute(self, name: str, a) -> Any:
        if name == "slot":
            owner, slot = a
            return (owner, self.scalar(slot)) if mentions(slot, self.each) else a
        if isinstance(a, Node):
            return self.nodes.get(a.id, a)
        if isinstance(a, Module) and mentions(list(a.args.values()), self.each):
            raise self.interp.gap(
                "a module of its own for each layer type isn't followed here"
            )
        return self.scalar(a) if is_scalar(a) else a

    def _factor(self, factor: Factor) -> Factor:
        if not mentions(factor.size, self.each):
            return factor
        known = self.factors.get(id(factor))
        if known is None:
            pieces = tuple(self._factor(p) for p in factor.pieces)
            size = self.scalar(factor.size)
            known = Factor(size, factor.role, factor.repeats, pieces)
            self.factors[id(factor)] = known
        return known


def rebuilt(op: str, args: list) -> Any:
    """A Sym of these operands, or what it is now known to be."""
    if op in ARITHMETIC:
        return arith(op, *args)
    if op == "eq":
        return compare("eq", *args)
    if op == "not":
        return negate(args[0])
    if op == "ifexp" and isinstance(args[0], bool):
        return args[1] if args[0] else args[2]
    if op in ("and", "or"):
        short = op == "or"
        rest = [a for a in args if not isinstance(a, bool)]
        if any(a is short for a in args):
            return short
        if len(rest) < 2:
            return rest[0] if rest else not short
        return Sym(op, tuple(rest))
    if op in WRAPPERS:
        raise AssertionError("a name isn't rebuilt: its value is")
    return Sym(op, tuple(args))


def _same_operand(a, b) -> bool:
    if isinstance(a, Node) or isinstance(b, Node):
        return a is b
    if isinstance(a, (tuple, list)) and type(a) is type(b):
        return len(a) == len(b) and all(
            _same_operand(x, y) for x, y in zip(a, b, strict=True)
        )
    return a is b or key(a) == key(b)
