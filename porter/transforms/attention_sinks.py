"""Sinks: one more logit for each head, which takes part in the softmax and has no value.

softmax(cat(scores, sink))[..., :-1] is the same as softmax(scores) * sigmoid(lse - sink),
with lse = logsumexp(scores): both divide exp(scores) by sum(exp(scores)) + exp(sink).
"""

from dataclasses import dataclass
from typing import Any

from porter.analyze.graph import Node, has_role
from porter.analyze.symbols import negate
from porter.transforms.matching import either_way, is_op, strip_casts


@dataclass(frozen=True)
class Weights:
    """What is summed up with: softmax over `scores`, masked; sinks: the parameter that
    holds one more logit for each head, or None."""

    scores: Node
    softmax: Node
    sinks: Node | None
    cond: Any = None  # on the config, where only some layers have sinks


def match_weights(node) -> Weights | None:
    """softmax(scores), softmax(cat(scores, sinks))[..., :-1], or one by a condition."""
    value = strip_casts(node)
    if is_op(value, "phi"):
        return _by_condition(value)
    if is_op(value, "softmax"):
        return Weights(_shifted(value.args[0]), value, None)
    if not (is_op(value, "slice") and value.attrs["dim"] == -1):
        return None
    softmax = strip_casts(value.args[0])
    if not is_op(softmax, "softmax") or softmax.attrs["dim"] != -1:
        return None
    both = _shifted(softmax.args[0])
    if not is_op(both, "cat") or both.attrs["dim"] != -1 or len(both.args[0]) != 2:
        return None
    scores, sinks = both.args[0]
    parameter = _per_head(sinks, heads=1, rank=4)
    if parameter is None or not _over_history(scores):
        return None
    return Weights(scores, softmax, parameter)


def _by_condition(phi: Node) -> Weights | None:
    cond, *sides = phi.args
    then, other = (match_weights(side) for side in sides)
    if then is None or other is None or then.cond or other.cond:
        return None
    if strip_casts(then.scores) is not strip_casts(other.scores):
        return None
    if then.sinks is None:
        cond, then, other = negate(cond), other, then
    if then.sinks is None or other.sinks is not None:
        return None
    return Weights(then.scores, then.softmax, then.sinks, cond)


def match_gate(node: Node, weights: Weights, readers) -> tuple[Node, Node] | None:
    """(the product, the sinks) where weights @ v is then times sigmoid(lse - sinks)."""
    reader = node
    while True:
        found = readers.get(reader.id, [])
        if len(found) != 1:
            return None
        reader, value = found[0], reader
        if reader.op == "cast" and strip_casts(reader) is not reader:
            continue
        break
    if reader.op != "mul":
        return None
    for gate, product in either_way(reader):
        if product is value:
            sinks = _gate(gate, weights)
            if sinks is not None:
                return reader, sinks
    return None


def _gate(node, weights: Weights) -> Node | None:
    """The sinks of sigmoid(logsumexp(scores) - sinks), one number for each head."""
    node = strip_casts(node)
    if not is_op(node, "rearrange") or len(node.axes) != 4 or node.axes[-1] != ():
        return None
    inner = strip_casts(node.args[0])
    if not is_op(inner, "sigmoid") or node.axes[:-1] != inner.axes:
        return None
    difference = strip_casts(inner.args[0])
    if not is_op(difference, "sub"):
        return None
    total, sinks = (strip_casts(a) for a in difference.args)
    if not is_op(total, "reduce") or total.attrs["fn"] != "logsumexp":
        return None
    attrs = total.attrs
    if attrs["dim"] != -1 or attrs["keepdim"]:
        return None
    if strip_casts(total.args[0]) is not strip_casts(weights.scores):
        return None
    return _per_head(sinks, heads=1, rank=3)


def _shifted(node) -> Node:
    """x of x - m, where m is the same for all that the softmax runs over."""
    value = strip_casts(node)
    if is_op(value, "sub") and isinstance(value.args[1], Node):
        shift = value.args[1]
        if shift.axes and shift.axes[-1] == () and isinstance(value.args[0], Node):
            return strip_casts(value.args[0])
    return value


def _per_head(node, heads: int, rank: int) -> Node | None:
    """The parameter that a view copies to every token, one number for each head."""
    node = strip_casts(node)
    axes = node.axes if isinstance(node, Node) else ()
    if len(axes) != rank:
        return None
    for i, axis in enumerate(axes):
        own = [f for f in axis if not f.repeats]
        if (i == heads and (len(own) != len(axis) or not axis)) or (i != heads and own):
            return None
    while is_op(node, "rearrange"):
        node = strip_casts(node.args[0])
    if not is_op(node, "parameter") or len(node.axes) != 1:
        return None
    leaves = [leaf for f in axes[heads] for leaf in f.leaves()]
    mine = [leaf for f in node.axes[0] for leaf in f.leaves()]
    return node if list(map(id, leaves)) == list(map(id, mine)) else None


def _over_history(node) -> bool:
    return isinstance(node, Node) and has_role(node.axes[-1], "hist")
