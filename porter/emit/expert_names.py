"""The converters of transformers' table that merge experts, as renamings.

transformers merges the experts of a checkpoint as it loads it. The fused layer loads each
expert's tensors as they are stored, so that what is left of a converter is its names.
"""

import ast
import re

from porter.transforms.expert_weights import ExpertWeights


def converter_rules(
    item: ast.expr, plans: list[ExpertWeights]
) -> dict[str, str] | None:
    """regex -> replacement for one `WeightConverter`; None where it does something else."""
    if not (isinstance(item, ast.Call) and getattr(item.func, "id", "") == (
        "WeightConverter"
    )):  # fmt: skip
        return None
    given = {k.arg: k.value for k in item.keywords}
    names = ("source_patterns", "target_patterns", "operations")
    given |= dict(zip(names, item.args, strict=False))
    sources, targets = (_strings(given.get(n)) for n in names[:2])
    operations = [_operation(o) for o in getattr(given.get("operations"), "elts", [])]
    if sources is None or targets is None or len(targets) != 1:
        return None
    out: dict[str, str] = {}
    found = False
    for plan in plans:
        roles = _roles(plan, targets[0], operations, len(sources))
        if roles is None:
            continue
        found = True
        for source, role in zip(sources, roles, strict=True):
            old, new = _rename(source, role, plan, targets[0])
            if new is None:
                return None
            if old.replace("\\.", ".") != new.replace("\\1", r"(\d+)"):
                out[old] = new
    return out if found else None


def _roles(plan: ExpertWeights, target: str, operations, count: int):
    """Which of an expert's matrices each source of a converter is."""
    for role, stored in plan.stored.items():
        path = ".".join("0" if step == "*" else step for step in stored)
        if not ("." + path).endswith("." + target.lstrip(".")):
            continue
        kinds = {kind for kind, _ in plan.split.values()}
        if plan.transposed or kinds - {"plain"} or plan.layout == "interleaved":
            return None
        if role == "gate_up":
            wanted = [("MergeModulelist", 0), ("Concatenate", 1)]
            if count == 2 and operations == wanted:
                return plan.rows["gate_up"]
        elif count == 1 and operations == [("MergeModulelist", 0)]:
            return (role,)
        return None
    return None


def _rename(source: str, role: str, plan: ExpertWeights, target: str):
    """(regex, replacement) of one source; the replacement is None where paths differ."""
    head, _, tail = source.partition(".*.")
    stored = next(iter(plan.stored.values()))
    above = stored[: len(stored) - len(target.lstrip(".").split("."))]
    dot = "." if source.startswith(".") else ""
    end = tail.removesuffix("weight")
    old = re.escape(dot + head.lstrip(".")) + r"\.(\d+)\." + re.escape(end)
    if plan.path[: len(above)] != above or not end.endswith("."):
        return old, None
    steps = ".".join(plan.path[len(above) :])
    return old, f"{dot}{steps}.\\1.{role}_proj."


def _strings(node) -> list[str] | None:
    items = node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node]
    found = [i.value for i in items if isinstance(i, ast.Constant)]
    names = [v for v in found if isinstance(v, str)]
    return names if len(names) == len(items) else None


def _operation(node: ast.expr) -> tuple[str, object]:
    if not isinstance(node, ast.Call):
        return "?", None
    values = [*node.args, *(k.value for k in node.keywords)]
    plain = [v.value for v in values if isinstance(v, ast.Constant)]
    first = plain[0] if len(plain) == 1 == len(values) else None
    return getattr(node.func, "id", "?"), first
