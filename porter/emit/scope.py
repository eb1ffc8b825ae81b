"""What a generated class refers to: children, attributes, parameters and imports.

Writing the forward body collects them; the constructor is then written from them.
"""

from typing import Any

from porter.analyze.graph import Frame, Node, walk
from porter.analyze.symbols import (
    Sym,
    constant,
    contains,
    key,
    negate,
    same,
    simplify,
    text,
    unwrap,
)
from porter.analyze.values import Activation, Choice, Module, does_nothing
from porter.emit.frames import FrameGraph
from porter.emit.gathering import gathered, sharded
from porter.emit.several_attentions import of_the_same_scores
from porter.gap import Gap, Refused
from porter.profiles.profile import Argument
from porter.transforms.matching import is_op

# what the constructor of a class with attention calls its own
_ATTENTION_NAMES = {
    "total_num_heads", "num_heads", "total_num_kv_heads", "num_kv_heads", "head_dim",
    "v_head_dim", "q_size", "kv_size", "v_size", "tp_size", "tp_rank",
    "num_kv_head_replicas", "attn", "rotary_emb", "use_mla",
}  # fmt: skip
_LAYER_CALLS = {"linear", "qkv", "merged_linear", "norm", "embedding"}
# may give part of another tensor's memory
_VIEWS = {"item", "rearrange", "slice", "select", "along", "shard_heads", "cast", "phi"}


def _limit(inst: Module) -> Gap:
    return Gap(
        inst.span.file,
        inst.span.line,
        "a limit of torch.finfo outside an attention mask",
        "it would differ between the dtypes that a port runs in",
    )


def is_list(module: Module) -> bool:
    """Modules under numbers, whose order the forward knows: a port has them by name."""
    short = module.leaf == "torch.nn.ModuleList" and "items" in module.attrs
    return short or module.leaf == "torch.nn.Sequential"


