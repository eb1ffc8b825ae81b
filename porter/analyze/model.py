"""From a file to facts: find the causal LM and its config, and interpret its forward."""

import ast
from dataclasses import dataclass, field
from typing import Any

from porter.analyze.first_step import (
    accepts,
    arguments_of_a_step,
    cache_argument,
    check_first_step,
    logits_of,
)
from porter.analyze.folding import Decided, Fold
from porter.analyze.graph import Frame, Node, batch_axis, seq_axis, walk
from porter.analyze.initialisation import initialise_buffers
from porter.analyze.interpreter import Interpreter, lineage
from porter.analyze.legacy_cache import Past
from porter.analyze.legacy_cache import check as check_past
from porter.analyze.specialised import mentions
from porter.analyze.symbols import contains
from porter.analyze.values import Class, Config, External, Module
from porter.config_class import ConfigClass, read_config_class
from porter.gap import Gap, Refused, UsageError
from porter.source import SourceFile, SourceSet


@dataclass
class Facts:
    """What the analysis knows of a model; transforms read it and rewrite its graph."""

    file: SourceFile
    sources: SourceSet
    cls: Class
    config: ConfigClass
    root: Module
    frame: Frame
    logits: Node
    interpreter: Interpreter
    class_values: dict[str, Any] = field(default_factory=dict)
    default_rope_only: Any = None  # the rope type's Sym, where only the default is kept

    @property
    def folded(self) -> list[Decided]:
        """Conditions that the values of one config decided."""
        folding = self.interpreter.folding
        return list(folding.decided.values()) if folding is not None else []

    @property
    def frames(self) -> list[Frame]:
        return self.interpreter.frames


def find_causal_lm(sources: SourceSet, file: SourceFile, arch: str | None) -> Class:
    """The class to port: the one named, or the file's only `*ForCausalLM`.

    Raises UsageError where there is none, or several and no --arch.
    """
    classes = [
        v for v in file.names.values() if isinstance(v, Class) and v.file is file
    ]
    if arch is not None:
        for cls in classes:
            if cls.name == arch:
                return cls
        names = ", ".join(c.name for c in classes) or "none"
        raise UsageError(f"{file.shown}: no class {arch} (classes: {names})")
    found = [c for c in classes if c.name.endswith(("ForCausalLM", "LMHeadModel"))]
    if len(found) > 1:  # types of keyword arguments are called so too
        for cls in found:
            sources.lookup(file, cls.name)
        found = [c for c in found if any(map(_has_forward, lineage(c)))] or found
    if not found:
        for cls in classes:
            sources.lookup(file, cls.name)
            bases = [
                b.name for c in lineage(cls) for b in c.bases if isinstance(b, External)
            ]
            if any(b.endswith("GenerationMixin") for b in bases) and _has_forward(cls):
                found.append(cls)
    if not found:
        raise UsageError(
            f"{file.shown}: no causal language model (*ForCausalLM) in this file"
        )
    if len(found) > 1:
        names = ", ".join(c.name for c in found)
        raise UsageError(
            f"{file.shown}: several causal LMs: {names}; choose with --arch"
        )
    return found[0]


def _has_forward(cls: Class) -> bool:
    return any(
        isinstance(s, ast.FunctionDef) and s.name == "forward" for s in cls.node.body
    )


def find_config_class(sources: SourceSet, cls: Class) -> ConfigClass:
    """The config class of a model: transformers' `config: X` or `config_class = X`."""
    sources.lookup(cls.file, cls.name)
    for klass in lineage(cls):
        for stmt in klass.node.body:
            name = None
            if isinstance(stmt, ast.AnnAssign) and isinstance(stmt.target, ast.Name):
                if stmt.target.id in ("config", "config_class"):
                    name = stmt.value or stmt.annotation
            elif isinstance(stmt, ast.Assign) and isinstance(stmt.targets[0], ast.Name):
                if stmt.targets[0].id == "config_class":
                    name = stmt.value
            elif isinstance(stmt, ast.FunctionDef) and stmt.name == "__init__":
                name = stmt.args.args[1].annotation if len(stmt.args.args) > 1 else None
            found = _config_from(sources, klass, name)
            if found is not None:
                return found
    raise klass.file.gap(
        cls.node.lineno,
        f"the config class of {cls.name} can't be found",
        "annotate it as transformers does: `config: MyConfig` on the model's base class",
    )


