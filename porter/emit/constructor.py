"""The `__init__` of a generated class, written from what its methods refer to."""

import textwrap
from typing import Any

from porter.analyze.constants import hoisted, is_constant
from porter.analyze.graph import Node
from porter.analyze.symbols import (
    WRAPPERS,
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
from porter.emit import shared_caches
from porter.emit.construction import ConstructorBody
from porter.emit.experts import expert_count
from porter.emit.presence import present_where
from porter.emit.scope import ClassScope, is_list
from porter.gap import Gap, Refused

_POSITIONAL = {
    "ColumnParallelLinear": 2, "RowParallelLinear": 2, "ReplicatedLinear": 2,
    "QKVParallelLinear": 4, "MergedColumnParallelLinear": 2, "RMSNorm": 1,
    "GemmaRMSNorm": 1, "VocabParallelEmbedding": 2, "ParallelLMHead": 2, "nn.Embedding": 2,
    "nn.LayerNorm": 1, "nn.RMSNorm": 1, "nn.Linear": 2,
}  # fmt: skip
_QUANTIZED = {
    "ColumnParallelLinear",
    "RowParallelLinear",
    "ReplicatedLinear",
    "QKVParallelLinear",
    "MergedColumnParallelLinear",
    "ParallelLMHead",
    "VocabParallelEmbedding",
    "FusedMoEFactory",
}


class Constructor:
    """Writes one class's constructor. `wants` says which of the standard arguments it
    uses: config, cache_config, quant_config, prefix."""

    def __init__(self, scope: ClassScope, classes: Any, arguments: Any = ()):
        self.scope, self.classes, self.arguments = scope, classes, arguments
        self.inst = scope.inst
        self.imports = scope.imports
        self.wants: set[str] = set()
        self.params: dict[str, Any] = {}
        self.known: dict[Any, str] = {}
        self.locals: list[str] = []
        self.uses_layer = self.balances = False
        self.lines: list[str] = []

    # -- text of scalars

    def number(self, value, level: int = 0) -> str:
        return text(simplify(value), self._name, level)

    def _name(self, sym: Sym) -> str | None:
        named = self.known.get(sym.key)
        if named is not None:
            return named
        for name in sorted(self.arguments):  # worked out by whoever makes the module
            if key(self.inst.attrs.get(name)) == sym.key:
                self.params[name] = self.inst.attrs[name]
                return name
        if sym.op == "param" and sym.owner is self.inst:
            inner = unwrap(sym)
            if isinstance(inner, Sym) and inner.op == "layer":
                return self._layer()
            self.params[sym.args[0]] = sym.actual
            return sym.args[0]
        if sym.op in WRAPPERS:
            return None  # its actual value is asked for next
        inner = sym
        if isinstance(inner, Sym):
            if inner.op == "layer":
                return self._layer()
            if inner.op in ("field", "or_default", "hasattr"):
                self.wants.add("config")
            if inner.op == "latent_cache":
                self.imports.add("get_current_vllm_config")
            if inner.op in ("runtime", "rope_scaling", "finfo"):
                raise Refused(
                    [
                        Gap(
                            self.inst.span.file,
                            self.inst.span.line,
                            "a value of the running model is needed to build it",
                        )
                    ]
                )
        return None

    def _layer(self) -> str:
        self.uses_layer = True
        self.wants.add("prefix")
        self.imports.add("extract_layer_index")
        return "layer_idx"

    # -- the parts

    def write(self) -> list[str]:
        """The statements behind super().__init__()."""
        scope = self.scope
        if scope.attends:
            self._attention_sizes(scope.attends[0])
        for name, value in scope.attrs.items():
            if isinstance(value, str):
                self.lines.append(f"self.{name} = {value}")
            elif isinstance(value, Sym):
                self.lines.append(f"self.{name} = {self.number(value)}")
                if constant(value) is None:
                    self.known.setdefault(key(value), f"self.{name}")
        for name, child in sorted(scope.children.items(), key=self._order):
            self._child(name, child)
        for name, value in scope.attrs.items():
            if isinstance(value, Activation):
                self.lines.append(self._activation(name, value))
            elif isinstance(value, Node):
                self._tensor(name, value)
        if scope.ropes:
            self._rope_where_used(scope.ropes[0])
        for name, attend in scope.attentions():
            self._attention(name, attend)
        if self.balances:
            made = "parallel_config = get_current_vllm_config().parallel_config"
            self.lines.insert(0, made)
        if self.uses_layer:
            self.lines.insert(0, "layer_idx = extract_layer_index(prefix)")
        return self.lines

    def _order(self, item) -> tuple:
        """Children in the order in which forward uses them, as collected."""
        return (list(self.scope.children).index(item[0]),)

    def _attention_sizes(self, attend: Node) -> None:
        a = attend.attrs
        self.imports.add("get_tensor_model_parallel_world_size")
        add = self.lines.append
        gathers = self.scope.gathers
        world = "get_tensor_model_parallel_world_size()"
        if gathers:
            self.imports.add("get_tensor_model_parallel_rank")
            add(f"self.tp_size = {world}")
            add("self.tp_rank = get_tensor_model_parallel_rank()")
        tp = "self.tp_size" if gathers else "tp_size"
        if not gathers:
            add(f"tp_size = {world}")
        add(f"self.total_num_heads = {self.number(a['num_heads'])}")
        add(f"self.num_heads = self.total_num_heads // {tp}")
        self._remember(a["num_heads"], "self.total_num_heads")
        add(f"self.total_num_kv_heads = {self.number(a['num_kv_heads'])}")
        if a.get("kv_by_columns") and not same(a["num_heads"], a["num_kv_heads"]):
            add(f"if self.total_num_kv_heads % {tp} != 0:")
            add("    raise ValueError(")
            add('        "key and value heads must divide by the tensor parallel size"')
            add("    )")
        add(f"self.num_kv_heads = max(1, self.total_num_kv_heads // {tp})")
        if "kv" in gathers:
            add(f"self.num_kv_head_replicas = max(1, {tp} // self.total_num_kv_heads)")
        if not same(a["num_heads"], a["num_kv_heads"]):
            self._remember(a["num_kv_heads"], "self.total_num_kv_heads")
        add(f"self.head_dim = {self.number(a['head_size'])}")
        self._remember(a["head_size"], "self.head_dim")
        add("self.q_size = self.num_heads * self.head_dim")
        add("self.kv_size = self.num_kv_heads * self.head_dim")
        if not same(a["head_size"], a["head_size_v"]):
            add(f"self.v_head_dim = {self.number(a['head_size_v'])}")
            self._remember(a["head_size_v"], "self.v_head_dim")
            add("self.v_size = self.num_kv_heads * self.v_head_dim")

    def _remember(self, value, name: str) -> None:
        if constant(value) is None:
            self.known[key(value)] = name

    # -- children

    def _child(self, name: str, child: Module) -> None:
        held = present_where(self.inst.attrs.get(name), child)
        if isinstance(held, Choice) and child in (held.then, held.other):
            missing = held.other if held.then is child else held.then
            if isinstance(missing, Module) and missing is self.scope.alternatives.get(
                name, self.scope.children[name]
            ):
                self._either(name, held)
                return
            if isinstance(missing, Activation):
                rest = self._activation(name, self.scope.attrs.pop(name))
            elif does_nothing(missing):
                rest = f"self.{name} = {self._missing(held.cond)}"
            else:
                raise Refused(
                    [
                        Gap(
                            child.span.file,
                            child.span.line,
                            f"`{name}` is one of two modules, by the config",
                        )
                    ]
                )
            cond = held.cond if held.then is child else negate(held.cond)
            self.lines.append(f"if {self.number(cond)}:")
            self.lines.append(f"    self.{name} = {self.module(name, child)}")
            self.lines.append("else:")
            self.lines.append(f"    {rest}")
            return
        self.lines.append(f"self.{name} = {self.module(name, child)}")

    def _missing(self, cond) -> str:
        """What stands where a module isn't. A layer that shares another's cache may have
        weights in the checkpoint that nothing reads: they are left out."""
        if self.scope.shares and contains(cond, "layer"):
            self.imports.add("PPMissingLayer")
            return "PPMissingLayer()"
        return "None"

    def _either(self, name: str, held: Choice) -> None:
        """One of two modules, by the config: dense and sparse layers, for example."""
        self.lines.append(f"if {self.number(held.cond)}:")
        self.lines.append(f"    self.{name} = {self.module(name, held.then)}")
        self.lines.append("else:")
        self.lines.append(f"    self.{name} = {self.module(name, held.other)}")

    def module(self, name: str, child: Module) -> str:
        """The constructor call of a child module."""
        if child.replaced is not None and not isinstance(child.replaced, Module):
            return self._layer_call(name, child.replaced)
        if child.leaf is not None:
            return self._torch_call(name, child)
        return self._class_call(name, child)

    def _layer_call(self, name: str, layer) -> str:
        if not layer.kind.startswith("nn."):
            self.imports.add(layer.kind)
        args = dict(layer.args)
        if args.get("bias") is False and layer.kind in ("ParallelLMHead",):
            args.pop("bias")
        parts = self._args(layer.kind, args)
        if layer.kind == "FusedMoEFactory":
            parts.append("custom_routing_function=unpack_routing")
            parts += self._balanced()
        if layer.kind in _QUANTIZED:
            self.wants |= {"quant_config", "prefix"}
            parts.append("quant_config=quant_config")
            parts.append(f"prefix={self.prefix(name)}")
        return f"{layer.kind}({', '.join(parts)})"

    def _balanced(self) -> list[str]:
        """What a layer of experts is told of vLLM's load balancer."""
        if expert_count(self.scope.graph.order) is None:
            return []
        self.imports.add("get_current_vllm_config")
        self.balances = True
        redundant = "parallel_config.eplb_config.num_redundant_experts"
        return [
            "enable_eplb=parallel_config.enable_eplb",
            f"num_redundant_experts={redundant}",
        ]

    def prefix(self, name: str) -> str:
        return f'f"{{prefix}}.{name}"'

    def _args(self, kind: str, args: dict) -> list[str]:
        parts = []
        for i, (name, value) in enumerate(args.items()):
            shown = self._value(value)
            parts.append(shown if i < _POSITIONAL.get(kind, 0) else f"{name}={shown}")
        return parts

    def _value(self, value) -> str:
        if (
            isinstance(value, list)
            and len(value) > 1
            and all(same(v, value[0]) for v in value)
        ):
            return f"[{self.number(value[0])}] * {len(value)}"
        return self.number(value)

    def _torch_call(self, name: str, child: Module) -> str:
        assert child.leaf is not None
        if is_list(child):
            return self._numbered(name, child)
        short = child.leaf.rsplit(".", 1)[-1]
        args = {
            k: v
            for i, (k, v) in enumerate(child.args.items())
            if k in child.given or i < _POSITIONAL.get(f"nn.{short}", 0)
        }
        return f"nn.{short}({', '.join(self._args(f'nn.{short}', args))})"

    def _numbered(self, name: str, child: Module) -> str:
        parts = [
            f'"{item.name}": {self.module(f"{name}.{item.name}", item)}'
            for item in child.attrs["items"]
            if id(item) in self.scope.used
        ]
        return f"nn.ModuleDict({{{', '.join(parts)}}})"

    def _class_call(self, name: str, child: Module) -> str:
        made = self.classes.generated(child)
        parts = []
        for want in ("config",):
            if want in made.wants:
                self.wants.add(want)
                parts.append("config")
        for param in made.params:
            value = (child.attrs if param in made.arguments else child.params)[param]
            parts.append(f"{param}={self.number(value)}")
        for want in ("cache_config", "quant_config"):
            if want in made.wants:
                self.wants.add(want)
                parts.append(f"{want}={want}")
        if "prefix" in made.wants:
            self.wants.add("prefix")
            parts.append(f"prefix={self.prefix(name)}")
        return f"{made.name}({', '.join(parts)})"

    # -- the rest

    def _activation(self, name: str, act: Activation) -> str:
        fn = "get_act_fn"
        if name in self.scope.fused_acts:
            known = isinstance(unwrap(act.name), str)
            fn = "get_act_and_mul_fn" if known else "act_and_mul"
        self.imports.add(fn)
        return f"self.{name} = {fn}({self.number(act.name)})"

    def _tensor(self, name: str, node: Node) -> None:
        held = self.inst.attrs.get(name)
        sinks = node.id in self.scope.sinks
        if isinstance(held, Choice) and None in (held.then, held.other) and not sinks:
            cond = held.cond if held.other is None else negate(held.cond)
            self.lines.append(f"self.{name} = None")
            self.lines.append(f"if {self.number(cond)}:")
            before = len(self.lines)
            self._filled(name, node)
            own = self.lines[before:]
            self.lines[before:] = [textwrap.indent(t, "    ") for t in own]
        else:
            self._filled(name, node)

    def _filled(self, name: str, node: Node) -> None:
        if node.op == "parameter" and node.id in self.scope.sinks:
            self._sinks(name, self.scope.attends[0].attrs["sinks_cond"])
            return
        value = self.computed(node.args[0])
        if node.op == "parameter":
            self.lines.append(f"self.{name} = nn.Parameter({value})")
        else:
            keep = "" if node.attrs.get("persistent", True) else ", persistent=False"
            self.lines.append(f'self.register_buffer("{name}", {value}{keep})')

    def _sinks(self, name: str, cond) -> None:
        """One number for each head: a rank has those of its own heads."""
        self.imports |= {"set_weight_attrs", "sharded_weight_loader"}
        made = [
            f"self.{name} = nn.Parameter(torch.zeros(self.num_heads))",
            f'set_weight_attrs(self.{name}, {{"weight_loader": '
            "sharded_weight_loader(0)})",
        ]
        if cond is not None:
            inner = [f"    {line}" for line in made]
            made = [
                f"if {self.number(cond)}:",
                *inner,
                "else:",
                f"    self.{name} = None",
            ]
        self.lines += made

    def computed(self, node: Node, level: int = 0) -> str:
        """An expression for a tensor made of the config, behind the statements it needs."""
        body = ConstructorBody(self, {*self.params, "quant_config", "cache_config"})
        statements, value = body.value(hoisted(node), level)
        self.lines += statements
        return value

    def _rope_where_used(self, node: Node) -> None:
        at = len(self.lines)
        self._rope(node)
        cond = node.attrs.get("cond")
        if cond is not None:
            made = [f"    {line}" for line in self.lines[at:]]
            self.lines[at:] = [f"if {self.number(cond)}:", *made]

    def _rope(self, node: Node) -> None:
        table = node.attrs["table"]
        self.imports.add("get_rope")
        self.wants.add("config")
        if "rotary_emb" in self.scope.children:
            raise self.scope.gap(
                node, "a module of the source's is called as the port's own rope is"
            )
        profile = self.scope.graph.profile
        parameters = self.number(table.parameters)
        config = self.classes.config
        partial = table.partial or not config.sets_partial_rotary
        partial = partial or config.names_proportional
        given = "{parameters}" if partial else profile.rope_whole
        call = profile.rope.format(
            head_size=self.number(node.attrs["head_size"]),
            max_position=self.number(self.classes.max_position),
            style=", is_neox_style=False" if table.pairing == "pairs" else "",
            parameters=given.format(parameters=parameters),
        )
        if table.partial and profile.rope_partial:
            call = call[:-1] + profile.rope_partial.format(parameters=parameters) + ")"
        self.lines.append(f"self.rotary_emb = {call}")

    def _slopes(self, slopes: Node) -> str:
        """Those of the rank's heads, behind the statements that compute all."""
        if not is_constant(slopes):
            raise self.scope.gap(slopes, "slopes that depend on more than the config")
        value = self.computed(slopes, 9)
        self.imports.add("get_tensor_model_parallel_rank")
        self.lines.append(
            "head_start = get_tensor_model_parallel_rank() * self.num_heads"
        )
        self.lines.append(
            f"alibi_slopes = {value}[head_start : head_start + self.num_heads]"
        )
        return "alibi_slopes.tolist()"

    def _attention(self, name: str, attend: Node) -> None:
        a = attend.attrs
        self.imports.add("Attention")
        self.wants |= {"cache_config", "quant_config", "prefix"}
        scale = self.number(a["scale"])
        if self.scope.latents:
            self.lines.append(f"scale = {scale}")
            scale = "scale"
        parts = [
            "self.num_heads",
            "self.head_dim",
            f"scale={scale}",
            "num_kv_heads=self.num_kv_heads",
            "cache_config=cache_config",
            "quant_config=quant_config",
        ]
        if a["soft_cap"] is not None:
            parts.append(f"logits_soft_cap={self.number(a['soft_cap'])}")
        if a["slopes"] is not None:
            parts.append(f"alibi_slopes={self._slopes(a['slopes'])}")
        shape = self.scope.graph.profile.window
        if a["window"] is not None or shape is not None:
            window = self.number(a["window"])
            given = window if shape is None else shape.format(window=window)
            parts.append(f"per_layer_sliding_window={given}")
        if not same(a["head_size"], a["head_size_v"]):
            parts.append("head_size_v=self.v_head_dim")
        if a.get("shares") is not None:
            self._layer()
            found = shared_caches.target(a["shares"], a, self.number, self._name)
            self.lines += found.split("\n")
            parts.append(f"{shared_caches.NAME}={shared_caches.NAME}")
        if a["sinks"] is not None:
            parts.append(f"sinks=self.{a['sinks'].attrs['slot'][1]}")
        parts.append(f"prefix={self.prefix(name)}")
        plain = f"self.{name} = Attention({', '.join(parts)})"
        self.lines += self._latent(plain) if self.scope.latents else [plain]

    def _latent(self, plain: str) -> list[str]:
        """Attention in the form that the engine's cache has."""
        latent = self.scope.latents[0]
        self.imports.add("MLAAttention")
        sizes = [f"{n}={self.number(v)}" for n, v in latent.attrs["sizes"].items()]
        parts = [
            "self.num_heads",
            "scale",
            *sizes,
            "q_lora_rank=None",
            f"kv_b_proj={self.scope.module(latent.attrs['module'])}",
            "cache_config=cache_config",
            "quant_config=quant_config",
            f"prefix={self.prefix('attn')}",
        ]
        return [
            "if self.use_mla:",
            f"    self.attn = MLAAttention({', '.join(parts)})",
            "else:",
            f"    {plain}",
        ]
