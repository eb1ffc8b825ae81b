"""Three projections of one input into attention  ->  one QKVParallelLinear.

One matrix multiplication instead of three, sharded by heads, key/value heads replicated
where there are fewer than ranks. Proved by following attention's operands back to the
linear layers that make them; also for projections that are packed in one weight, head by
head or one behind the other, or each in a module that does nothing else but call it.

Before: q = self.q_proj(x); k = self.k_proj(x); v = self.v_proj(x)
After:  qkv, _ = self.qkv_proj(x); q, k, v = qkv.split([...], dim=-1)
Leaves: projections of different inputs, with different biases, or used elsewhere too;
those of which attention takes some of the heads.
"""

from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import arith, same
from porter.analyze.values import Module
from porter.transforms.base import Layer, Transform
from porter.transforms.matching import is_op
from porter.transforms.packing import Cut, cut_of, packed_base, packing
from porter.transforms.paths import (
    HeadRegion,
    head_leaves,
    head_region,
    holds_other_heads,
)
from porter.transforms.wrapped_linears import caller_of


class FuseQkv(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        for attend in [n for n in self.nodes() if n.op == "attend"]:
            if attend.attrs.get("shares") is not None:
                continue  # some layers have queries only
            regions = [
                head_region(attend.args[i], head_leaves(attend, i)) for i in range(3)
            ]
            if any(len(r.ends) != 1 for r in regions):
                continue
            ends = [r.ends[0] for r in regions]
            if all(is_op(e, "linear") for e in ends):
                if len({id(e) for e in ends}) == 3:
                    self._fuse_separate(attend, ends, regions)
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

    def _fuse_separate(
        self, attend: Node, linears: list[Node], regions: list[HeadRegion]
    ) -> None:
        users = self.users()
        modules: list[Module] = [n.attrs["module"] for n in linears]
        for linear, region in zip(linears, regions, strict=True):
            if any(reader not in region.nodes for reader in users[linear.id]):
                return
        if any(n.args[0] is not linears[0].args[0] for n in linears):
            return
        if any(holds_other_heads(n, attend, i) for i, n in enumerate(linears)):
            return
        nodes = self.nodes()
        callers = [caller_of(n, nodes) for n in linears]
        frame, owner = callers[0]
        if owner is None or any(c != callers[0] for c in callers):
            return
        if any(not same(m.args["bias"], modules[0].args["bias"]) for m in modules):
            return
        if any(m.leaf != "torch.nn.Linear" for m in modules):
            return
        if not self._fit(attend, linears):
            return
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
            frame=frame,
        )
        for i, linear in enumerate(linears):
            modules[i].replaced = fused
            item = self.make("item", (out, i), linear, role_name="qkv"[i], frame=frame)
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
        top, base = packed_base(linear, users)
        readers = users.get(base.id, [])
        if len(readers) != 3 or module.leaf != "torch.nn.Linear":
            return
        cuts: list[Cut] = []
        for region in regions:
            mine = [r for r in readers if r in region.nodes or r in region.ends]
            cut = cut_of(mine[0]) if len(mine) == 1 else None
            if cut is None:
                return
            cuts.append(cut)
        found = packing(linear, base, cuts)
        if found is None or not self._heads_in_order(attend, cuts):
            return
        module.replaced = self._layer(attend, linear)
        module.attrs["packed"] = found
        out = self.make(
            "qkv", linear.args, linear, module=module, sizes=dict(attend.attrs)
        )
        linear.forward = out
        whole = out if top is linear else top
        for i, cut in enumerate(cuts):
            part = cut.node
            axes = (*_token_axes(part), _features(part))
            item = self.make(
                "item", (whole, i), part, axes=axes, role_name="qkv"[i], packed=True
            )
            view = self.make("rearrange", (item,), part)
            self.change(
                part,
                view,
                "queries, keys and values packed in one weight are one "
                "QKVParallelLinear",
            )

    def _heads_in_order(self, attend: Node, cuts: list[Cut]) -> bool:
        """Whether what was cut out is stored head by head, as many as attention has."""
        attrs = attend.attrs
        widths = (
            arith("mul", attrs["num_heads"], attrs["head_size"]),
            arith("mul", attrs["num_kv_heads"], attrs["head_size"]),
            arith("mul", attrs["num_kv_heads"], attrs["head_size_v"]),
        )
        for i, cut in enumerate(cuts):
            rows = _features(cut.node)
            if not same(axis_size(rows), widths[i]):
                return False
            heads = [leaf for f in attend.args[i].axes[1] for leaf in f.leaves()]
            first = [leaf for f in rows for leaf in f.leaves()][: len(heads)]
            if [id(f) for f in first] != [id(f) for f in heads]:
                return False
        return True


def _token_axes(node: Node) -> list:
    """[batch, seq], whichever way round they stand."""
    axes = [a for a in node.axes if any(f.role for f in a)]
    return sorted(axes, key=lambda a: a[0].role != "batch")


def _features(node: Node) -> tuple:
    return tuple(f for a in node.axes if not any(x.role for x in a) for f in a)


def fresh_name(owner: Module, wanted: str) -> str:
    name = wanted
    while name in owner.attrs:
        name += "_fused"
    return name
