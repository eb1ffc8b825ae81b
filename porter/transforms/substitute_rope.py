"""x * cos + rotate(x) * sin, transformers' frequencies  ->  get_rope(...)(positions, q, k).

The rotation is recognised by its algebra: cos and sin of position * inv_freq, inv_freq
the default formula or transformers' ROPE_INIT_FUNCTIONS, the halves (or even/odd pairs)
of the head swapped with one sign, or written part by part (`rope_parts`), with complex
numbers, too. RoFormer (Su et al. 2021), arXiv:2104.09864.

Before: q_embed = (q * cos) + (rotate_half(q) * sin)
After:  q, k = self.rotary_emb(positions, q, k)
Leaves: any other arithmetic; `keep_rope` then takes care of its tables.
"""

from dataclasses import dataclass, replace

from porter.analyze.axes import leaves
from porter.analyze.graph import Factor, Node, axis_size, walk
from porter.analyze.symbols import Sym, arith, negate, same, unwrap
from porter.transforms.base import Transform
from porter.transforms.matching import either_way, is_op, strip_casts
from porter.transforms.rope_parts import match_parts
from porter.transforms.rope_tables import Table, match_table, rotated_head


@dataclass(frozen=True)
class Rotation:
    x: Node
    table: Table


class SubstituteRope(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        for attend in [n for n in self.nodes() if n.op == "attend"]:
            q, k = attend.args[0], attend.args[1]
            sizes = self.facts.interpreter.sizes
            cond, side, turned = _conditional(q, k, sizes.same)
            if cond is None:
                size = attend.attrs["head_size"]
                q, k = turned = tuple(self._turned_first(t, size) for t in turned)
            found = [self._rotation(t) for t in turned]
            alone = attend.attrs.get("shares") is not None  # some have queries only
            both = found[0] and found[1] and found[0].table.same_as(found[1].table)
            if both and not alone:
                self._replace_pair(attend, (q, k), found, cond, side)
            elif cond is not None:
                continue
            elif not (found[0] is None and found[1] is None):
                for node, rotation in zip((q, k), found, strict=True):
                    if rotation is not None:
                        self._replace_one(attend, node, rotation)

    def _attrs(self, attend: Node, table: Table) -> dict:
        return {
            "table": table,
            "head_size": attend.attrs["head_size"],
            "owner": attend.frame.inst if attend.frame else None,
        }

    def _replace_pair(self, attend: Node, states, found, cond, side: int) -> None:
        args = (found[0].table.positions, found[0].x, found[1].x)
        attrs = self._attrs(attend, found[0].table)
        pair = self.make("rope", args, attend, cond=cond, **attrs)
        for i, (node, rotation) in enumerate(zip(states, found, strict=True)):
            new = self.make("item", (pair, i), node, axes=rotation.x.axes)
            if cond is not None and not _spares(rotation, node, side):
                new = self._beside(node, new, side)  # without rope it is changed too
            self.change(
                node, new, "x * cos + rotate(x) * sin is vLLM's rotary embedding"
            )

    def _beside(self, node: Node, rotated: Node, side: int) -> Node:
        """`rotated` where the layer has rope, what the source has where it hasn't."""
        arms = (rotated, node.args[2]) if side == 1 else (node.args[1], rotated)
        return self.make("phi", (node.args[0], *arms), node, axes=node.axes)

    def _replace_one(self, attend: Node, node: Node, rotation: Rotation) -> None:
        args = (rotation.table.positions, rotation.x)
        new = self.make(
            "rope",
            args,
            node,
            axes=rotation.x.axes,
            **self._attrs(attend, rotation.table),
        )
        self.change(node, new, "x * cos + rotate(x) * sin is vLLM's rotary embedding")

    def _turned_first(self, node: Node, head_size) -> Node:
        """The one rotation of whole heads that a query or key is computed from, where more
        is done with it before it is attended with."""
        if self._rotation(node) is not None:
            return node
        equal = self.facts.interpreter.sizes.same
        inside = [n for n in walk([node]) if match_rotation(n, equal) is not None]
        one = len({strip_casts(n).id for n in inside}) == 1
        if not one or not equal(axis_size(inside[0].axes[-1]), head_size):
            return node
        return inside[0]

    def _rotation(self, node: Node) -> Rotation | None:
        found = match_rotation(node, self.facts.interpreter.sizes.same)
        if found is None:
            found = self._turned_before(node)
        if found is None:
            return None
        head = axis_size(found.x.axes[-1])
        table = found.table
        whole = rotated_head(table) if table.partial else table.dim
        sizes = self.facts.interpreter.sizes
        usual = unwrap(whole)
        if isinstance(usual, Sym) and usual.op == "or_default":
            if same(usual.args[2], head):  # a field that the config class doesn't have
                sizes.require(whole, head, (), node.span)
        if not sizes.same(whole, head):
            return None
        return found if table.partial else Rotation(found.x, replace(table, dim=head))

    def _turned_before(self, node: Node) -> Rotation | None:
        """A rotation whose result is seen otherwise, head by head as before: that of the
        same view of what is rotated."""
        view = strip_casts(node)
        if not is_op(view, "rearrange"):
            return None
        inner = view.args[0]
        found = match_rotation(inner, self.facts.interpreter.sizes.same)
        if found is None or not _moves_only(view, inner):
            return None
        if leaves(inner.axes[-1]) != leaves(view.axes[-1]):
            return None
        axes = _renamed(view.axes, inner, found.x)
        if axes is None:
            return None
        moved = self.make("rearrange", (found.x,), view, axes=axes, frame=found.x.frame)
        return Rotation(moved, found.table)


def _moves_only(view: Node, inner: Node) -> bool:
    mine = [id(f) for a in view.axes for f in a]
    return sorted(mine) == sorted(id(f) for a in inner.axes for f in a)


def _renamed(axes, node: Node, x: Node):
    """The axes of a view of node, as a view of x, which has its sizes."""
    twin: dict[int, Factor] = {}
    for mine, other in zip(node.axes, x.axes, strict=True):
        if len(mine) != len(other):
            return None
        for old, new in zip(mine, other, strict=True):
            if not same(old.size, new.size):
                return None
            twin[id(old)] = new
    return tuple(tuple(twin[id(f)] for f in a) for a in axes)


def _conditional(q: Node, k: Node, equal):
    """(cond, side, (q, k) where it holds) of operands that are rotated in some layers
    only; side: which argument of the two choices that is."""
    if is_op(q, "phi") and is_op(k, "phi") and same(q.args[0], k.args[0]):
        for side in (1, 2):
            turned = tuple(_taken(n.args[side], n.args[0], side) for n in (q, k))
            if match_rotation(turned[0], equal) is not None:
                cond = q.args[0] if side == 1 else negate(q.args[0])
                return cond, side, turned
    return None, 0, (q, k)


def _taken(node: Node, cond, side: int) -> Node:
    """What is left of a value where the condition is known."""
    while is_op(node, "phi") and same(node.args[0], cond):
        node = node.args[side]
    return node


def _spares(rotation: Rotation, node: Node, side: int) -> bool:
    """Whether the layers without rope leave queries or keys as they are."""
    return strip_casts(rotation.x) is strip_casts(node.args[3 - side])


def match_rotation(node: Node, equal) -> Rotation | None:
    """equal(a, b): whether two sizes are the same."""
    value = strip_casts(node)
    whole = _full(value)
    if whole is None and is_op(value, "cat") and value.attrs["dim"] == -1:
        if len(value.args[0]) == 2:
            rotated, passed = value.args[0]
            return _partial(rotated, passed, equal)
    return whole


def _partial(rotated, passed, equal) -> Rotation | None:
    """cat(rotate(x[..., :r]), x[..., r:])"""
    found = _full(strip_casts(rotated))
    passed = strip_casts(passed)
    if found is None or not is_op(found.x, "slice") or not is_op(passed, "slice"):
        return None
    x, low, high = found.x.args
    if (
        strip_casts(passed.args[0]) is not strip_casts(x)
        or not same(passed.args[1], high)
        or not same(low, 0)
    ):
        return None
    if any(s.attrs["dim"] != -1 or s.attrs["step"] != 1 for s in (found.x, passed)):
        return None
    if not same(passed.args[2], axis_size(x.axes[-1])) or not equal(
        high, found.table.dim
    ):
        return None
    return Rotation(x, found.table)


def _full(node) -> Rotation | None:
    parts = match_parts(node) if isinstance(node, Node) else None
    if parts is not None:
        return Rotation(*parts)
    if not is_op(node, "add"):
        return None
    for first, second in either_way(node):
        first, second = strip_casts(first), strip_casts(second)
        if not (is_op(first, "mul") and is_op(second, "mul")):
            continue
        for x, cos in either_way(first):
            table = match_table(cos, "cos")
            if table is None:
                continue
            for turned, sin in either_way(second):
                other = match_table(sin, "sin")
                if other is None or not table.same_as(other):
                    continue
                x = _widened(x)
                if _turned(strip_casts(turned), strip_casts(x)) == table.pairing:
                    return Rotation(x, table)
    return None


def _widened(x):
    """x without casts to a wider dtype; one to the activations' dtype stays."""
    while is_op(x, "cast") and x.dtype in ("float32", "float64"):
        x = x.args[0]
    return x


def _turned(turned, x) -> str | None:
    """How `turned` is x with the halves (or pairs) swapped and one negated."""
    if is_op(turned, "cat") and turned.attrs["dim"] == -1 and len(turned.args[0]) == 2:
        first, second = (strip_casts(p) for p in turned.args[0])
        if not is_op(first, "neg"):
            return None
        high, low = strip_casts(first.args[0]), second
        size = axis_size(x.axes[-1])
        half = arith("floordiv", size, 2)
        if _is_slice(high, x, half, size) and _is_slice(low, x, 0, half):
            return "halves"
        return None
    if is_op(turned, "rearrange") and is_op(turned.args[0], "cat"):
        return _turned_pairs(turned, turned.args[0], x)
    return None


def _is_slice(node, x, low, high, step: int = 1) -> bool:
    return (
        is_op(node, "slice")
        and strip_casts(node.args[0]) is x
        and node.attrs["dim"] == -1
        and node.attrs["step"] == step
        and same(node.args[1], low)
        and same(node.args[2], high)
    )


def _turned_pairs(turned: Node, cat: Node, x) -> str | None:
    """stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)"""
    if cat.attrs["dim"] != -1 or len(cat.args[0]) != 2:
        return None
    parts = []
    for part in cat.args[0]:
        if not is_op(part, "rearrange") or part.axes[-1] != ():
            return None
        parts.append(strip_casts(part.args[0]))
    if not is_op(parts[0], "neg") or len(turned.axes) != len(x.axes):
        return None
    size = axis_size(x.axes[-1])
    odd, even = strip_casts(parts[0].args[0]), parts[1]
    if _is_slice(odd, x, 1, size, 2) and _is_slice(even, x, 0, size, 2):
        return "pairs"
    return None
