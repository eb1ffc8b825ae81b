"""The whole file: header, imports, classes in order, formatted; and lines' origins."""

import ast
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

from porter import spec
from porter.analyze.model import Facts
from porter.analyze.symbols import config_field, describe
from porter.analyze.values import Module
from porter.emit.activations import ACT_AND_MUL
from porter.emit.causal_lm import CausalLMWriter, container, tied_embedding
from porter.emit.classes import ClassSet, Generated
from porter.emit.comments import Comments
from porter.emit.config_checks import (
    default_only_check,
    each_layer,
    folded_check,
    length_check,
    refused_check,
    rope_check,
    sizes_check,
    window_check,
)
from porter.emit.experts import ROUTING
from porter.emit.frames import FrameGraph
from porter.emit.imports import import_block
from porter.emit.lines import Line
from porter.emit.trunk import Trunk, TrunkWriter
from porter.emit.weights import WeightPlan, plan_weights
from porter.gap import CannotRun
from porter.profiles import release
from porter.profiles.profile import Profile


@dataclass
class Emitted:
    """text: the formatted file; origins: line of text -> [(source file, line)]."""

    text: str
    origins: dict[int, list[tuple[str, int]]]
    classes: list[str]
    weights: WeightPlan
    tied: str | None


def emit(facts: Facts, header: str, profile: Profile) -> Emitted:
    graph = FrameGraph(facts, profile)
    trunk = Trunk(graph)
    fields = facts.config
    position = config_field(("config",), fields.canonical("max_position_embeddings"))
    comments = Comments(list(facts.sources.files.values()))
    classes = ClassSet(graph, fields, position, comments)
    tied = tied_embedding(classes)
    chain = _chain(facts.root, trunk.inst)
    writer = TrunkWriter(classes, trunk, tied is not None, compiled=len(chain) == 1)
    body = writer.write()
    holders: list[Generated] = []
    made = body.name
    for i, inst in reversed(list(enumerate(chain[:-1]))):
        holder = container(inst, chain[i + 1].name, made, i == 0, profile)
        holders.append(holder)
        made = holder.name
    scopes = [*classes.scopes, writer.scope]
    plan = plan_weights(facts, graph, scopes)
    ropes = [r for s in scopes for r in s.ropes]
    checks, functions = _config_checks(facts, ropes, position, profile)
    windows = [window_check(n.attrs["window"]) for n in graph.order if n.op == "attend"]
    checks += dict.fromkeys(check for check in windows if check is not None)
    layers = trunk.loop.modules.count
    checks = list(dict.fromkeys(each_layer(text, layers) for text in checks))
    if "act_and_mul" in classes.imports:
        functions.append(ACT_AND_MUL)
    if "pack_routing" in classes.imports:
        functions.append(ROUTING)
    checks = [*_prepared(profile, [*classes.order, body, *holders], checks), *checks]
    root = CausalLMWriter(classes, trunk, plan, tied, checks)
    made_root = root.write()
    parts = [*classes.order, body, *holders, made_root]
    functions += _supplied(profile, functions, parts)
    raw = _join(functions, parts)
    text = "\n".join(line.text for line in raw)
    imports = import_block(text, profile)
    doc = f'"""Inference-only {facts.cls.name} for vLLM."""'
    whole = f"{header}\n{doc}\n\n{imports}\n\n\n{text}\n"
    formatted = format_text(whole)
    place = (facts.file.shown, facts.cls.node.lineno)
    spec.check(formatted, *place)
    release.check(formatted, profile, *place)
    origins = trace_lines(whole, formatted, raw, whole[: whole.index(text)].count("\n"))
    return Emitted(formatted, origins, [p.name for p in parts], plan, tied)


def _chain(root: Module, inst: Module) -> list[Module]:
    """The modules from the root's child down to the one with the layers."""
    chain: list[Module] = []
    current: Module | None = inst
    while current is not None and current is not root:
        chain.insert(0, current)
        current = current.owner
    return chain


