"""transformers' own renaming of checkpoints at load, read from its file, not run.

transformers 5 keeps, per class or model_type, a list of `WeightRenaming`s (and
`WeightConverter`s that reshape) that bring the names of the checkpoints on the hub to
those of its modules (`conversion_mapping.py`). A port loads those checkpoints too.
"""

import ast
import re
from collections.abc import Sequence
from pathlib import Path

from porter.analyze.model import Facts
from porter.emit.expert_names import converter_rules
from porter.gap import Gap, Refused
from porter.release import package_of
from porter.transforms.expert_weights import ExpertWeights


def renamings(facts: Facts, experts: Sequence[ExpertWeights] = ()) -> dict[str, str]:
    """regex in the checkpoint's names -> what replaces it, in order; renamings before the
    names of converters, as the library applies them.

    Raises Refused where the checkpoint's tensors are reshaped at load.
    """
    root = package_of(facts.file.path)
    path = root / "conversion_mapping.py" if root is not None else None
    if root is None or path is None or not path.is_file():
        return {}  # code outside the library has no entry in its table
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    tables, aliases = _tables(nodes), _aliases(nodes)
    model_type = facts.config.model_type or ""
    entry = _entry(tables, aliases, _architecture(root, model_type))
    if entry is None:
        entry = _entry(tables, aliases, model_type)
    out: dict[str, str] = {}
    merged: dict[str, str] = {}
    for item in entry or []:
        pair = _renaming(item) or _prefix_change(item)
        rules = converter_rules(item, list(experts)) if pair is None else None
        if rules is not None:
            merged |= rules
            continue
        if pair is None:
            raise Refused(
                [
                    Gap(
                        facts.file.shown,
                        facts.cls.node.lineno,
                        f"checkpoints of {facts.cls.name} are reshaped when "
                        f"transformers loads them ({_shown(path)}:{item.lineno})",
                        "weight converters aren't ported yet",
                    )
                ]
            )
        out[pair[0]] = pair[1]
    return out | merged


def _architecture(root: Path, model_type: str) -> str:
    """The library's own class for a model_type: what the file at hand calls it is no
    evidence."""
    path = root / "models" / "auto" / "modeling_auto.py"
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8")
    _, _, rest = text.partition("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
    table, _, _ = rest.partition("\n)\n")
    found = re.search(rf'\("{re.escape(model_type)}",\s*"(\w+)"\)', table)
    return found[1] if found else ""


def _shown(path: Path) -> str:
    return path.name


def _tables(nodes: list[ast.AST]) -> dict[str, list[ast.expr]]:
    """key -> the listed conversions, from the dictionaries in the file."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.List):
                    found.setdefault(str(key.value), value.elts)
    for stmt in nodes:  # statements of one body come in their order
        if isinstance(stmt, (ast.Assign, ast.AugAssign)):
            target = stmt.targets[0] if isinstance(stmt, ast.Assign) else stmt.target
            name = _entry_name(target)
            items = _listed(stmt.value, found)
            if name is not None and items is not None:
                before = found.get(name, []) if isinstance(stmt, ast.AugAssign) else []
                found[name] = [*before, *items]
    return found


def _entry_name(node: ast.expr) -> str | None:
    """key of `mapping[key]`"""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    return None


def _listed(value: ast.expr, found: dict[str, list[ast.expr]]) -> list | None:
    """A list, or another entry of the table, copied or not."""
    if isinstance(value, ast.List):
        return value.elts
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        value = value.func.value if value.func.attr == "copy" else value
    return found.get(_entry_name(value) or "")


def _aliases(nodes: list[ast.AST]) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    found.setdefault(str(key.value), str(value.value))
    return found


def _entry(tables, aliases, key: str):
    return tables.get(key, tables.get(aliases.get(key, "")))


def _renaming(item: ast.expr) -> tuple[str, str] | None:
    if not (
        isinstance(item, ast.Call) and getattr(item.func, "id", "") == "WeightRenaming"
    ):
        return None
    values = [*item.args, *(k.value for k in item.keywords)]
    if len(values) != 2 or not all(isinstance(v, ast.Constant) for v in values):
        return None
    return str(ast.literal_eval(values[0])), str(ast.literal_eval(values[1]))


def _prefix_change(item: ast.expr) -> tuple[str, str] | None:
    """A step that names have one more or less of, at their start or behind a first one
    (`PrefixChange` of transformers' core_model_loading.py)."""
    if not (
        isinstance(item, ast.Call) and getattr(item.func, "id", "") == "PrefixChange"
    ):
        return None
    named = zip(
        ("prefix_to_add", "prefix_to_remove", "model_prefix"), item.args, strict=False
    )
    given = {**dict(named), **{str(k.arg): k.value for k in item.keywords}}
    if not all(isinstance(v, ast.Constant) for v in given.values()):
        return None
    added, removed, first = (
        ast.literal_eval(given[name]) if name in given else None
        for name in ("prefix_to_add", "prefix_to_remove", "model_prefix")
    )
    start, kept = (rf"^{first}\.", f"{first}.") if first else ("^", "")
    if removed is not None:
        return rf"{start}{removed}\.(.+)", rf"{kept}\1"
    return rf"{start}(?!{added}\.)(.+)", rf"{kept}{added}.\1"
