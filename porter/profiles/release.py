"""Whether a release has what a port uses of it: each import, and each call's arguments.

The facts are read from the release by `porter.profiles.extract`. What the release lacks
is a Gap: an argument that came in a later release can't be left out without changing what
the port computes.
"""

import ast
import builtins
import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

from porter.gap import Gap, Refused
from porter.profiles.profile import Profile

_FACTS = Path(__file__).parent / "facts"
Entry = dict[str, str]


def check(text: str, profile: Profile, source: str, line: int) -> None:
    """Raise Refused, at the class that is ported, where the release lacks something."""
    found = faults(text, profile)
    if found:
        advice = "port for a later release with --vllm"
        what = f"vLLM {profile.release} can't run the port: "
        raise Refused([Gap(source, line, what + fault, advice) for fault in found])


def faults(text: str, profile: Profile) -> list[str]:
    """What a port uses that the release doesn't have, or calls in another way."""
    tree = ast.parse(text)
    names, found = _imported(tree, facts(profile.release))
    found += [f"it has no {name}" for name in _unbound(tree)]
    for cls in [n for n in tree.body if isinstance(n, ast.ClassDef)]:
        layers = _layers(cls, names)
        for call in [n for n in ast.walk(cls) if isinstance(n, ast.Call)]:
            call.keywords = [k for k in call.keywords if k.arg not in profile.passed_on]
            found += _call_faults(call, names, layers)
    return list(dict.fromkeys(found))


@cache
def facts(release: str) -> dict[str, dict[str, Entry]]:
    """module -> name -> {"call": signature, method: signature} of a release."""
    return json.loads((_FACTS / f"{release}.json").read_text(encoding="utf-8"))


def _imported(
    tree: ast.Module, known: dict[str, dict[str, Entry]]
) -> tuple[dict[str, Entry], list[str]]:
    names: dict[str, Entry] = {}
    missing = []
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if node.module.split(".")[0] != "vllm":
            continue
        for alias in node.names:
            entry = known.get(node.module, {}).get(alias.name)
            if entry is None:
                missing.append(f"it has no {node.module}.{alias.name}")
            else:
                names[alias.name] = entry
    return names, missing


def _unbound(tree: ast.Module) -> list[str]:
    """Names that are read and nowhere bound: of a layer that the release doesn't have."""
    read, bound = [], set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                read.append(node.id)
            else:
                bound.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
    return [name for name in dict.fromkeys(read) if name not in bound]


def _layers(cls: ast.ClassDef, names: dict[str, Entry]) -> dict[str, tuple[str, Entry]]:
    """attribute -> (class, entry) of what the class builds from vLLM's, the first time:
    what stands in for it on other pipeline stages comes after."""
    out: dict[str, tuple[str, Entry]] = {}
    for node in ast.walk(cls):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        target, func = node.targets[0], node.value.func
        if isinstance(target, ast.Attribute) and isinstance(func, ast.Name):
            if func.id in names:
                out.setdefault(target.attr, (func.id, names[func.id]))
    return out


def _call_faults(
    call: ast.Call, names: dict[str, Entry], layers: dict[str, tuple[str, Entry]]
) -> list[str]:
    func = call.func
    if isinstance(func, ast.Name) and func.id in names:
        return _bind(call, func.id, names[func.id].get("call"))
    if not isinstance(func, ast.Attribute):
        return []
    if _is_self(func.value) and func.attr in layers:  # self.layer(...)
        kind, entry = layers[func.attr]
        signature = entry.get("forward_native", entry.get("forward"))
        return _bind(call, f"{kind}.forward", signature)
    if isinstance(func.value, ast.Attribute) and _is_self(func.value.value):
        kind, entry = layers.get(func.value.attr, ("", {}))
        return _bind(call, f"{kind}.{func.attr}", entry.get(func.attr))
    return []


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _bind(call: ast.Call, shown: str, signature: str | None) -> list[str]:
    starred = any(isinstance(a, ast.Starred) for a in call.args)
    if signature is None or starred or any(k.arg is None for k in call.keywords):
        return []
    try:
        _function(signature).bind(*call.args, **{str(k.arg): k for k in call.keywords})
    except TypeError as error:
        return [f"{shown}: {error}"]
    return []


@cache
def _function(signature: str) -> inspect.Signature:
    made: dict[str, Any] = {}
    exec(f"def f({signature}): ...", made)  # parameters with literal defaults alone
    known = inspect.signature(made["f"])
    if list(known.parameters) in (["args", "kwargs"], ["kwargs"]):
        return known
    # Any keyword would do for `**kwargs`, and fail in the layer behind it.
    kept = [p for p in known.parameters.values() if p.kind is not p.VAR_KEYWORD]
    return known.replace(parameters=kept)
