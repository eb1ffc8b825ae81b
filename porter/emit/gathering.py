"""Heads of all ranks from those of one, and back: where something works across them.

Queries have as many heads on each rank. Of keys and values a rank has its share, or, with
more ranks than heads, one that other ranks have too: copies are left out when gathering.
What is gathered need not be whole heads: a part of each, or one number for each, may be.
"""

from typing import Any

from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import arith, same


def gathered(scope: Any, node: Node, x: str) -> str:
    """The heads of all ranks, of `x` [num_tokens, heads of the rank * width]."""
    scope.imports.add("tensor_model_parallel_all_gather")
    full = f"tensor_model_parallel_all_gather({x}.contiguous())"
    scope.gathers.add(node.attrs["kind"])
    if node.attrs["kind"] == "q":
        return full
    step = "self.num_kv_head_replicas"
    return f"{full}.unflatten(-1, (-1, {_width(scope, node)}))[:, ::{step}].flatten(1)"


def sharded(scope: Any, node: Node, x: str) -> str:
    """The rank's heads, of `x` [num_tokens, all heads * width]."""
    scope.gathers.add(node.attrs["kind"])
    if node.attrs["kind"] == "q":
        return f"{x}.chunk(self.tp_size, dim=-1)[self.tp_rank]"
    part = "self.tp_rank // self.num_kv_head_replicas"
    return f"{x}.unflatten(-1, (-1, {_width(scope, node)}))[:, {part}]"


def _width(scope: Any, node: Node) -> str:
    """How wide the rank's key/value heads are in what is gathered."""
    attend = scope.own_attends[0]
    heads, size = attend.attrs["num_kv_heads"], attend.attrs["head_size"]
    each = arith("floordiv", axis_size(node.args[0].axes[-1]), heads)
    if same(each, size):
        return "self.kv_size"
    if same(each, attend.attrs["head_size_v"]):
        return "self.v_size"
    if same(each, 1):
        return "self.num_kv_heads"
    return f"self.num_kv_heads * {scope.number(each, 6)}"
