"""What a constructor computes from a stored buffer: from its value then, not from the
checkpoint's.

    self.register_buffer("inv_freq", f)
    self.table = torch.outer(steps, self.inv_freq)     # of f, whatever is loaded later

The buffer itself, and a view of it, are what the checkpoint has.
"""

from typing import Any

from porter.analyze.graph import Node

_COMPUTED = {
    "cos", "sin", "tanh", "sigmoid", "exp", "log", "sqrt", "rsqrt", "abs", "neg",
    "add", "sub", "mul", "truediv", "pow", "reciprocal", "square", "floordiv", "mod",
    "matmul", "cat",
}  # fmt: skip
_VIEWS = ("rearrange", "slice", "select", "cast")


def as_built(op: str, value: Any) -> Any:
    """An operand of `op` in a constructor, with the stored buffers in it as they are."""
    if op not in _COMPUTED:
        return value
    if isinstance(value, (tuple, list)):
        return type(value)(as_built(op, v) for v in value)
    return _built(value) if isinstance(value, Node) else value


def _built(node: Node) -> Node:
    if node.op == "buffer":
        return _initial(node)
    if node.op not in _VIEWS:
        return node
    inner = _built(node.args[0])
    return node if inner is node.args[0] else _again(node, inner)


def _initial(buffer: Node) -> Node:
    """The buffer's value in the constructor, as a buffer that isn't stored."""
    if buffer.attrs.get("persistent") is False:
        return buffer
    held: Node | None = buffer.attrs.get("initial")
    if held is None:
        attrs = {**buffer.attrs, "persistent": False, "unique": object()}
        held = Node("buffer", buffer.args, attrs, buffer.axes, None, buffer.span)
        held.dtype = buffer.dtype
        buffer.attrs["initial"] = held
    return held


def _again(node: Node, inner: Node) -> Node:
    made = Node(
        node.op, (inner, *node.args[1:]), node.attrs, node.axes, node.frame, node.span
    )
    made.dtype = node.dtype
    return made
