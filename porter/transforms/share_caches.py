"""Keys and values of a layer that has none of its own  ->  None.

In layers that attend over an earlier layer's cache (see `shared_caches`), the engine reads
that cache: they make no keys and values, and have no weights for them.

Before: key, value = states[i] if shared else (self.k_proj(x), self.v_proj(x))
After:  k = None, v = None where the layer shares; self.attn(q, k, v)
Leaves: attention that always has a cache of its own.
"""

from porter.analyze.graph import Node
from porter.analyze.symbols import negate, unwrap
from porter.transforms.base import Transform


class ShareCaches(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        for attend in [n for n in self.nodes() if n.op == "attend"]:
            if attend.attrs.get("shares") is not None:
                self._wrap(attend)

    def _wrap(self, attend: Node) -> None:
        cond = negate(unwrap(attend.attrs["shares"].cond))
        args = list(attend.args)
        for i in (1, 2):
            own = args[i]
            absent = self.make("absent", (), attend, axes=(), of=attend.id)
            args[i] = self.make("phi", (cond, own, absent), own, role_name="qkv"[i])
            args[i].frame, args[i].hints = attend.frame, own.hints
        attend.args = tuple(args)
        self.note(
            attend.span,
            "keys and values that an earlier layer has cached are read there",
        )
