"""[batch, seq, ...]  ->  [num_tokens, ...]

vLLM has no batch axis: all tokens of all sequences stand in one. Batch and sequence
become that axis wherever they are; views that only moved them vanish, attention and rope
take and give [num_tokens, heads * head_size].

Before: q.view(bsz, seq, heads, dim).transpose(1, 2)
After:  q
Leaves: views of the features, written for the flattened layout when they are printed.
"""

from porter.analyze.axes import AxisError, feature_layout, leaf_ids
from porter.analyze.graph import Axes, Node
from porter.transforms.base import Transform, settle
from porter.transforms.matching import is_op


class FlattenTokens(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        for node in self.nodes():
            if node.op == "attend":
                self._flat_operands(node, range(3))
            elif node.op in ("gather_heads", "shard_heads"):
                self._flat_operands(node, range(1))
            elif node.op == "rope":
                self._flat_operands(node, range(1, len(node.args)))
        for node in self.nodes():
            if node.op in ("attend", "rope", "gather_heads", "shard_heads") or (
                node.op == "item" and is_op(node.args[0], "rope")
            ):
                self._flat_result(node)
        settle(self.facts)
        self._lower()
        settle(self.facts)
        self._collapse()
        settle(self.facts)
        for node in self.nodes():
            if node.op == "rearrange" and self._layout(node) == self._layout(
                node.args[0]
            ):
                self.change(node, node.args[0], "only the batch and sequence axes move")
        settle(self.facts)
        self._spare_rotated()

    def _spare_rotated(self) -> None:
        """vLLM's rope may rotate in place: what is read elsewhere too is copied for it."""
        readers = self.users()
        for rope in [n for n in self.nodes() if n.op == "rope"]:
            args = list(rope.args)
            for i in range(1, len(args)):
                if self._read_beside(args[i], rope, readers):
                    args[i] = self.make("clone", (args[i],), args[i])
                    args[i].frame, args[i].loop = rope.frame, rope.loop
            rope.args = tuple(args)

    def _read_beside(self, node: Node, rope: Node, readers) -> bool:
        while True:
            if any(r is not rope for r in readers.get(node.id, [])):
                return True
            if node.op not in ("rearrange", "slice", "select"):
                return False
            rope, node = node, node.args[0]

    def _flat_operands(self, node: Node, indices) -> None:
        args = list(node.args)
        for i in indices:
            axes = flat_heads(args[i].axes)
            if axes != args[i].axes:
                role = {k: v for k, v in args[i].attrs.items() if k == "role_name"}
                args[i] = self.make("rearrange", (args[i],), args[i], axes=axes, **role)
                args[i].frame, args[i].loop = node.frame, node.loop
        node.args = tuple(args)

    def _flat_result(self, node: Node) -> None:
        """Give the node its flat axes, and its readers a view with the old ones."""
        old = node.axes
        axes = flat_heads(old)
        if axes == old or (node.op == "rope" and len(node.args) > 2):
            return
        flat = self.make(node.op, node.args, node, axes=axes, **dict(node.attrs))
        view = self.make("rearrange", (flat,), node)
        node.forward = view
        flat.hints = node.hints

    def _lower(self) -> None:
        """Axes of one element that line a weight up with the batch's axis go with it."""
        readers = self.users()
        for node in self.nodes():
            if node.op != "rearrange" or not node.axes or node.axes[0] != ():
                continue
            used = readers.get(node.id, [])
            if any(f.role for axis in node.axes for f in axis) or not used:
                continue
            if all(r.op in _ELEMENTWISE and _has_tokens(r) for r in used):
                first = next((i for i, a in enumerate(node.axes) if a), len(node.axes))
                lower = self.make("rearrange", node.args, node, axes=node.axes[first:])
                node.forward = lower

    def _collapse(self) -> None:
        for node in self.nodes():
            while node.op == "rearrange" and node.args[0].final.op == "rearrange":
                node.args = (node.args[0].final.args[0],)

    def _layout(self, node: Node):
        try:
            tokens, features = feature_layout(node.axes)
        except AxisError as error:
            raise self.gap(node.span, str(error)) from error
        return tokens, [leaf_ids(axis) for axis in features]


_ELEMENTWISE = ("add", "sub", "mul", "truediv", "pow")


def _has_tokens(node: Node) -> bool:
    return any(f.role == "seq" for axis in node.axes for f in axis)


def flat_heads(axes: Axes) -> Axes:
    """[batch, heads, seq, dim] in whatever order -> [batch, seq, heads * dim]."""
    tokens = [a for a in axes if any(f.role for f in a)]
    features = tuple(f for a in axes if not any(x.role for x in a) for f in a)
    return (*tokens, features)
