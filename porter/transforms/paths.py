"""Paths through the graph along which a value is worked on head by head or elementwise."""

from dataclasses import dataclass, field

from porter.analyze.graph import Node, walk
from porter.analyze.values import is_scalar

ELEMENTWISE = {
    "add", "sub", "mul", "truediv", "pow", "neg", "cos", "sin", "tanh", "sigmoid", "exp",
    "log", "sqrt", "rsqrt", "abs", "relu", "silu", "gelu", "act", "clamp", "cast", "erf",
    "reciprocal", "softplus", "maximum", "minimum", "square", "logsigmoid", "log1p",
    "expm1", "relu6", "mish", "elu", "hardtanh", "floor", "ceil", "round", "sign", "where",
    "log2", "atan", "trunc", "frac", "exp2", "log10", "sinh", "cosh", "tan", "erfc", "sinc",
    "celu", "selu", "hardswish", "hardsigmoid", "softsign",
    "leaky_relu", "act_and_mul", "masked_fill", "phi",
    "lt", "le", "gt", "ge", "eq", "ne",
}  # fmt: skip
_HEAD_LOCAL = ELEMENTWISE | {
    "rearrange",
    "slice",
    "select",
    "cat",
    "norm",
    "layer_norm",
    "rms_norm",
    "reduce",
    "softmax",
    "item",
    "rope",
}


@dataclass
class HeadRegion:
    """What makes an operand of attention: from its linear layer (`ends`) through `nodes`;
    `mixing` are those that don't work on each head by itself."""

    ends: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    mixing: list[Node] = field(default_factory=list)


def head_leaves(attend: Node, which: int) -> set[int]:
    """The factors that number the heads of an operand of attention."""
    axis = attend.args[which].axes[1]
    return {id(leaf) for factor in axis for leaf in factor.leaves()}


def has_heads(node: Node, heads: set[int]) -> bool:
    return any(id(leaf) in heads for a in node.axes for f in a for leaf in f.leaves())


def holds_other_heads(end: Node, attend: Node, which: int) -> bool:
    """Whether attention's heads aren't those that a projection makes, one by one: some of
    them, or copies."""
    made = {id(leaf) for f in end.axes[-1] for leaf in f.leaves()}
    return end.op == "linear" and not head_leaves(attend, which) <= made


def head_region(node: Node, heads: set[int]) -> HeadRegion:
    """Everything between an operand of attention and the linear layers it comes from.

    Operands without a head axis (cos, sin, positions) are the same for every head, unless
    they were summed up over the heads, or are as wide as the heads are.
    """
    region = HeadRegion()
    stack, seen = [node], set()
    packed: set[int] = set()  # what makes several operands, one behind the other
    while stack:
        current = stack.pop()
        if current.id in seen:
            continue
        seen.add(current.id)
        if current.op in ("linear", "qkv") or _is_qkv_item(current):
            region.ends.append(current)
            continue
        region.nodes.append(current)
        if current.op not in _HEAD_LOCAL or mixes_heads(current, heads):
            region.mixing.append(current)
        for operand in _tensor_inputs(current):
            follows = has_heads(operand, heads) if heads else _projected(operand)
            cut = current.id in packed or _cut_from(current, operand)
            if cut:
                packed.add(operand.id)
            if follows or cut:
                stack.append(operand)
                continue
            region.mixing += _summed(operand, heads)
            if _as_wide_as_heads(current, operand, heads):
                region.mixing.append(current)
    return region


def _projected(node: Node) -> bool:
    """Whether a value of attention with one head comes from a projection: it has no axis
    of heads to be told by, tables of positions come from none."""
    return any(n.op in ("linear", "qkv") for n in walk([node]))


def _cut_from(part: Node, packed: Node) -> bool:
    """Whether `part` is a block of a projection that makes several operands at once."""
    if part.op not in ("slice", "select") or any(
        f.role for f in packed.axes[part.attrs["dim"] % len(packed.axes)]
    ):
        return False
    return _is_packed(packed)


def _is_packed(node: Node) -> bool:
    """A projection, or what works on each of its outputs by itself, or a view."""
    if node.op == "linear":
        return True
    tensors = [a for a in node.args if isinstance(a, Node)]
    if node.op not in ELEMENTWISE | {"rearrange"} or not tensors:
        return False
    return all(_is_packed(t) for t in tensors)


def _summed(node: Node, heads: set[int]) -> list[Node]:
    """Nodes that a value without heads was made by, out of one with heads."""
    found, stack, seen = [], [node], set()
    while stack:
        current = stack.pop()
        if current.id in seen or current.op in ("linear", "qkv", "attend"):
            continue
        seen.add(current.id)
        if any(has_heads(i, heads) for i in _tensor_inputs(current)):
            found.append(current)
        else:
            stack.extend(_tensor_inputs(current))
    return found


def _as_wide_as_heads(node: Node, operand: Node, heads: set[int]) -> bool:
    """An operand that has something of its own for each head, such as a weight."""
    if node.op not in ELEMENTWISE:
        return False
    offset = len(node.axes) - len(operand.axes)
    return any(
        operand.axes[i - offset] != () and _holds(axis, heads)
        for i, axis in enumerate(node.axes)
        if i >= offset
    )


def _holds(axis, heads: set[int]) -> bool:
    return any(id(leaf) in heads for f in axis for leaf in f.leaves())


def _is_qkv_item(node: Node) -> bool:
    return node.op == "item" and (
        node.args[0].op == "qkv" or node.attrs.get("packed") is True
    )


def _tensor_inputs(node: Node) -> list[Node]:
    if node.op == "item" and node.args[0].op == "rope":
        return [node.args[0].args[1 + node.args[1]]]
    return node.inputs()


def mixes_heads(node: Node, heads: set[int]) -> bool:
    """Whether a node works across the heads rather than on each by itself."""

    def holds(axis) -> bool:
        return _holds(axis, heads)

    if node.op in ("norm", "layer_norm", "rms_norm"):
        return holds(node.axes[-1])
    if node.op in ("softmax", "cat"):
        return holds(node.axes[node.attrs["dim"]]) or (
            node.op == "cat" and not all(_same_heads(p, heads) for p in node.args[0])
        )
    if node.op in ("slice", "select", "reduce"):
        return holds(node.args[0].axes[node.attrs["dim"]])
    return False


def _same_heads(part: Node, heads: set[int]) -> bool:
    return has_heads(part, heads) or any(is_copies(axis) for axis in part.axes)


def is_copies(axis) -> bool:
    """Whether an axis only repeats what has no such axis: it is the same for each head."""
    return bool(axis) and all(f.repeats for f in axis)


def head_path(node: Node) -> list[Node]:
    """From an operand of attention back to what makes it, along single operands."""
    path = [node]
    while True:
        step = _previous(path[-1])
        if step is None:
            return path
        path.append(step)


def _previous(node: Node) -> Node | None:
    if node.op in (
        "rearrange",
        "shard_heads",
        "cast",
        "norm",
        "layer_norm",
        "rms_norm",
        "slice",
        "select",
    ):
        return node.args[0]
    if node.op == "item" and node.args[0].op == "rope":
        return node.args[0].args[1 + node.args[1]]
    if node.op == "rope":
        return node.args[1]
    if node.op in ELEMENTWISE:
        tensors = [a for a in node.args if isinstance(a, Node)]
        if len(tensors) == 1 and all(
            isinstance(a, Node) or is_scalar(a) for a in node.args
        ):
            return tensors[0]
    return None
