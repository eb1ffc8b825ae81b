"""The front door of the compiler: a source in, a `Port` out, or `Refused`."""

import json
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from porter import __version__
from porter.analyze.first_step import MASK_ARGUMENT, accepts
from porter.analyze.folding import Defaults, Fold, read_folding
from porter.analyze.model import Facts, analyze
from porter.analyze.symbols import fields_of
from porter.emit.module_file import Emitted, emit
from porter.gap import FAULTS, NeedsConfig, Refused, UsageError, fault
from porter.pipeline import run
from porter.profiles import DEFAULT, profile_of
from porter.release import (
    installed_root,
    package_of,
    transformers_root,
    transformers_version,
    version_of,
)
from porter.source import SourceFile, SourceSet
from porter.transforms.base import Change


@dataclass(frozen=True)
class Port:
    """A generated vLLM model file. origins: line -> (source file, line) places.

    settled_by: fields of configs for which it stops at load, because one side of a branch
    on them was left out; a port made with such a config may have that side.
    """

    text: str
    file_name: str
    architecture: str
    model_type: str | None
    source: str
    report: dict[str, Any] = field(repr=False)
    origins: dict[int, list[tuple[str, int]]] = field(repr=False)
    changes: list[Change] = field(repr=False)
    settled_by: list[str] = field(default_factory=list)


def convert(
    source: str | Path,
    *,
    arch: str | None = None,
    text: str | None = None,
    profile: str = DEFAULT,
    config: Path | None = None,
) -> Port:
    """Compile a source: a modeling file, a model folder, or a model_type of transformers.

    text: replaces the file's text, in memory. Imports neither torch nor transformers.
    Raises Refused with its Gaps, UsageError for a caller's mistake.
    """
    profile_of(profile)  # a release that isn't known is said first
    path, arch = locate(source, arch)
    order = _Order(source, path, arch, text, profile, config)
    if config is not None:
        return _convert(order, read_folding(config))
    try:
        return _convert(order, None)
    except Refused as refusal:
        raise by_config(refusal, order) from refusal


@dataclass(frozen=True)
class _Order:
    """What `convert` was asked for, and the file that it is about."""

    source: str | Path
    path: Path
    arch: str | None
    text: str | None
    profile: str
    config: Path | None


def by_config(refusal: Refused, order: _Order) -> Refused:
    """The refusal, or NeedsConfig where the branches of one config can be ported."""
    defaults = Defaults()
    try:
        _convert(order, defaults)
    except Refused:
        return refusal
    fields = sorted(defaults.made.used) if defaults.made is not None else []
    if not fields:
        return refusal
    first, *rest = refusal.gaps
    advice = (
        "the branches of one config can be ported: give it with --config; "
        f"these fields decide: {', '.join(fields)}"
    )
    return NeedsConfig([replace(first, advice=advice), *rest], fields)


def _convert(order: _Order, folding: Fold | None) -> Port:
    facts = _analyze(order, folding, masked=False)
    try:
        return _write(order, facts)
    except Refused:
        if not _takes_mask(facts):
            raise
        try:  # some are causal only with the mask that generation hands them
            return _write(order, _analyze(order, folding, masked=True))
        except Refused:
            pass
        raise


def _takes_mask(facts: Facts) -> bool:
    forward = facts.interpreter.find_method(facts.root, "forward")
    return forward is not None and MASK_ARGUMENT in accepts(forward)


def _analyze(order: _Order, folding: Fold | None, masked: bool) -> Facts:
    sources = SourceSet()
    file = sources.load(order.path, order.text)
    try:
        return analyze(sources, file, order.arch, folding, masked)
    except FAULTS as error:
        raise fault(file.shown, 1, error) from error


def _write(order: _Order, facts: Facts) -> Port:
    path, file = order.path, facts.file
    described, again = describe_source(file, order.arch, order.source)
    if order.config is not None:
        again += f" --config {shlex.quote(str(order.config))}"
    if order.profile != DEFAULT:
        again += f" --vllm {order.profile}"
    header = _header(file, described, again)
    try:
        profile = profile_of(order.profile)
        changes = run(facts, profile.without)
        emitted = emit(facts, header, profile)
    except FAULTS as error:
        raise fault(file.shown, facts.cls.node.lineno, error) from error
    name = re.sub(r"^modeling_", "", path.stem)
    return Port(
        emitted.text,
        f"{name}.py",
        facts.cls.name,
        facts.config.model_type,
        described,
        _report(facts, emitted, changes, described),
        emitted.origins,
        changes,
        sorted(
            {name for cond in facts.interpreter.refused for name in fields_of(cond)}
        ),
    )