class ClassScope:
    """Collects what one class needs while its methods are written."""

    def __init__(self, inst: Module, graph: FrameGraph, imports: set[str]):
        self.inst, self.graph, self.imports = inst, graph, imports
        self.children: dict[str, Module] = {}
        self.reached: set[str] = set()  # those called since somebody emptied it
        self.used: dict[int, Module] = {}  # modules called, also below a child
        self.attrs: dict[str, Any] = {}  # name -> Sym | Activation | Node
        self.fused_acts: set[str] = set()
        self.attends: list[Node] = []
        self.latents: list[Node] = []
        self.ropes: list[Node] = []
        self.rotated: list[str] = []
        self.summands: list[str] = []
        self.gathers: set[str] = set()
        self.sinks: set[int] = set()
        self.logits: Node | None = None
        self.alternatives: dict[str, Module] = {}
        self.has_experts = any(n.op == "fused_moe" for n in graph.order)
        self.own_attends = [
            n
            for n in graph.order
            if n.op == "attend" and n.frame is not None and n.frame.inst is inst
        ]
        # whether one of them reads another layer's cache in some layers
        self.shares = any(n.attrs.get("shares") for n in self.own_attends)
        self.sizes = self._attention_sizes()

    def gap(self, node: Node, what: str, advice: str = "") -> Refused:
        return Refused([Gap(node.span.file, node.span.line, what, advice)])

    def attentions(self) -> list[tuple[str, Node]]:
        """The attentions of this class, each with a cache, and their names."""
        found = list({a.id: a for a in self.attends}.values())
        for other in found[1:]:
            if not of_the_same_scores(found[0], other):
                raise self.gap(
                    other,
                    "two attentions in one module",
                    "one softmax(q @ k.T) may be taken of several values",
                )
        names = [f"attn_{n}" if n > 1 else "attn" for n in range(1, len(found) + 1)]
        for name in set(names[1:]) & (set(self.inst.attrs) | set(self.attrs)):
            raise self.gap(found[0], f"`{name}` is the port's name for an attention")
        return list(zip(names, found, strict=True))

    def _attention_sizes(self) -> dict:
        """The names under which the constructor of an attention keeps its sizes."""
        out: dict = {}
        for node in self.own_attends:
            for name, attr in (
                ("num_kv_heads", "self.total_num_kv_heads"),
                ("num_heads", "self.total_num_heads"),
                ("head_size_v", "self.v_head_dim"),
                ("head_size", "self.head_dim"),
            ):
                if constant(node.attrs[name]) is None:
                    out[key(node.attrs[name])] = attr
        return out

    # -- scalars

    def number(self, value, level: int = 0) -> str:
        return text(simplify(value), self._name, level)

    def _name(self, sym: Sym) -> str | None:
        if sym.key in self.sizes:
            return self.sizes[sym.key]
        if sym.op == "attr" and sym.owner is self.inst:
            return self._attribute(sym.args[0], sym)
        inner = unwrap(sym)
        if not isinstance(inner, Sym):
            return repr(inner) if not isinstance(inner, (tuple, list)) else None
        if inner.op == "finfo":
            raise Refused([_limit(self.inst)])
        if inner.op in ("runtime",):
            raise Refused(
                [
                    Gap(
                        self.inst.span.file,
                        self.inst.span.line,
                        "a size of the batch is used as a number",
                        "vLLM's batches have no such axes",
                    )
                ]
            )
        known = self.sizes.get(inner.key)
        if known is not None:
            return known
        for name, value in self.inst.attrs.items():
            if isinstance(value, Sym) and value.key == inner.key:
                return self._attribute(name, value)
        if inner.op == "layer":
            return self._attribute("layer_idx", inner)
        if inner.op == "latent_cache":
            self.attrs["use_mla"] = inner
            return "self.use_mla"
        if inner.op == "field":
            name = inner.args[1]
            if name in self.inst.attrs or name in self.children:
                name = f"config_{name}"
            return self._attribute(name, inner)
        if inner.op in (
            "of",
            "item",
            "get",
            "call",
            "or_default",
            "hasattr",
            "ifexp",
            "rope_scaling",
        ):
            return self._attribute(self._free(_invented(inner), inner), inner)
        return None

    def _free(self, name: str, value: Sym) -> str:
        """An invented name, numbered where the class has another value of that name."""
        known = [self.attrs.get(name), self.inst.attrs.get(name)]
        if any(k is not None and key(k) != key(value) for k in known):
            number = 2
            while not same(self.attrs.get(f"{name}_{number}", value), value):
                number += 1
            return f"{name}_{number}"
        return name

    def _attribute(self, name: str, value) -> str:
        if self.sizes and name in _ATTENTION_NAMES:
            name = f"{name}_2"
        wanted, number = name, 1
        while not self._holds(name, value):
            number += 1
            name = f"{wanted}_{number}"
        self.attrs[name] = value
        return f"self.{name}"

    def _holds(self, name: str, value) -> bool:
        """Whether self.<name> is this value, or may be."""
        known = self.attrs.get(name)
        if known is None:
            return name not in self.children
        return isinstance(known, Sym) and same(known, value)

    # -- modules

    def module(self, inst: Module) -> str:
        """`self.a.b` for a module below this one; it becomes a child."""
        names: list[str] = []
        current: Module | None = inst
        while current is not None and current is not self.inst:
            owner = current.owner
            listed = owner is not None and is_list(owner)
            names.insert(0, f'["{current.name}"]' if listed else f".{current.name}")
            if owner is self.inst:
                self.reached.add(current.name)
                known = self.children.setdefault(current.name, current)
                if known is not current:
                    self.alternatives[current.name] = current
            elif (
                owner is not None and owner.leaf is None and not self._reachable(owner)
            ):
                break
            current = owner
        if current is not self.inst:
            raise Refused(
                [
                    Gap(
                        inst.span.file,
                        inst.span.line,
                        f"`{inst.name}` is used outside the module that holds it",
                    )
                ]
            )
        self.used[id(inst)] = inst
        return "self" + "".join(names)

    def _reachable(self, owner: Module) -> bool:
        while owner is not None and owner is not self.inst:
            owner = owner.owner  # type: ignore[assignment]
        return owner is self.inst

    # -- nodes with a form of their own

    def render(self, node: Node, body) -> tuple[str, int] | None:
        text_ = self._special(node, body)
        return None if text_ is None else (text_, 9)

    def _special(self, node: Node, body) -> str | None:
        op = node.op
        if op in _LAYER_CALLS:
            return f"{self.module(node.attrs['module'])}({self._input(node, body)})"
        if op in ("act", "act_and_mul"):
            name = self.activation(node, fused=op == "act_and_mul")
            return f"self.{name}({body.operand(node.args[0])})"
        if op == "fused_moe":
            x, weights, ids = (body.operand(a) for a in node.args)
            self.imports.add("pack_routing")
            layer = self.module(node.attrs["module"])
            return f"{layer}({x}, pack_routing({weights}, {ids}))"
        if op == "attend":
            self.attends.append(node)
            sinks = node.attrs["sinks"]
            if sinks is not None:
                self.sinks.add(sinks.id)
                self._tensor(sinks)
            given = [body.operand(a) for a in node.args]
            given += [a.name for a in self.graph.profile.layer_arguments]
            name = next(n for n, a in self.attentions() if a is node)
            return f"self.{name}({', '.join(given)})"
        if op == "attend_latent":
            return self._latent(node, body)
        if op == "rope":
            self._rope(node)
            args = ", ".join(body.operand(a) for a in node.args)
            return f"self.rotary_emb({args})[0]"
        if op == "rope_rows":
            self._rope(node)
            return f"self.rotary_emb.cos_sin_cache[{body.operand(node.args[0])}]"
        if op == "gather_heads":
            return gathered(self, node, body.operand(node.args[0], 9))
        if op == "shard_heads":
            return sharded(self, node, body.operand(node.args[0], 9))
        if op == "logits":
            self.logits = node
            head = self.module(node.attrs["module"])
            bias = node.attrs["module"].args["bias"]
            extra = "".join(
                f", {a.name}" for a in self.graph.profile.logits_arguments
            ) + (f", {head}.bias" if bias is not False else "")
            return f"self.logits_processor({head}, {body.operand(node.args[0])}{extra})"
        if op == "absent":
            return "None"
        if op in ("parameter", "buffer"):
            return f"self.{self._tensor(node)}"
        if op == "leaf_parameter":
            if node.attrs["module"].transposed:
                raise self.gap(node, "a weight that the port has transposed is read")
            return f"{self.module(node.attrs['module'])}.{node.attrs['name']}"
        return None

    def _latent(self, node: Node, body) -> str:
        """Attention over the latent cache; its layer expands what it reads from there."""
        self.latents.append(node)
        self.module(node.attrs["module"])
        query, latent, rope = (body.operand(a) for a in node.args)
        width = f"self.num_heads * {self.number(node.attrs['sizes']['v_head_dim'], 6)}"
        shape = f"output_shape=({body.operand(node.args[0], 9)}.shape[0], {width})"
        return f"self.attn({query}, {latent}, {rope}, {shape})"

    def _input(self, node: Node, body) -> str:
        """The operand of a layer, in order in memory where the release's norms need it."""
        layer = node.attrs["module"].replaced
        ours = node.op == "norm" and layer is not None and "." not in layer.kind
        return (
            self._in_order(node.args[0], body) if ours else body.operand(node.args[0])
        )

    def _in_order(self, value: Node, body) -> str:
        view = value.op in _VIEWS and not is_op(value.args[0], "add_norm")
        if view and self.graph.profile.contiguous_norms:
            return f"{body.operand(value, 9)}.contiguous()"
        return body.operand(value)

    def _add_norm(self, node: Node, body) -> str:
        """The norm of a sum; its operands as they are before names are given anew."""
        body.emitted.add(node.id)
        body.spans.append(node.attrs["added"])
        self.summands = [self._in_order(a, body) for a in node.args]
        return f"{self.module(node.attrs['module'])}({', '.join(self.summands)})"

    def without_residual(self, node: Node, names: list[str]) -> tuple[str, str] | None:
        """Of the norm that layers start with: (the test for the first layer, the
        statements that take its one summand)."""
        parent = node.args[0]
        if not (is_op(parent, "add_norm") and parent.attrs.get("starts")):
            return None
        x, residual = self.summands
        lines = [f"    {names[0]} = {self.module(parent.attrs['module'])}({x})"]
        if names[1] not in ("_", x):
            lines.insert(0, f"    {names[1]} = {x}")
        return f"{residual} is None", "\n".join(lines)

    def _tensor(self, node: Node) -> str:
        slot = node.attrs.get("slot")
        if slot is None:
            raise self.gap(node, "a parameter without a name")
        owner, name = slot
        if not isinstance(
            name, str
        ):  # built from the layer's type, which a layer knows
            name = "".join(p for p in name.args if isinstance(p, str)).strip("_")
        if owner is not self.inst and self._reachable(owner) and owner.cls is not None:
            if node.op == "parameter":
                held = self.graph.read_outside.setdefault(id(owner), {})
                held[name] = node
                return f"{self.module(owner).removeprefix('self.')}.{name}"
        if owner is not self.inst:
            if node.op == "parameter" or node.attrs.get("persistent") is True:
                raise self.gap(node, "a parameter of another module is used here")
            held = self.inst.attrs.get(name, self.attrs.get(name, node))
            if held is not node:
                name = f"{owner.name}_{name}"
        if self.attrs.get(name, node) is not node:
            raise self.gap(node, f"`{name}` is two tensors in this class")
        self.attrs[name] = node
        return name

    def activation(self, node: Node, fused: bool) -> str:
        """The attribute that holds the activation; made where the source has none."""
        act = node.attrs.get("activation")
        held = self.inst.attrs.items()
        name = next((n for n, v in held if act and _may_be(v, act)), "act_fn")
        value = act or Activation(node.attrs["name"], node.span)
        known = self.attrs.get(name)
        if isinstance(known, Activation) and not same(known.name, value.name):
            if isinstance(value.name, str) and value.name not in self.inst.attrs:
                name, known = value.name, self.attrs.get(value.name)
        if known is not None and known is not value:
            if not (isinstance(known, Activation) and same(known.name, value.name)):
                raise self.gap(node, "two activations in one module")
            if (name in self.fused_acts) is not fused:
                raise self.gap(node, "an activation is used both fused and plain")
            return name
        self.attrs[name] = value
        if fused:
            self.fused_acts.add(name)
        return name

    def _rope(self, node: Node) -> None:
        for known in self.ropes:
            if known.attrs["table"].same_as(node.attrs["table"]):
                return
        if self.ropes:
            raise self.gap(node, "two rotary embeddings in one module")
        self.ropes.append(node)

    def passed(self, arguments: tuple[Argument, ...]) -> list[str]:
        """What a call is given of the arguments that the release passes through."""
        return [a.name for a in arguments]

    # -- scheduling questions

    def is_statement(self, node: Node) -> bool:
        return node.op == "rope_rows"

    def is_cheap(self, node: Node) -> bool:
        return node.op in ("parameter", "buffer", "leaf_parameter")

    def is_grouped(self, node: Node) -> bool:
        """A node of several results, written where they are unpacked."""
        return (node.op == "rope" and len(node.args) > 2) or node.op in (
            "add_norm",
            "topk",
            "extreme",
        )

    def group(self, node: Node, body) -> tuple[str, list[Node | None]] | None:
        if node.op not in ("item", "picked"):
            return None
        parent = node.args[0]
        projected = parent.op == "qkv" or node.attrs.get("packed")
        if node.op == "picked" or parent.op == "add_norm":
            count = 2
        else:
            count = 3 if projected else len(parent.args) - 1
        targets: list[Node | None] = [None] * count
        for reader in self.graph.readers.get(parent.id, []):
            if reader.op in ("item", "picked"):
                targets[reader.args[1]] = reader
        if node.op == "picked":
            body.emitted.add(parent.id)
            out = body.printer().render(parent)[0]
        elif parent.op == "add_norm":
            out = self._add_norm(parent, body)
        elif projected:
            sizes = ["self.q_size", "self.kv_size", self._v_size(parent)]
            out = f"{body.operand(parent)}.split([{', '.join(sizes)}], dim=-1)"
        else:
            self._rope(parent)
            body.emitted.add(parent.id)
            self.rotated = [body.operand(a) for a in parent.args[1:]]
            args = ", ".join([body.operand(parent.args[0]), *self.rotated])
            out = f"self.rotary_emb({args})"
        return out, targets

    def group_condition(self, node: Node, body) -> tuple[str | None, list[str]]:
        """(the test under which a group is made, its operands as they are without)."""
        cond = node.args[0].attrs.get("cond")
        if cond is None:
            return None, []
        return self.number(cond), self.rotated

    def _v_size(self, parent: Node) -> str:
        while parent.op != "qkv":  # elementwise work on all three
            parent = next(a for a in reversed(parent.args) if isinstance(a, Node))
        attrs = parent.attrs["sizes"]
        equal = same(attrs["head_size"], attrs["head_size_v"])
        return "self.kv_size" if equal else "self.v_size"

    def group_keys(self, node: Node) -> set[int]:
        if node.op not in ("item", "picked"):
            return set()
        parent = node.args[0]
        one = parent.op in ("add_norm", "rope", "topk", "extreme")
        keys = {parent.id} if one else set()
        return keys | {
            r.id for r in self.graph.readers.get(parent.id, []) if r.op == node.op
        }

    def returns_bias(self, node: Node) -> bool:
        if node.op in ("qkv", "merged_linear"):
            return True
        return node.op == "linear"

    def condition(self, cond, body, sides) -> str:
        """A branch's test: `self.x is not None` where x is what the branch calls."""
        wanted = unwrap(cond)
        if self.shares and contains(wanted, "layer"):
            return self.number(wanted)  # see Constructor._missing
        called = {
            id(n.attrs.get("module"))
            for _, operand in sides
            for n in walk([operand])
            if n.frame is body.frame
        }
        for name, value in self.inst.attrs.items():
            if not isinstance(value, Choice):
                continue
            if not (does_nothing(value.then) or does_nothing(value.other)):
                continue
            child = value.then if does_nothing(value.other) else value.other
            if id(child) not in called:
                continue
            there = value.cond if does_nothing(value.other) else negate(value.cond)
            if key(there) == key(wanted):
                return f"self.{name} is not None"
            if key(negate(there)) == key(wanted):
                return f"self.{name} is None"
        return self.number(wanted)

    def fallback(self, node: Node, body) -> list[str]:
        role = node.attrs.get("role_name")
        main = [
            body.name(n)
            for n in self.graph.free(body.frame)
            if n.op not in ("positions", "input_ids")
        ]
        names = [role, *main, "hidden_states", "output", "x"]
        return [n for n in names if n]

    def unbound(self, node: Node, frame: Frame) -> None:
        raise self.gap(node, f"`{node.op}` isn't within reach of {frame.inst.kind}")


def _invented(sym: Sym) -> str:
    """A name for a config expression that the source gives none."""
    if sym.op in ("item", "get", "of") and isinstance(sym.args[1], str):
        return sym.args[1]
    for arg in sym.args:
        inner = unwrap(arg)
        if isinstance(inner, Sym) and inner.op == "field":
            return inner.args[1]
        if isinstance(inner, Sym):
            return _invented(inner)
        if isinstance(inner, str) and sym.op == "or_default":
            return inner
    return "value"


def _may_be(value, act: Activation) -> bool:
    if isinstance(value, Choice):
        return _may_be(value.then, act) or _may_be(value.other, act)
    return value is act