def _config_from(sources: SourceSet, cls: Class, name) -> ConfigClass | None:
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
        name = ast.parse(name.value, mode="eval").body
    if not isinstance(name, ast.Name):
        return None
    found = sources.lookup(cls.file, name.id)
    if isinstance(found, Class):
        return read_config_class(sources, found)
    return None


def analyze(
    sources: SourceSet,
    file: SourceFile,
    arch: str | None,
    fold: Fold | None = None,
    masked: bool = False,
) -> Facts:
    """The facts of the file's causal LM, by following its forward.

    masked: forward is handed a mask of ones, as generation does; a model may be causal
    only then. Raises Refused with the first thing that can't be followed.
    """
    cls = find_causal_lm(sources, file, arch)
    if file.patched:
        raise file.gap(
            file.patched[0],
            "the file changes its definitions after making them",
            "write the change into the class or function itself",
        )
    fields = find_config_class(sources, cls)
    folding = fold(fields) if fold is not None else None
    interp = Interpreter(sources, file, Config(("config",), fields))
    interp.folding = folding
    try:
        return _follow(interp, cls, fields, None, masked)
    except Refused:
        if interp.caches:
            raise
        again = Interpreter(sources, file, Config(("config",), fields))
        again.folding = folding
        try:
            return _follow(again, cls, fields, Past(), masked)
        except Refused:
            if again.past.touched:
                raise
        raise


def _follow(
    interp: Interpreter,
    cls: Class,
    fields: ConfigClass,
    past: Past | None,
    masked: bool,
) -> Facts:
    """The facts, for a model that makes its own cache (past None) or is given one."""
    file, sources, config = interp.file, interp.sources, interp.config
    interp.line = cls.node.lineno
    root = interp.instantiate(cls, [config], {})
    initialise_buffers(interp, root)
    forward = interp.find_method(root, "forward")
    if forward is None:
        raise file.gap(cls.node.lineno, f"{cls.name} has no forward")
    input_ids = Node(
        "input_ids", (), {}, (batch_axis(), seq_axis()), None, interp.span()
    )
    input_ids.dtype = "int64"
    interp.line = forward.node.lineno
    given = arguments_of_a_step(interp, forward, input_ids, masked)
    takes_cache = cache_argument(interp, forward)
    if takes_cache is not None:
        if past is None:
            interp.given_cache = given[takes_cache]
        else:
            given[takes_cache] = past
    interp.cacheless = not any("past" in n or "cache" in n for n in accepts(forward))
    result = interp.call_in_frame(root, forward, [], given)
    interp.line = forward.node.lineno
    check_past(interp)
    logits = logits_of(result)
    if not isinstance(logits, Node):
        raise file.gap(
            forward.node.lineno, "forward returns no logits that can be followed"
        )
    for node in walk([logits]):
        if node.attrs.get("without_bias"):
            raise Refused(
                [
                    Gap(
                        node.span.file,
                        node.span.line,
                        "a layer's weight is used without its bias",
                        "a port's layer adds its bias itself",
                    )
                ]
            )
        scalars = [*node.args, *(v for n, v in node.attrs.items() if n != "unique")]
        if contains(scalars, "cached"):
            raise Refused(
                [
                    Gap(
                        node.span.file,
                        node.span.line,
                        "what is computed depends on whether a token is cached",
                    )
                ]
            )
        if mentions(scalars, None):
            raise Refused(
                [
                    Gap(
                        node.span.file,
                        node.span.line,
                        "a value of a loop over the layer types is used outside it",
                    )
                ]
            )
    if past is None:
        check_first_step(interp, root, forward, given, logits)
    facts = Facts(file, sources, cls, fields, root, interp.frames[0], logits, interp)
    for name in (
        "_tied_weights_keys",
        "base_model_prefix",
        "_keys_to_ignore_on_load_unexpected",
    ):
        facts.class_values[name] = interp.class_attribute(cls, name)
    return facts
