"""What a config class declares, read from its file: fields, defaults, aliases."""

import ast
from dataclasses import dataclass, field
from typing import Any

from porter.analyze.values import Class, External
from porter.release import installed_root, library_of, package_of
from porter.source import SourceFile, SourceSet

_REQUIRED = object()
_PARTIAL = "partial_rotary_factor"


@dataclass
class ConfigClass:
    """fields: name -> default (None where it isn't a literal); optional: those that may
    be None after construction; aliases: transformers' attribute_map."""

    name: str
    model_type: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)
    sub_configs: dict[str, str] = field(default_factory=dict)
    properties: set[str] = field(default_factory=set)
    annotations: dict[str, str] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)  # strings in its methods

    def declares(self, name: str) -> bool:
        return name in self.fields or name in self.aliases or name in self.properties

    @property
    def sets_partial_rotary(self) -> bool:
        """Whether its rope parameters get a partial_rotary_factor of their own."""
        return any(_PARTIAL in s for s in (self.words, self.fields, self.aliases))

    @property
    def names_proportional(self) -> bool:
        """Whether the class has the rope type that rotates a part of all frequencies: there
        partial_rotary_factor is the type's own."""
        return "proportional" in self.words

    def is_size(self, name: str) -> bool:
        """A number that the class never leaves None: used as a size, it isn't 0."""
        if name not in self.fields or name in self.optional:
            return False
        kind, default = self.annotations.get(name, ""), self.fields[name]
        if isinstance(default, bool) or "bool" in kind or default == 0:
            return False
        return "int" in kind or isinstance(default, int)

    def may_be_none(self, name: str) -> bool:
        """Of a declared field. A class without types says nothing of a size: configs turn
        a window off by None, whatever its default."""
        return name in self.optional or (
            name not in self.annotations and self.is_size(name)
        )

    def canonical(self, name: str) -> str:
        return self.aliases.get(name, name)


def read_config_class(sources: SourceSet, cls: Class) -> ConfigClass:
    """Follow the bases up to transformers' PreTrainedConfig; later ones override."""
    out = ConfigClass(cls.name)
    for klass in reversed(_lineage(sources, cls)):
        if klass.name in ("PreTrainedConfig", "PretrainedConfig"):
            _read_body(klass, out)
            out.words = set()
            continue
        _read_body(klass, out)
    out.words |= _words_of_the_engine(cls)
    return out


def _words_of_the_engine(cls: Class) -> set[str]:
    """Of a class of another release: the partial_rotary_factor that the installed release's
    file sets, which makes the config that the engine hands to the port."""
    package, installed = package_of(cls.file.path), installed_root().resolve()
    if package is None or package == installed:
        return set()
    file = installed / cls.file.path.resolve().relative_to(package)
    if not file.is_file():
        return set()
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    sets = any(isinstance(n, ast.Constant) and n.value == _PARTIAL for n in nodes)
    return {_PARTIAL} if sets else set()


def _lineage(sources: SourceSet, cls: Class) -> list[Class]:
    line = [cls]
    sources.lookup(cls.file, cls.name)
    for base in cls.bases:
        if isinstance(base, Class):
            line += _lineage(sources, base)
        elif isinstance(base, External) and base.name.lower().endswith(
            "pretrainedconfig"
        ):
            path = library_of(cls.file.path) / "configuration_utils.py"
            file: SourceFile = sources.load(path)
            for name in ("PreTrainedConfig", "PretrainedConfig"):
                found = file.names.get(name)
                if isinstance(found, Class):
                    line.append(found)
                    break
    return line


def _read_body(cls: Class, out: ConfigClass) -> None:
    for stmt in cls.node.body:
        if isinstance(stmt, ast.AnnAssign) and isinstance(stmt.target, ast.Name):
            name = stmt.target.id
            if "ClassVar" in ast.unparse(stmt.annotation):
                _class_attribute(name, stmt.value, out)
                continue
            if stmt.value is not None and name in ("model_type", "attribute_map"):
                _class_attribute(name, stmt.value, out)
                continue
            out.fields[name] = _literal(stmt.value)
            out.annotations[name] = ast.unparse(stmt.annotation)
            if "None" in ast.unparse(stmt.annotation):
                out.optional.add(name)
            else:
                out.optional.discard(name)
        elif isinstance(stmt, ast.Assign) and isinstance(stmt.targets[0], ast.Name):
            _class_attribute(stmt.targets[0].id, stmt.value, out)
        elif isinstance(stmt, ast.FunctionDef):
            _read_method(stmt, out)


def _class_attribute(name: str, value: ast.expr | None, out: ConfigClass) -> None:
    literal = _literal(value)
    if name == "model_type" and isinstance(literal, str):
        out.model_type = literal
    elif name == "attribute_map" and isinstance(literal, dict):
        out.aliases.update(literal)
    elif name == "sub_configs" and isinstance(value, ast.Dict):
        for k, v in zip(value.keys, value.values, strict=True):
            if isinstance(k, ast.Constant):
                out.sub_configs[str(k.value)] = ast.unparse(v)
    elif name in out.fields:
        out.fields[name] = literal


def _read_method(method: ast.FunctionDef, out: ConfigClass) -> None:
    out.words |= {
        node.value
        for node in ast.walk(method)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    if any(
        isinstance(d, ast.Name) and d.id == "property" for d in method.decorator_list
    ):
        out.properties.add(method.name)
    defaults = {}
    if method.name == "__init__":
        args = method.args.args[1:]
        padding = [None] * (len(args) - len(method.args.defaults))
        for arg, default in zip(args, [*padding, *method.args.defaults], strict=True):
            defaults[arg.arg] = _literal(default)
    for stmt in ast.walk(method):
        target = None
        if isinstance(stmt, ast.Assign):
            target, value = stmt.targets[0], stmt.value
        elif isinstance(stmt, ast.AnnAssign) and stmt.value is not None:
            target, value = stmt.target, stmt.value
        if not (isinstance(target, ast.Attribute) and _is_self(target.value)):
            continue
        name = target.attr
        if name not in out.fields and _settled(value):
            out.fields[name] = None
            out.annotations[name] = "int"
            continue
        if name not in out.fields:
            if isinstance(value, ast.Name) and value.id in defaults:
                out.fields[name] = defaults[value.id]
            else:
                out.fields[name] = _literal(value)
            if out.fields[name] is None:
                out.optional.add(name)
    for stmt in method.body:
        _settle_none(stmt, out)


def _settled(value: ast.expr) -> bool:
    """`f if f is not None else a // b`: a size, never None."""
    return isinstance(value, ast.IfExp) and any(
        isinstance(side, ast.BinOp) and isinstance(side.op, ast.FloorDiv)
        for side in (value.body, value.orelse)
    )


def _settle_none(stmt: ast.stmt, out: ConfigClass) -> None:
    """`if self.f is None: self.f = ...` (or `self.f = f`'s twin) leaves no None."""
    if not isinstance(stmt, ast.If) or not isinstance(stmt.test, ast.Compare):
        return
    test = stmt.test
    if not (isinstance(test.ops[0], ast.Is) and len(stmt.body) == 1):
        return
    tested = ast.unparse(test.left).removeprefix("self.")
    body = stmt.body[0]
    if isinstance(body, ast.Assign):
        assigned = ast.unparse(body.targets[0]).removeprefix("self.")
        if assigned == tested:
            out.optional.discard(tested)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return None
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg == "default":
                return _literal(keyword.value)
        if node.args == [] and node.keywords == [] and isinstance(node.func, ast.Call):
            return _literal(node.func)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError):
        return None
