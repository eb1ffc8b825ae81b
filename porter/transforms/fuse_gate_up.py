"""act(gate(x)) * up(x)  ->  one MergedColumnParallelLinear and one act_and_mul.

Two projections of one input whose results are multiplied, one of them activated: one
matrix multiplication and one fused activation.

Before: self.act_fn(self.gate_proj(x)) * self.up_proj(x)
After:  gate_up, _ = self.gate_up_proj(x); x = self.act_fn(gate_up)
Where a config names an activation that vLLM has no fused form of, the port applies it and
multiplies (`porter/emit/activations.py`).
Leaves: products whose sides differ in input, size or bias, and activations that vLLM has
no fused form of: those that the source names, and those that its config class names for
configs that don't.
"""

from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import Sym, same, unwrap
from porter.analyze.values import Module
from porter.transforms.base import Layer, Transform
from porter.transforms.fuse_qkv import fresh_name
from porter.transforms.matching import either_way, is_op

# torch's own activations, by the name that get_act_and_mul_fn knows them under
_FUSED = {"silu": "silu"}
# and what a config calls those that vLLM has fused, as transformers names them, too
FUSED_NAMES = ("gelu", "gelu_pytorch_tanh", "silu", "swish")
_GELU = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}


class FuseGateUp(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        users = self.users()
        for node in [n for n in self.nodes() if n.op == "mul"]:
            for gated, up in either_way(node):
                if self._matches(gated, up, users):
                    self._fuse(node, gated, up)
                    break

    def _matches(self, gated, up, users) -> bool:
        if not (is_op(gated, "act", "silu", "gelu") and is_op(up, "linear")):
            return False
        gate = gated.args[0]
        if not is_op(gate, "linear") or gate is up:
            return False
        a, b = gate.attrs["module"], up.attrs["module"]
        return (
            gate.args[0] is up.args[0]
            and len(users[gate.id]) == len(users[up.id]) == len(users[gated.id]) == 1
            and gate.frame is up.frame is gated.frame
            and a.owner is b.owner
            and a.leaf == b.leaf == "torch.nn.Linear"
            and same(axis_size(gate.axes[-1]), axis_size(up.axes[-1]))
            and same(a.args["bias"], b.args["bias"])
            and self._has_fused_form(gated)
        )  # fmt: skip

    def _has_fused_form(self, gated: Node) -> bool:
        name = unwrap(_activation(gated))
        if isinstance(name, Sym) and name.op == "field" and len(name.args[0]) == 1:
            name = self.facts.config.fields.get(name.args[1])
        return not isinstance(name, str) or name in FUSED_NAMES

    def _fuse(self, node: Node, gated: Node, up: Node) -> None:
        gate = gated.args[0]
        parts = [gate.attrs["module"], up.attrs["module"]]
        fused = parts[0].replaced  # where the module is called a second time
        if not (isinstance(fused, Module) and fused.attrs.get("parts") == parts):
            fused = self._merged(parts)
        merged = self.make("merged_linear", gate.args, gate, module=fused)
        act = self.make(
            "act_and_mul",
            (merged,),
            node,
            name=_activation(gated),
            activation=gated.attrs.get("activation"),
        )
        self.change(
            node, act, "act(gate(x)) * up(x) is one matrix and one fused activation"
        )

    def _merged(self, parts: list[Module]) -> Module:
        owner = parts[0].owner
        assert owner is not None
        name = fresh_name(owner, "gate_up_proj")
        fused = Module(None, "torch.nn.Linear", parts[0].span, owner=owner, name=name)
        fused.args = dict(parts[0].args)
        size = parts[0].args["out_features"]
        fused.replaced = Layer(
            "MergedColumnParallelLinear",
            {"input_size": parts[0].args["in_features"], "output_sizes": [size, size],
             "bias": parts[0].args["bias"]},
            parallel=True, prefix=True,
        )  # fmt: skip
        fused.attrs["parts"] = parts
        owner.attrs[name] = fused
        for part in parts:
            part.replaced = fused
        return fused


def _activation(node: Node):
    if node.op == "act":
        return node.attrs["name"]
    if node.op == "gelu":
        return _GELU[node.attrs["approximate"]]
    return _FUSED[node.op]
