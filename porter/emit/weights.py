"""How a checkpoint's names and layouts come to the port's parameters."""

import re
from dataclasses import dataclass, field
from typing import Any

from porter.analyze.graph import Node, walk
from porter.analyze.model import Facts
from porter.analyze.values import Choice, Module, Opaque
from porter.emit.checkpoint_names import renamings
from porter.emit.experts import UNREAD
from porter.emit.frames import FrameGraph
from porter.emit.layouts import Rule, rules
from porter.emit.scope import ClassScope
from porter.transforms.expert_weights import ExpertWeights
from porter.transforms.wrapped_linears import name_below


@dataclass
class WeightPlan:
    """stacked: checkpoint part -> (port part, shard); suffixes: renamed parameters;
    layouts: what is stored in another order; packed: for LoRA; buffers: whether some are
    in the checkpoint. ignored: names that are left out; unexpected: ends of names that are
    where the model doesn't have them."""

    stacked: dict[str, tuple[str, Any]] = field(default_factory=dict)
    suffixes: dict[str, str] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)
    layouts: list[Rule] = field(default_factory=list)
    packed: dict[str, list[str]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    experts: list[ExpertWeights] = field(default_factory=list)
    buffers: bool = False


def plan_weights(
    facts: Facts, graph: FrameGraph, scopes: list[ClassScope]
) -> WeightPlan:
    plan = WeightPlan()
    for scope in scopes:
        for name, child in [*scope.children.items(), *scope.alternatives.items()]:
            _child(plan, scope, name, child)
        kept = [v for v in scope.attrs.values() if isinstance(v, Node)]
        plan.buffers |= any(v.op == "buffer" and _is_stored(v) for v in kept)
    children = [item for s in scopes for item in s.children.items()]
    below = [m for s in scopes for m in s.used.values() if m.leaf]
    children += [(m.name, m) for m in below]
    head = next(n for n in walk([facts.logits]) if n.op == "logits").attrs["module"]
    plan.layouts = rules(facts, [*children, (head.name, head)])
    _base_model_prefix(plan, facts, graph)
    sides = [m for s in scopes for m in s.alternatives.values()]
    _ignored(plan, facts, [*(c for _, c in children), *sides, head])
    experts = [e for e in (_experts(n) for n in graph.order) if e is not None]
    plan.renamed = renamings(facts, experts)
    plan.experts = experts
    for each in experts:
        plan.renamed |= each.rules
    plan.unused = [_pattern(path) for path in unused_weights(facts, scopes)]
    plan.unused += [UNREAD] if any(each.more for each in experts) else []
    return plan


def _experts(node: Node) -> ExpertWeights | None:
    if node.op != "fused_moe":
        return None
    plan: ExpertWeights = node.attrs["module"].attrs["experts"]
    return plan


def unused_weights(facts: Facts, scopes: list[ClassScope]) -> list[tuple[str, ...]]:
    """Paths of what the source builds and stores but its forward never reads."""
    live: set[int] = set()
    for scope in scopes:
        live.update(id(child) for child in scope.children.values())
        live.update(id(child) for child in scope.alternatives.values())
        live.update(scope.used)
        live.update(id(v) for v in scope.attrs.values())
        live.add(id(scope.inst))
    for scope in scopes:
        for child in [*scope.children.values(), *scope.alternatives.values()]:
            live.update(id(part) for part in child.attrs.get("parts", ()))
    fused = [
        p for s in scopes for c in s.children.values() for p in c.attrs.get("parts", ())
    ]
    holders = {
        id(m) for inst in [*(s.inst for s in scopes), *fused] for m in _owners(inst)
    }
    found: list[tuple[str, ...]] = []

    def visit(module: Module) -> None:
        for name, value in module.attrs.items():
            for child in _held(value):
                if isinstance(child, Node):
                    if id(child) not in live and _is_stored(child):
                        found.append((*module.path, name))
                elif child.owner is module and id(child) in live | holders:
                    if child.replaced is None and not (
                        child.leaf and child.leaf not in _HOLDERS
                    ):
                        visit(child)
                    elif child.replaced is not None:
                        found.extend(_left_over(child))
                elif child.owner is module and _has_weights(child):
                    found.append(child.path)
        if module.either is not None:  # the loader leaves out a side that isn't there
            for side in (module.either.then, module.either.other):
                if id(side) in live:
                    visit(side)
        elif module.element is not None:
            visit(module.element)

    for node in walk([facts.logits]):  # the class with the head is written later
        if isinstance(node.attrs.get("module"), Module):
            live.add(id(node.attrs["module"]))
        if node.frame is not None:
            live.add(id(node.frame.inst))
    visit(facts.root)
    return found


def _left_over(module: Module) -> list[tuple[str, ...]]:
    """Parameters of a module that the layer in its place doesn't have."""
    kept = getattr(module.replaced, "source", "")
    return [
        (*module.path, name)
        for name, value in module.attrs.items()
        if isinstance(value, Node) and _is_stored(value) and name != kept
    ]


def _owners(module: Module):
    current: Module | None = module
    while current is not None:
        yield current
        current = current.owner


def _held(value) -> list:
    if isinstance(value, Choice):
        return [v for v in (value.then, value.other) if isinstance(v, (Module, Node))]
    if isinstance(value, list):  # what a Sequential or a short ModuleList holds
        return [v for v in value if isinstance(v, Module)]
    return [value] if isinstance(value, (Module, Node)) else []


def _is_stored(node: Node) -> bool:
    return node.op == "parameter" or (
        node.op == "buffer" and node.attrs.get("persistent") is True
    )


_HOLDERS = ("torch.nn.ModuleList", "torch.nn.Sequential")
_WEIGHTED = (
    "torch.nn.Linear",
    "torch.nn.Embedding",
    "torch.nn.LayerNorm",
    "torch.nn.RMSNorm",
)


def _has_weights(module: Module) -> bool:
    if module.leaf in _WEIGHTED and "parts" not in module.attrs:
        return True
    if module.element is not None:
        return _has_weights(module.element)
    held = [c for v in module.attrs.values() for c in _held(v)]
    return any(
        _is_stored(c) if isinstance(c, Node) else c.owner is module and _has_weights(c)
        for c in held
    )


def _pattern(path: tuple[str, ...]) -> str:
    """A regex for the names of the tensors below a module path."""
    steps = [r"\d+" if step == "*" else re.escape(step) for step in path]
    return "^" + r"\.".join(steps) + r"(\.|$)"


def _child(plan: WeightPlan, scope: ClassScope, name: str, child: Module) -> None:
    parts = child.attrs.get("parts") if child.leaf else None
    if parts:
        shards: list[Any] = ["q", "k", "v"] if len(parts) == 3 else [0, 1]
        for part, shard in zip(parts, shards, strict=True):
            below, target = _narrowed(scope, child, part)
            plan.stacked[below] = (target, shard)
        assert child.owner is not None
        plan.packed[name] = [name_below(p, child.owner) for p in parts]
    if child.attrs.get("packed") and child.leaf:
        plan.packed.setdefault(name, [name])
    layer = child.replaced
    if layer is not None and not isinstance(layer, Module) and layer.source:
        if layer.source != "weight":
            plan.suffixes[f".{name}.{layer.source}"] = f".{name}.weight"


_EXPERT_NAMES = ("gate_proj", "up_proj", "down_proj")  # as the fused experts load them


def _narrowed(scope: ClassScope, fused: Module, part: Module) -> tuple[str, str]:
    """`.q_proj` and `.qkv_proj`, with what holds them in front, and the dot behind, where
    another module's name begins alike."""
    owner = fused.owner
    assert owner is not None
    below = name_below(part, owner)
    first = below.partition(".")[0]
    others = [
        n
        for n, v in owner.attrs.items()
        if isinstance(v, Module) and v is not part and n != first
    ]
    clash = any(n.startswith(part.name) for n in others) and first == below
    clash = clash or (scope.has_experts and part.name in _EXPERT_NAMES)
    if not clash:
        return f".{below}", f".{fused.name}"
    holder = owner.name
    if holder.isdigit() and owner.owner is not None:  # experts have numbers as well
        holder = f"{owner.owner.name}.{holder}"
    return f".{holder}.{below}.", f".{holder}.{fused.name}."


def _base_model_prefix(plan: WeightPlan, facts: Facts, graph: FrameGraph) -> None:
    """transformers loads checkpoints of the bare model into the one with a head."""
    prefix = facts.class_values.get("base_model_prefix")
    base = facts.root.attrs.get(prefix) if isinstance(prefix, str) else None
    if not isinstance(base, Module):
        return
    used: list[str] = []
    for node in graph.order:  # in the order of use, wherever they are built
        module = node.attrs.get("module")
        for path in [f.inst.path for f in graph.frames if f is node.frame] + (
            [module.path] if isinstance(module, Module) else []
        ):
            if len(path) > 1 and path[0] == prefix and path[1] not in used:
                used.append(path[1])
    for name in used:
        if name in base.attrs:
            plan.prefixes[f"{name}."] = f"{prefix}.{name}."


def _may_be_absent(module: Module) -> bool:
    """Whether some layers have another module in its place, or in an owner's."""
    for inner in _owners(module):
        held = inner.owner.attrs.values() if inner.owner is not None else ()
        for value in held:
            if isinstance(value, Choice) and (
                inner is value.then or inner is value.other
            ):
                return True
    return False


def _parameters(module: Module) -> list[str]:
    """Names of what a module itself has in the checkpoint."""
    if module.leaf:
        return ["weight", "bias"]
    return [n for n, v in module.attrs.items() if isinstance(v, Node) and _is_stored(v)]


def _ignored(plan: WeightPlan, facts: Facts, modules: list[Module]) -> None:
    """Names that the source declares as left over in old checkpoints: transformers asks
    the patterns only of names that the model doesn't have."""
    value = facts.class_values.get("_keys_to_ignore_on_load_unexpected")
    if not isinstance(value, (list, tuple)) or isinstance(value, Opaque):
        return
    stored = [part for m in modules for part in m.attrs.get("parts", [m])]
    names = [(*m.path, name) for m in stored for name in _parameters(m)]
    absent = [(*m.path, n) for m in stored if _may_be_absent(m) for n in _parameters(m)]
    for pattern in value:
        if not isinstance(pattern, str):
            continue
        taken = [n for n in names if re.search(pattern, ".".join(n).replace("*", "0"))]
        for name in [n for n in absent if n in taken]:
            tail = ".".join(name).rpartition("*.")[2]
            if re.search(pattern, tail) and tail not in plan.unexpected:
                plan.unexpected.append(tail)
        tails = dict.fromkeys(r"\.".join(map(re.escape, n[-2:])) for n in taken)
        if tails:
            pattern = rf"^(?!.*\b({'|'.join(tails)})$).*(?:{pattern})"
        plan.ignored.append(pattern)
