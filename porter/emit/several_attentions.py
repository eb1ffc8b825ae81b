"""Attentions of one module that differ in their values alone.

What the source sums with one softmax(q @ k.T), of several values, is one attention of the
engine for each, with a cache of its own: its kernels take values as wide as the keys.
"""

from typing import Any

from porter.analyze.graph import Node
from porter.analyze.symbols import same

_SIZES = ("scale", "soft_cap", "window", "num_heads", "num_kv_heads", "head_size")
_OF_ONE_ATTENTION = ("slopes", "sinks", "shares")


def of_the_same_scores(first: Node, other: Node) -> bool:
    """Whether two attentions have the same queries and keys, and are built alike."""
    if any(
        first.args[i].final is not other.args[i].final
        and not _same_part(first.args[i].final, other.args[i].final)
        for i in (0, 1)
    ):
        return False
    if any(
        a.attrs[name] is not None for a in (first, other) for name in _OF_ONE_ATTENTION
    ):
        return False
    return all(
        _equal(first.attrs[name], other.attrs[name])
        for name in (*_SIZES, "head_size_v")
    )


def _same_part(a: Node, b: Node) -> bool:
    """The rank's heads of one value, taken for each attention."""
    return a.op == b.op == "shard_heads" and a.args[0].final is b.args[0].final


def _equal(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return same(a, b)
