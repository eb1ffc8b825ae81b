"""How a checkpoint's names and layouts come to the port's parameters."""

import re
from dataclasses import dataclass, field
from typing import Any

from porter.analyze.model import Facts
from porter.analyze.symbols import Sym, simplify, text
from porter.analyze.values import Module, Opaque
from porter.emit.frames import FrameGraph
from porter.emit.scope import ClassScope


@dataclass
class WeightPlan:
    """stacked: checkpoint part -> (port part, shard); suffixes: renamed parameters;
    regroup: packed projections whose heads are stored one by one; packed: for LoRA."""

    stacked: dict[str, tuple[str, Any]] = field(default_factory=dict)
    suffixes: dict[str, str] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)
    regroup: list[tuple[str, str]] = field(default_factory=list)
    packed: dict[str, list[str]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


def plan_weights(facts: Facts, graph: FrameGraph, scopes: list[ClassScope]) -> WeightPlan:
    plan = WeightPlan()
    for scope in scopes:
        for name, child in scope.children.items():
            _child(plan, scope, name, child)
    _base_model_prefix(plan, facts, graph)
    _ignored(plan, facts)
    return plan


def _child(plan: WeightPlan, scope: ClassScope, name: str, child: Module) -> None:
    parts = child.attrs.get("parts") if child.cls is None else None
    if parts:
        shards: list[Any] = ["q", "k", "v"] if len(parts) == 3 else [0, 1]
        for part, shard in zip(parts, shards, strict=True):
            plan.stacked[_narrow(scope, part)] = (_narrow_to(scope, part, name), shard)
        plan.packed[name] = [p.name for p in parts]
    if child.attrs.get("packed") == "heads" and child.cls is None:
        count = text(simplify(child.attrs["num_heads"]), _on_self)
        plan.regroup.append((f".{name}.", count))
    if child.attrs.get("packed") and child.cls is None:
        plan.packed.setdefault(name, [name])
    layer = child.replaced
    if layer is not None and not isinstance(layer, Module) and layer.source:
        if layer.source != "weight":
            plan.suffixes[f".{name}.{layer.source}"] = f".{name}.weight"


def _on_self(sym: Sym) -> str | None:
    """Config fields as methods reach them."""
    return f"self.{'.'.join((*sym.args[0], sym.args[1]))}" if sym.op == "field" else None


def _narrow(scope: ClassScope, part: Module) -> str:
    """`.q_proj`, with what holds it in front where another module's name begins alike."""
    owner = part.owner
    assert owner is not None
    others = [n for n, v in owner.attrs.items() if isinstance(v, Module) and v is not part]
    clash = any(n.startswith(part.name) for n in others)
    return f".{owner.name}.{part.name}." if clash else f".{part.name}"


def _narrow_to(scope: ClassScope, part: Module, name: str) -> str:
    owner = part.owner
    assert owner is not None
    return f".{owner.name}.{name}." if _narrow(scope, part).endswith(".") else f".{name}"


def _base_model_prefix(plan: WeightPlan, facts: Facts, graph: FrameGraph) -> None:
    """transformers loads checkpoints of the bare model into the one with a head."""
    prefix = facts.class_values.get("base_model_prefix")
    base = facts.root.attrs.get(prefix) if isinstance(prefix, str) else None
    if not isinstance(base, Module):
        return
    used = {m.path[1] for s in graph.frames for m in [s.inst] if len(m.path) > 1
            and m.path[0] == prefix}
    for node in graph.order:
        module = node.attrs.get("module")
        if isinstance(module, Module) and len(module.path) > 1 and module.path[0] == prefix:
            used.add(module.path[1])
    for name in base.attrs:
        if name in used:
            plan.prefixes[f"{name}."] = f"{prefix}.{name}."


def _ignored(plan: WeightPlan, facts: Facts) -> None:
    """Names that the source declares as left over in old checkpoints."""
    value = facts.class_values.get("_keys_to_ignore_on_load_unexpected")
    if isinstance(value, (list, tuple)) and not isinstance(value, Opaque):
        for pattern in value:
            if isinstance(pattern, str):
                plan.ignored.append(pattern)


def clashes(pattern: str, names: list[str]) -> bool:
    return any(re.search(pattern, name) for name in names)
