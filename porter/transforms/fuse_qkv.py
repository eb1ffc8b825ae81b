"""Three projections of one input into attention  ->  one QKVParallelLinear.

One matrix multiplication instead of three, sharded by heads, key/value heads replicated
where there are fewer than ranks. Proved by following attention's operands back to the
linear layers that make them; also for projections that are packed in one weight, head by
head or one behind the other.

Before: q = self.q_proj(x); k = self.k_proj(x); v = self.v_proj(x)
After:  qkv, _ = self.qkv_proj(x); q, k, v = qkv.split([...], dim=-1)
Leaves: projections of different inputs, with different biases, or used elsewhere too.
"""

from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import arith, same
from porter.analyze.values import Module
from porter.transforms.base import Layer, Transform
from porter.transforms.matching import is_op
from porter.transforms.paths import HeadRegion, head_leaves, head_region


class FuseQkv(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        for attend in [n for n in self.nodes() if n.op == "attend"]:
            regions = [
                head_region(attend.args[i], head_leaves(attend, i)) for i in range(3)
            ]
            if any(len(r.ends) != 1 for r in regions):
                continue
            ends = [r.ends[0] for r in regions]
            if all(is_op(e, "linear") for e in ends):
                if len({id(e) for e in ends}) == 3:
                    self._fuse_separate(attend, ends)
                elif ends[0] is ends[1] is ends[2]:
                    self._fuse_packed(attend, ends[0], regions)

    def _sizes(self, attend: Node) -> dict:
        attrs = attend.attrs
        return {
            "hidden_size": None,
            "head_size": attrs["head_size"],
            "total_num_heads": attrs["num_heads"],
            "total_num_kv_heads": attrs["num_kv_heads"],
        }

    def _layer(self, attend: Node, linear: Node) -> Layer:
        args = self._sizes(attend)
        args["hidden_size"] = linear.attrs["module"].args["in_features"]
        if not same(attend.attrs["head_size"], attend.attrs["head_size_v"]):
            args["v_head_size"] = attend.attrs["head_size_v"]
        args["bias"] = linear.attrs["module"].args["bias"]
        return Layer("QKVParallelLinear", args, parallel=True, prefix=True)

    # -- separate projections

    def _fuse_separate(self, attend: Node, linears: list[Node]) -> None:
        users = self.users()
        modules: list[Module] = [n.attrs["module"] for n in linears]
        if any(len(users[n.id]) != 1 for n in linears):
            return
        if any(n.args[0] is not linears[0].args[0] for n in linears):
            return
        if any(n.frame is not linears[0].frame for n in linears):
            return
        if any(not same(m.args["bias"], modules[0].args["bias"]) for m in modules):
            return
        if any(m.leaf != "torch.nn.Linear" or m.cls is not None for m in modules):
            return
        if len({id(m.owner) for m in modules}) != 1 or not self._fit(attend, linears):
            return
        owner = modules[0].owner
        assert owner is not None
        name = fresh_name(owner, "qkv_proj")
        fused = Module(None, "torch.nn.Linear", modules[0].span, owner=owner, name=name)
        fused.args = {"in_features": modules[0].args["in_features"]}
        fused.replaced = self._layer(attend, linears[0])
        fused.attrs["parts"] = modules
        owner.attrs[name] = fused
        out = self.make(
            "qkv",
            (linears[0].args[0],),
            linears[0],
            module=fused,
            sizes=dict(attend.attrs),
        )
        for i, linear in enumerate(linears):
            modules[i].replaced = fused
            item = self.make("item", (out, i), linear, role_name="qkv"[i])
            self.change(
                linear, item, "projections of one input into attention are one matrix"
            )

    def _fit(self, attend: Node, linears: list[Node]) -> bool:
        attrs = attend.attrs
        widths = [
            arith("mul", attrs["num_heads"], attrs["head_size"]),
            arith("mul", attrs["num_kv_heads"], attrs["head_size"]),
            arith("mul", attrs["num_kv_heads"], attrs["head_size_v"]),
        ]
        return all(
            same(n.attrs["module"].args["out_features"], w)
            for n, w in zip(linears, widths, strict=True)
        )

    # -- one packed projection

    def _fuse_packed(
        self, attend: Node, linear: Node, regions: list[HeadRegion]
    ) -> None:
        module, users = linear.attrs["module"], self.users()
        base = linear
        if len(users[linear.id]) == 1 and users[linear.id][0].op == "rearrange":
            base = users[linear.id][0]
        readers = users[base.id]
        if len(readers) != 3 or module.cls is not None:
            return
        if any(
            r.op != "slice" or r.attrs["step"] != 1 or r.attrs["dim"] != -1
            for r in readers
        ):
            return
        slices: list[Node] = []
        for region in regions:
            mine = [r for r in readers if r in region.nodes or r in region.ends]
            if len(mine) != 1:
                return
            slices += mine
        bounds, low = [], 0
        for s in slices:
            bounds.append(same(s.args[1], low))
            low = s.args[2]
        if not all(bounds) or not same(low, axis_size(base.axes[-1])):
            return
        layout = self._layout(attend, linear, base, slices)
        if layout is None:
            return
        module.replaced = self._layer(attend, linear)
        module.attrs["packed"] = layout
        module.attrs["num_heads"] = attend.attrs["num_heads"]
        out = self.make(
            "qkv", linear.args, linear, module=module, sizes=dict(attend.attrs)
        )
        for i, part in enumerate(slices):
            batch, seq = [a for a in part.axes if any(f.role for f in a)]
            rest = tuple(f for a in part.axes if not any(x.role for x in a) for f in a)
            item = self.make(
                "item", (out, i), part, axes=(batch, seq, rest), role_name="qkv"[i]
            )
            view = self.make("rearrange", (item,), part)
            self.change(
                part,
                view,
                "queries, keys and values packed in one weight are one "
                "QKVParallelLinear",
            )

    def _layout(self, attend, linear: Node, base: Node, slices) -> str | None:
        """`heads`: q, k, v of each head in turn; `blocks`: all q, all k, all v."""
        attrs = attend.attrs
        features = [a for a in base.axes if not any(f.role for f in a)]
        width = attrs["head_size"]
        equal = same(attrs["num_heads"], attrs["num_kv_heads"]) and same(
            attrs["head_size"], attrs["head_size_v"]
        )
        order = tuple(leaf for a in linear.axes[-1:] for f in a for leaf in f.leaves())
        flat = tuple(leaf for a in features for f in a for leaf in f.leaves())
        if [id(f) for f in order] != [id(f) for f in flat]:
            return None
        if len(features) == 2 and equal:
            heads_first = same(axis_size(features[0]), attrs["num_heads"])
            if heads_first and all(same(axis_size(s.axes[-1]), width) for s in slices):
                return "heads"
        if len(features) == 1:
            q, kv = (
                arith("mul", attrs[n], width) for n in ("num_heads", "num_kv_heads")
            )
            sizes = [axis_size(s.axes[-1]) for s in slices]
            if all(same(a, b) for a, b in zip(sizes, (q, kv, kv), strict=True)):
                return "blocks"
        return None


def fresh_name(owner: Module, wanted: str) -> str:
    name = wanted
    while name in owner.attrs:
        name += "_fused"
    return name
