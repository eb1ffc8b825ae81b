"""einops.rearrange: an axis for each name, split and merged as the pattern says."""

import re

from porter.analyze import axes as ax
from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import arith, product
from porter.analyze.torch_shapes import rearranged


def rearrange(interp, x: Node, pattern: str, **sizes) -> Node:
    """`rearrange(x, "b q (h d) -> b q h d", d=8)`."""
    if not isinstance(x, Node) or not isinstance(pattern, str) or "->" not in pattern:
        raise interp.gap("this `einops.rearrange` isn't followed")
    left, right = (_groups(side) for side in pattern.split("->"))
    names = [n for group in left for n in group]
    if len(left) != len(x.axes) or sorted(names) != sorted(n for g in right for n in g):
        raise interp.gap(f"`einops.rearrange` by {pattern!r} isn't followed")
    known: dict = {}
    for group, axis in zip(left, x.axes, strict=True):
        open_ = [n for n in group if n not in sizes]
        known |= {n: sizes[n] for n in group if n in sizes}
        if len(open_) > 1:
            raise interp.gap("`einops.rearrange` with sizes that aren't given")
        if open_:
            rest = product(sizes[n] for n in group if n in sizes)
            size = axis_size(axis)
            known[open_[0]] = arith("floordiv", size, rest) if rest != 1 else size
    split = rearranged(interp, x, lambda: ax.reshape(x.axes, [known[n] for n in names]))
    order = [names.index(n) for group in right for n in group]
    moved = rearranged(interp, split, lambda: [split.axes[i] for i in order])
    whole = [product(known[n] for n in group) for group in right]
    return rearranged(interp, moved, lambda: ax.reshape(moved.axes, whole))


def _groups(side: str) -> list[list[str]]:
    """`b q (h d)` -> [[b], [q], [h, d]]"""
    parts = re.findall(r"\(([^()]*)\)|(\w+)", side)
    return [many.split() if many else [one] for many, one in parts]
