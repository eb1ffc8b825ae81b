"""Equal nodes made one: what two branches compute alike needs no branch.

Views, casts and attention with the same operands are the same value; a choice between a
value and itself is that value.
"""

from typing import Any

from porter.analyze.axes import leaves
from porter.analyze.graph import Node, walk
from porter.analyze.model import Facts
from porter.analyze.symbols import key
from porter.analyze.values import is_scalar
from porter.transforms.base import settle

_MERGED = ("rearrange", "cast", "attend")


def merge_equal(facts: Facts) -> None:
    """Forward each node to an equal one before it, choices of one value to the value."""
    known: dict[Any, Node] = {}
    for node in walk([facts.logits]):
        if node.op == "phi":
            if node.args[1].final is node.args[2].final:
                node.forward = node.args[1].final
        elif node.op in _MERGED:
            first = known.setdefault(_identity(node), node)
            if first is not node:
                _keep_names(node, first)
                node.forward = first
    settle(facts)


def _identity(node: Node):
    attrs = tuple(
        (name, _key(value))
        for name, value in sorted(node.attrs.items())
        if name not in ("layout", "role_name", "like")
    )
    axes = tuple(tuple(id(leaf) for leaf in leaves(a)) for a in node.axes)
    args = tuple(_key(a) for a in node.args)
    return node.op, args, attrs, axes, id(node.frame), id(node.loop), node.dtype


def _key(value):
    if isinstance(value, Node):
        return ("node", value.final.id)
    if is_scalar(value):
        return key(value)
    return ("object", id(value))


def _keep_names(node: Node, first: Node) -> None:
    for frame, names in node.hints.items():
        mine = first.hints.setdefault(frame, [])
        mine.extend(n for n in names if n not in mine)
