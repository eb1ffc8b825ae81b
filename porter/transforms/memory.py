"""Whose memory a value is: what a layer may write over that works in place.

A value is a module's own where it was made for it: its memory, followed through views and
branches and from layer to layer, is read by nobody that runs later. What isn't known to
make a tensor of its own counts as somebody else's.
"""

from porter.analyze.graph import Loop, Node, walk
from porter.transforms.paths import ELEMENTWISE

# give memory of their own, whatever they read
_FRESH = (ELEMENTWISE - {"act", "cast", "phi"}) | {
    "add_norm", "attend", "attend_latent", "clone", "embedding", "layer_norm", "linear",
    "matmul", "matrix", "merged_linear", "norm", "qkv", "reduce", "rms_norm", "softmax",
}  # fmt: skip
# may give that of an operand
_VIEWS = {
    "act", "along", "cast", "fused_moe", "gather_heads", "item", "phi", "rearrange",
    "select", "shard_heads", "slice",
}  # fmt: skip


class Memory:
    """readers: node id -> the nodes that read it."""

    def __init__(self, readers: dict[int, list[Node]]):
        self.readers = readers

    def shared(self, value: Node, loop: Loop | None) -> dict[int, Node] | None:
        """The values that may stand in the memory of `value`, of one pass through the
        loop. None where some of it may be made elsewhere."""
        found: dict[int, Node] = {}
        stack = [value]
        while stack:
            node = stack.pop()
            if node.id in found:
                continue
            found[node.id] = node
            crosses = node.op in ("loop_entry", "loop_exit")
            if not crosses and node.loop is not loop:
                return None
            if not crosses and node.op not in _FRESH | _VIEWS:
                return None
            if _is_view(node):
                stack += _viewed(node)
            readers = self.readers.get(node.id, [])
            stack += [r for r in readers if _is_view(r) and node in _viewed(r)]
        return found

    def owned(self, value: Node, last: Node) -> dict[int, Node] | None:
        """The values in the memory of `value`, where nobody reads it but what runs before
        `last`; else None."""
        loop = last.loop
        found = self.shared(value, loop)
        if found is None:
            return None
        before = {n.id for n in walk([last])}
        for node in list(found.values()):
            if any(
                r.id not in before and r.id not in found
                for r in self.readers.get(node.id, [])
            ):
                return None
            if node.op in ("loop_entry", "loop_exit"):
                if not self._crosses(node):
                    return None
        return found

    def _crosses(self, end: Node) -> bool:
        """Whether what comes in from the layer before, or the first one's input, is for
        this row of the loop alone."""
        row = next(r for r in rows(end.attrs["loop"]) if end in (r[0], r[3]))
        _, init, result, exit_ = row
        return self.given(init, exit_) and self.left(result, exit_, end.attrs["loop"])

    def given(self, init: Node, exit_: Node) -> bool:
        """Whether the first layer's input is read by the loop alone, under this name."""
        if init.op == "absent":
            return True
        found = self.shared(init, None)
        if found is None or any(n.op == "loop_exit" for n in found.values()):
            return False
        return all(
            r is exit_ or r.id in found
            for node in found.values()
            for r in self.readers.get(node.id, [])
        )

    def left(self, result: Node, exit_: Node, loop: Loop) -> bool:
        """Whether a layer's result is handed on under this name alone, and made by it."""
        found = self.shared(result, loop)
        if found is None or any(n.op == "loop_entry" for n in found.values()):
            return False
        ends = {r[3].id for r in rows(loop)} - {exit_.id}
        return not any(
            r.id in ends
            for node in found.values()
            for r in self.readers.get(node.id, [])
        )


def rows(loop: Loop) -> list[tuple[Node, Node, Node, Node]]:
    return [
        (entry.final, init.final, result.final, exit_.final)
        for entry, init, result, exit_ in loop.carried
    ]


def _viewed(view: Node) -> list[Node]:
    """The operands whose memory a view may be: experts may work in that of the tokens."""
    return view.inputs()[:1] if view.op == "fused_moe" else view.inputs()


def _is_view(node: Node) -> bool:
    own = node.op == "item" and node.args[0].op == "add_norm"
    return node.op in _VIEWS and not own
