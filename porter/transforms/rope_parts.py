"""Rotations that are written part by part, on tables of one element a frequency.

With a and b the two halves of the head (or its even and odd elements), the rotation is
the pair (a * cos - b * sin, b * cos + a * sin), put together again as a and b were taken
apart: what vLLM's rotary embedding does, neox style for halves, the other for pairs.
"""

from porter.analyze.axes import leaf_ids
from porter.analyze.graph import Axes, Node, axis_size
from porter.analyze.symbols import arith, constant, same
from porter.transforms.matching import either_way, is_op, strip_casts
from porter.transforms.rope_tables import Table, match_table


def match_parts(node: Node) -> tuple[Node, Table] | None:
    """(x, its table as one of two elements a frequency) of a rotation, or None."""
    together = _parts(node)
    if together is None:
        return None
    pairing, first, second = together
    minus, plus = _products(first, "sub"), _products(second, "add")
    if minus is None or plus is None:
        return None
    (a, table), (b, _) = minus
    if plus[0][0] is not b or plus[1][0] is not a:
        return None
    if not all(other.same_as(table) for _, other in (minus[1], *plus)):
        return None
    x = _whole(a, b, pairing)
    return None if x is None else (x, table.paired(pairing))


def _parts(node: Node) -> tuple[str, Node, Node] | None:
    """("halves" or "pairs", a, b) of what a and b were put together to."""
    cat, pairing = node, "halves"
    if is_op(node, "rearrange"):
        cat, pairing = node.args[0], "pairs"
    if not is_op(cat, "cat") or cat.attrs["dim"] != -1 or len(cat.args[0]) != 2:
        return None
    parts = list(cat.args[0])
    if pairing == "pairs":
        if not _flattens(cat.axes, node.axes):
            return None
        for i, part in enumerate(parts):
            if not is_op(part, "rearrange") or part.axes[-1] != ():
                return None
            parts[i] = part.args[0]
            if len(parts[i].axes) != len(node.axes):
                return None
    first, second = (strip_casts(p) for p in parts)
    return (pairing, first, second) if _are_nodes(first, second) else None


def _are_nodes(*values) -> bool:
    return all(isinstance(v, Node) for v in values)


def _products(node: Node, op: str):
    """((x, table), (x, table)) of x * table + x * table: the cosine's first, unless the
    sum is commutative, where either may be."""
    if not is_op(node, op):
        return None
    found = [_product(strip_casts(arg)) for arg in node.args]
    if None in found:
        return None
    kinds = [kind for _, _, kind in found]
    if op == "add" and kinds == ["sin", "cos"]:
        found.reverse()
    elif kinds != ["cos", "sin"]:
        return None
    return tuple((x, table) for x, table, _ in found)


def _product(node):
    """(x, table, "cos" or "sin") of x times a table of one element a frequency."""
    if not is_op(node, "mul"):
        return None
    for x, factor in either_way(node):
        for kind in ("cos", "sin"):
            table = match_table(factor, kind)
            if table is not None and table.pairing == "once":
                return _widened(x), table, kind
    return None


def _widened(x):
    """x without casts to a wider dtype; one to the activations' dtype stays."""
    while is_op(x, "cast") and x.dtype in ("float32", "float64"):
        x = x.args[0]
    return x


def _whole(a: Node, b: Node, pairing: str) -> Node | None:
    """What a and b are the halves, or the even and odd elements, of."""
    if is_op(a, "select") and is_op(b, "select") and pairing == "pairs":
        return _of_selected(a, b)
    if not (is_op(a, "slice") and is_op(b, "slice")) or a.args[0] is not b.args[0]:
        return None
    size = axis_size(a.args[0].axes[-1])
    half = arith("floordiv", size, 2)
    step, places = (1, ((0, half), (half, size)))
    if pairing == "pairs":
        step, places = (2, ((0, size), (1, size)))
    for part, (low, high) in zip((a, b), places, strict=True):
        if part.attrs["dim"] != -1 or part.attrs["step"] != step:
            return None
        if not (same(part.args[1], low) and same(part.args[2], high)):
            return None
    return a.args[0]


def _of_selected(a: Node, b: Node) -> Node | None:
    """x of `x.view(..., -1, 2)[..., i]`."""
    view = a.args[0]
    if view is not b.args[0] or not is_op(view, "rearrange"):
        return None
    if any(part.attrs["dim"] != -1 for part in (a, b)):
        return None
    if not (same(a.args[1], 0) and same(b.args[1], 1)):
        return None
    if constant(axis_size(view.axes[-1])) != 2:
        return None
    x = view.args[0]
    while is_op(x, "rearrange"):  # contiguous and the like
        if _flat(x.axes) != _flat(x.args[0].axes):
            break
        x = x.args[0]
    return _widened(x) if _flattens(view.axes, x.axes) else None


def _flattens(split: Axes, flat: Axes) -> bool:
    """Whether the last two axes are one in `flat`, and all others the same."""
    if len(split) != len(flat) + 1:
        return False
    axes = (*split[:-2], (*split[-2], *split[-1]))
    return [leaf_ids(a) for a in axes] == [leaf_ids(a) for a in flat]


def _flat(axes: Axes) -> list[int]:
    return [leaf for axis in axes for leaf in leaf_ids(axis)]
