"""f(cache(x))  ->  cache(f(x)), where f works on each token by itself

The engine's attention caches keys and values as it reads them. A source may cache less
than that and expand it for every step: the latent from which latent attention makes keys
and values, keys before their norm. What is done to each cached token by itself can as well
be done before it is cached.

Before: latent = cache.update(latent); key, value = self.expand(latent).split(...)
After:  key, value = self.expand(latent).split(...); self.attn(q, key, value)
Leaves: what mixes the cached tokens, or joins them with those of the step (scores, masks).
"""

from porter.analyze.graph import Axes, Factor, Node, has_role
from porter.analyze.shared_states import own_side
from porter.transforms.base import Transform
from porter.transforms.matching import is_neutral, is_op
from porter.transforms.paths import ELEMENTWISE

_EACH_TOKEN = ELEMENTWISE | {
    "linear",
    "matrix",
    "norm",
    "cat",
    "slice",
    "select",
    "reduce",
}


class CacheExpanded(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        for node in self.nodes():
            if is_op(node, "cast") and is_neutral(node):
                continue  # attention reads what it reads in its own dtype
            if own_side(node) is not None:
                continue  # an earlier layer's cache, or this layer's: as they are
            if node.op in _EACH_TOKEN and _cached(node):
                self._push(node)

    def _push(self, node: Node) -> None:
        """Put cache(node of what was cached) in the place of a node of cached values."""
        held = [n for n in node.inputs() if _cached(n)]
        if not held or any(_over(n) is None for n in held):
            return
        if any(_present(n) for n in node.inputs()):
            return
        seq = _seq(_over(held[0]))
        if seq is None:
            return
        inner = self.make(
            node.op, self._before(node.args, seq), node, axes=_mapped(node.axes, seq),
            **dict(node.attrs),
        )  # fmt: skip
        inner.hints = node.hints
        outer = self.make("remember", (inner,), node)
        self.change(
            node, outer, "what is done to each token can be done before caching"
        )

    def _before(self, value, seq: Factor):
        """The operands as they were before they were cached."""
        if isinstance(value, (tuple, list)):
            return tuple(self._before(v, seq) for v in value)
        if not isinstance(value, Node) or not _cached(value.final):
            return value.final if isinstance(value, Node) else value
        node = value.final
        if node.op == "remember":
            return node.args[0].final
        below = self._before(node.args[0], seq)
        return self.make(
            node.op, (below,), node, axes=_mapped(node.axes, seq), **dict(node.attrs)
        )


def _cached(node: Node) -> bool:
    return any(has_role(axis, "hist") for axis in node.axes)


def _present(node: Node) -> bool:
    """Whether a value is of the step's tokens, which are others than the cached."""
    return not _cached(node) and any(has_role(a, "batch", "seq") for a in node.axes)


def _over(node: Node) -> Node | None:
    """The cached value that node is a view of."""
    node = node.final
    while is_op(node, "rearrange", "cast"):
        node = node.args[0].final
    return node if is_op(node, "remember") else None


def _seq(cached: Node | None) -> Factor | None:
    if cached is None:
        return None
    factors = [f for axis in cached.args[0].final.axes for f in axis]
    return next((f for f in factors if f.role == "seq"), None)


def _mapped(axes: Axes, seq: Factor) -> Axes:
    return tuple(tuple(seq if f.role == "hist" else f for f in a) for a in axes)
