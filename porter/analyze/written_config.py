"""A config that the source changes while it builds its layers.

What is written holds from there on. Layers stand for each other, so one that is built
after the change must be the same as the one that made it, and change nothing more.
"""

from typing import Any

from porter.analyze.graph import Node
from porter.analyze.symbols import key
from porter.analyze.values import Choice, Module, is_scalar


def built_alike(a: Any, b: Any) -> bool:
    """Whether two modules, or what they hold, were built the same."""
    if a is b:
        return True
    if is_scalar(a) and is_scalar(b):
        return key(a) == key(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, Module):
        return (
            a.cls is b.cls
            and a.leaf == b.leaf
            and built_alike(a.args, b.args)
            and built_alike(a.attrs, b.attrs)
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(built_alike(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(built_alike, a, b))
    if isinstance(a, Choice):
        return key(a.cond) == key(b.cond) and built_alike(
            (a.then, a.other), (b.then, b.other)
        )
    if isinstance(a, Node):
        return a.op == b.op and built_alike(a.args, b.args)
    return built_alike(vars(a), vars(b)) if hasattr(a, "__dict__") else a == b
