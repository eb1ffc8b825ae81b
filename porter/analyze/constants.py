"""Tensors made of the config alone, wherever the source makes them.

A forward that fills an attribute at its first call, with what the constructor could have
put there, leaves a table of the constructor:

    if self.inv_freq is None:
        self.inv_freq = 1.0 / base ** (torch.arange(0, dim, 2) / dim)
"""

from typing import Any

from porter.analyze.graph import Node, walk

_OUTSIDE = {
    "input_ids", "positions", "linear", "embedding", "norm", "attend", "attend_latent",
    "loop_entry", "loop_exit", "parameter", "leaf_parameter", "mask", "remember",
}  # fmt: skip


def is_constant(node: Node) -> bool:
    """Whether a value is made of the config alone, as a constructor can make it."""
    return not any(n.op in _OUTSIDE for n in walk([node]))


def hoisted(node: Node) -> Node:
    """A copy of a constant value that belongs to no call: a constructor writes it."""
    copies: dict[int, Node] = {}
    for each in walk([node]):
        if each.op == "buffer":
            copies[each.id] = copies[each.args[0].final.id]
            continue
        made = Node(
            each.op,
            tuple(_copied(a, copies) for a in each.args),
            dict(each.attrs),
            each.axes,
            None,
            each.span,
            None,
            each.dtype,
        )
        made.hints = {None: [n for names in each.hints.values() for n in names]}
        copies[each.id] = made
    return copies[node.final.id]


def _copied(value: Any, copies: dict[int, Node]) -> Any:
    if isinstance(value, Node):
        return copies[value.final.id]
    if isinstance(value, tuple):
        return tuple(_copied(v, copies) for v in value)
    return value


def lasting(interp, obj: Any, name: str, value: Any) -> Any:
    """What a forward puts into an attribute that held nothing: a buffer, if it is
    constant."""
    if not isinstance(value, Node) or value.op == "buffer" or not is_constant(value):
        return value
    attrs = {"persistent": False, "unique": object(), "slot": (obj, name)}
    made = Node("buffer", (hoisted(value),), attrs, value.axes, None, interp.span())
    made.dtype = value.dtype
    return made