def _config_checks(
    facts: Facts, ropes: list[Any], position, profile: Profile
) -> tuple[list[str], list[str]]:
    checks, functions = [], []
    checks += sorted(dict.fromkeys(folded_check(each) for each in facts.folded))
    checks += [refused_check(cond) for cond in facts.interpreter.refused]
    checks += [sizes_check(fact) for fact in facts.interpreter.sizes.checked]
    checks += dict.fromkeys(
        length_check(most, conds) for most, conds in facts.interpreter.most_tokens
    )
    if facts.default_rope_only is not None:
        checks.append(default_only_check(describe(facts.default_rope_only)))
    if ropes:
        table = ropes[0].attrs["table"]
        checks += dict.fromkeys(_rope_call(rope, position) for rope in ropes)
        any_factor = table.partial or facts.config.sets_partial_rotary
        any_factor = any_factor and not facts.config.names_proportional
        rotates = all(r.op == "rope" for r in ropes) and table.pairing == "halves"
        types = [
            t
            for t in table.types
            if (rotates or t not in ("longrope", "proportional"))
            and (t != "proportional" or facts.config.names_proportional)
            and all(t in r.attrs["table"].types for r in ropes)
        ]
        read = ["alpha"] * table.alpha + ["short_mscale", "long_mscale"] * table.mscale
        functions.append(rope_check(profile, any_factor, types, read))
    return checks, functions


def _rope_call(rope: Any, position) -> str:
    call = (
        f"check_rope({describe(rope.attrs['table'].parameters)}, {describe(position)}, "
        "vllm_config.model_config.max_model_len)"
    )
    cond = rope.attrs.get("cond")
    return call if cond is None else f"if {describe(cond)}:\n    {call}"


def _prepared(profile: Profile, parts: list[Generated], checks: list[str]) -> list[str]:
    """Lines by which the config is as the port reads it, whatever the release did to it."""
    words = _words(parts) | set(re.findall(r"\w+", "\n".join(checks)))
    return [text for word, text in profile.prepared.items() if word in words]


def _supplied(
    profile: Profile, functions: list[str], parts: list[Generated]
) -> list[str]:
    """Functions that the port brings along, where the release lacks what it needs."""
    words = _words(parts) | set(re.findall(r"\w+", "\n".join(functions)))
    return [text for name, text in profile.supplied.items() if name in words]


def _words(parts: list[Generated]) -> set[str]:
    return set(re.findall(r"\w+", "\n".join(ln.text for p in parts for ln in p.lines)))


def _join(functions: list[str], parts: list[Generated]) -> list[Line]:
    lines: list[Line] = []
    for text in functions:
        lines += [Line(text), Line("\n")]
    for part in parts:
        lines += [*part.lines, Line("\n")]
    return lines


def format_text(text: str) -> str:
    """ruff's formatter, with the defaults (88 columns).

    Raises CannotRun where ruff is missing or the text isn't Python (a fault of porter's).
    """
    ruff = _ruff()
    args = [ruff, "format", "--isolated", "--line-length", "88", "-"]
    done = subprocess.run(args, input=text, capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"the generated file can't be formatted: {done.stderr.strip()}")
    return done.stdout


def _ruff() -> str:
    """Of this Python's own installation, wherever that is; else of the PATH."""
    try:
        from ruff import find_ruff_bin

        return str(find_ruff_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("ruff")
    if found is None:
        raise CannotRun("ruff isn't installed: pip install ruff")
    return found


def trace_lines(raw: str, formatted: str, lines: list[Line], offset: int):
    """Formatted line -> source places. Formatting keeps the statements and their order, so
    the n-th statement of one text is the n-th of the other."""
    places: dict[int, list[tuple[str, int]]] = {}
    at = offset + 1
    for line in lines:
        for i in range(line.text.count("\n") + 1):
            places[at + i] = [(s.file, s.line) for s in line.spans]
        at += line.text.count("\n") + 1
    origins: dict[int, list[tuple[str, int]]] = {}
    pairs = zip(_statements(raw), _statements(formatted), strict=True)
    for old, new in pairs:
        found = places.get(old.lineno)
        if found:
            end = _head_end(new)
            for number in range(new.lineno, end + 1):
                origins[number] = found
    return origins


def _statements(text: str) -> list[ast.stmt]:
    found: list[ast.stmt] = []

    def visit(body) -> None:
        for stmt in body:
            found.append(stmt)
            for name in ("body", "orelse"):
                inner = getattr(stmt, name, None)
                if isinstance(inner, list):
                    visit(inner)

    visit(ast.parse(text).body)
    return found


def _head_end(stmt: ast.stmt) -> int:
    body = getattr(stmt, "body", None)
    if isinstance(body, list) and body:
        return max(stmt.lineno, body[0].lineno - 1)
    return stmt.end_lineno or stmt.lineno
