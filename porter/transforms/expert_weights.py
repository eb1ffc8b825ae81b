"""From the names under which experts are stored to those that the fused layer loads.

The layer loads `experts.N.{gate,up,down}_proj.weight` and the merged
`experts.gate_up_proj`, `experts.down_proj`; other names are renamed, other layouts (halves
swapped or interleaved, three merged tensors, merged biases) are split into per-expert
tensors as they are loaded.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import Sym, same, simplify, text
from porter.analyze.values import Module
from porter.transforms.expert_forms import ExpertForm, Matrix
from porter.transforms.matching import is_op, strip_casts

ROLES = ("gate", "up", "down")


@dataclass
class ExpertWeights:
    """path: of the fused layer. stored: role (`gate_up` for both halves in one) -> path of
    its tensor in the source. rules: regex -> replacement on the module names. split: what
    is taken apart while loading: path -> (layout, role, is bias); see `emit/experts`. more:
    whether some tensors are stored of more experts than have all theirs."""

    path: tuple[str, ...]
    layout: str
    merged: bool
    count: str  # the number of experts, as the root class says it
    transposed: bool
    more: bool = False
    stored: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)
    split: dict[tuple[str, ...], tuple[str, str]] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, tuple[str, str]]:
        """merged tensor -> roles of its first and second half."""
        return {
            "gate_up": ("up", "gate") if self.layout == "up_gate" else ("gate", "up")
        }


def plan_experts(
    transform, node: Node, form: ExpertForm, layout: str, owner: Module, name: str
) -> ExpertWeights:
    merged = form.gate.param is not None
    path = (*owner.path, "experts")
    matrices = {"gate": form.gate, "up": form.up, "down": form.down}
    flipped = {m.transposed for m in matrices.values()}
    count = describe_on_self(counted(form))
    plan = ExpertWeights(path, layout, merged, count, flipped == {True})
    if any((m.param is not None) is not merged for m in matrices.values()):
        raise transform.gap(node.span, "experts that are merged in part")
    if not merged:
        _listed(plan, transform, node, matrices)
        return plan
    if layout != "separate":
        matrices = {"gate_up": form.gate, "down": form.down}
    for role, matrix in matrices.items():
        plan.stored[role] = _tensor(transform, node, matrix.param)
    sizes = [axis_size(m.param.axes[0]) for m in matrices.values() if m.param]
    plan.more = any(not same(size, counted(form)) for size in sizes)
    plain = layout == "gate_up" and len(flipped) == 1 and form.gate.bias is None
    viewed = any(_is_view(m.param) for m in matrices.values())
    if plain and not viewed and not plan.more:
        for role, stored in plan.stored.items():
            _rename(plan, stored, (*path, f"{role}_proj"))
    else:
        _split(plan, transform, node, matrices)
    for role, stored in plan.stored.items():
        _release(owner, matrices[role], stored)
    return plan


def counted(form: ExpertForm) -> Any:
    """The number of experts."""
    if form.below is not None:
        return form.below
    if form.down.param is not None:
        return axis_size(form.down.param.axes[0])
    holder = form.down.module
    while holder is not None and holder.element is None:
        holder = holder.owner
    assert holder is not None
    return holder.count


def describe_on_self(size) -> str:
    """A size as the root class's methods reach it."""

    def name(sym: Sym) -> str | None:
        if sym.op == "field":
            return f"self.{'.'.join((*sym.args[0], sym.args[1]))}"
        return None

    return text(simplify(size), name)


def _listed(plan, transform, node: Node, matrices: dict[str, Matrix]) -> None:
    """One module an expert, in a list."""
    for role, matrix in matrices.items():
        module = matrix.module
        assert module is not None
        if module.cls is not None or module.leaf != "torch.nn.Linear":
            raise transform.gap(node.span, "an expert's matrix is no plain Linear")
        stored = module.path
        plan.stored[role] = stored
        at = max(i for i, step in enumerate(stored) if step == "*")
        old = _pattern(stored, at)
        new = ".".join([*plan.path[-2:-1], "experts", "\\1", f"{role}_proj", ""])
        if stored[: at + 1] != (*plan.path, "*") or stored[at + 1 :] != (
            f"{role}_proj",
        ):
            plan.rules[old] = "." + new


def _pattern(stored: tuple[str, ...], at: int) -> str:
    """A regex for the names below a module of one expert; its number is the group."""
    front = stored[at - 1 : at] if stored[at - 2] == "*" else stored[at - 2 : at]
    steps = [re.escape(s) for s in front]
    rest = [re.escape(s) for s in stored[at + 1 :]]
    return r"\." + r"\.".join([*steps, r"(\d+)", *rest]) + r"\."


def _tensor(transform, node: Node, param: Node | None) -> tuple[str, ...]:
    base = strip_casts(param)
    while is_op(base, "rearrange"):
        base = base.args[0]
    if not is_op(base, "parameter") or "slot" not in base.attrs:
        raise transform.gap(node.span, "an expert's matrix is no stored parameter")
    owner, name = base.attrs["slot"]
    return (*owner.path, name)


def _is_view(param: Node | None) -> bool:
    base = strip_casts(param)
    if not is_op(base, "rearrange"):
        return False
    return not same(axis_size(base.axes[0]), axis_size(base.args[0].axes[0]))


def _rename(
    plan: ExpertWeights, stored: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    if stored == wanted:
        return
    common = 0
    while stored[common] == wanted[common]:
        common += 1
    common = max(0, min(common, len(stored) - 1) - 1)
    if stored[common] == "*":
        common += 1
    old = r"\." + r"\.".join(re.escape(s) for s in stored[common:]) + "$"
    plan.rules[old] = "." + ".".join(wanted[common:])


def _split(plan, transform, node: Node, matrices: dict[str, Matrix]) -> None:
    for role, matrix in matrices.items():
        turned = "transposed" if matrix.transposed else "plain"
        if _is_view(matrix.param):
            turned = f"flat {turned}"
        plan.split[plan.stored[role]] = (turned, role)
        if matrix.bias is not None:
            plan.split[_tensor(transform, node, matrix.bias)] = ("bias", role)


def _release(owner: Module, matrix: Matrix, stored: tuple[str, ...]) -> None:
    """The parameters belong to the fused layer now."""
    for param in (matrix.param, matrix.bias):
        base: Any = strip_casts(param)
        while is_op(base, "rearrange"):
            base = base.args[0]
        if is_op(base, "parameter"):
            holder, name = base.attrs["slot"]
            holder.attrs.pop(name, None)