def locate(source: str | Path, arch: str | None) -> tuple[Path, str | None]:
    """The modeling file behind what the user named, and the class if that settles it."""
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, arch)
    if path.is_file():
        return path, arch
    if re.fullmatch(r"[A-Za-z0-9_\-]+", str(source)):
        folder = transformers_root() / "models" / str(source).replace("-", "_")
        found = folder / f"modeling_{folder.name}.py"
        if found.is_file():
            return found, arch
        raise UsageError(
            f"{source}: no such file, and no model_type of transformers "
            f"{transformers_version()}"
        )
    raise UsageError(f"{source}: no such file")


def _from_folder(folder: Path, arch: str | None) -> tuple[Path, str | None]:
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder}: no config.json in this folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path}: not a config: a JSON object was expected")
    target = (config.get("auto_map") or {}).get("AutoModelForCausalLM")
    if isinstance(target, str) and "--" not in target:
        module, _, name = target.rpartition(".")
        found = folder / f"{module}.py"
        if not found.is_file():
            raise UsageError(f"{found}: named by auto_map, but not there")
        return found, arch or name
    model_type = config.get("model_type")
    if not model_type:
        raise UsageError(f"{path}: neither auto_map nor model_type")
    architectures = config.get("architectures") or []
    named = next((a for a in architectures if a.endswith("ForCausalLM")), None)
    return locate(model_type, None)[0], arch or named


def describe_source(file: SourceFile, arch: str | None, source) -> tuple[str, str]:
    """How the header names the source, and the arguments that regenerate it."""
    extra = f" --arch {arch}" if arch else ""
    root = package_of(file.path)
    if root is None:
        return str(source), f"{shlex.quote(str(source))}{extra}"
    inside = file.path.relative_to(root).as_posix()
    model, shown = file.path.parent.name, str(source)
    if root == _chosen_root() and file.path.stem == f"modeling_{model}":
        shown = model
    if root != _installed_root() and shown == model:
        extra += f" --transformers {shlex.quote(str(root.parent))}"
    return f"transformers {version_of(root)} {inside}", f"{shlex.quote(shown)}{extra}"


def _chosen_root() -> Path | None:
    try:
        return transformers_root().resolve()
    except UsageError:
        return None


def _installed_root() -> Path | None:
    try:
        return installed_root().resolve()
    except UsageError:
        return None


def _header(file: SourceFile, described: str, again: str) -> str:
    lines = [file.licence] if file.licence else []
    if lines:
        lines.append("#")
    lines.append(f"# Generated by porter {__version__} from {described}")
    lines.append(f"# Regenerate: porter convert {again}")
    return "\n".join(lines)


def _report(
    facts: Facts, emitted: Emitted, changes: list[Change], described: str
) -> dict:
    fused: dict[str, int] = {}
    names = {
        "substitute_norms": "norm",
        "fuse_gate_up": "gate_up",
        "substitute_rope": "rope",
        "substitute_attention": "attention",
    }
    for change in changes:
        kind = names.get(change.transform)
        if kind:
            fused[kind] = fused.get(kind, 0) + 1
    qkv = {id(n.attrs["module"]) for n in _live(facts) if n.op == "qkv"}
    fused["qkv"] = len(qkv)
    plan = emitted.weights
    return {
        "version": 1,
        "source": described,
        "architecture": facts.cls.name,
        "model_type": facts.config.model_type,
        "classes": emitted.classes,
        "fused": fused,
        "layers": _layers(facts),
        "weights": {"stacked": {k: list(v) for k, v in plan.stacked.items()},
                    "prefixes": plan.prefixes, "suffixes": plan.suffixes,
                    "regrouped": [n for r in plan.layouts for n in r.names],
                    "ignored": plan.ignored,
                    "tied": emitted.tied},
        "changes": [{"transform": c.transform, "file": Path(c.span.file).name,
                     "source_line": c.span.line, "why": c.why} for c in changes],
        "gaps": [],
    }  # fmt: skip


def _live(facts: Facts):
    from porter.analyze.graph import walk

    return walk([facts.logits])


def _layers(facts: Facts) -> dict[str, str]:
    """module path -> the layer that it became."""
    out: dict[str, str] = {}
    for node in _live(facts):
        module = node.attrs.get("module")
        if module is not None and hasattr(module.replaced, "kind"):
            out[".".join(module.path)] = module.replaced.kind
    return out
