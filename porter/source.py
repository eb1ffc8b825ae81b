"""Sources: parse a modeling file and those it imports, without running any of them."""

import ast
import functools
import io
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from porter.analyze.values import Class, External, Function
from porter.gap import Gap, Refused, UsageError
from porter.release import library_of


@dataclass(eq=False)
class SourceFile:
    """A parsed file. names: what each top-level name is bound to: a Class, a Function, an
    External, or the ast expression of an assignment."""

    path: Path
    shown: str
    text: str
    tree: ast.Module
    package: str
    names: dict[str, Any] = field(default_factory=dict)
    patched: list[int] = field(
        default_factory=list
    )  # lines that change what is defined

    def gap(self, line: int, what: str, advice: str = "") -> Refused:
        return Refused([Gap(self.shown, line, what, advice)])

    @functools.cached_property
    def licence(self) -> str:
        """The comment block at the top that carries the copyright."""
        lines = []
        for line in self.text.splitlines():
            if line.startswith("#"):
                lines.append(line)
            elif line.strip() or any("copyright" in ln.lower() for ln in lines):
                break
        blocks = re.split(r"(?m)^#\s*\U0001f6a8.*$", "\n".join(lines))
        kept = [b.strip("\n") for b in blocks if re.search("(?i)copyright|licen", b)]
        return "\n".join(kept).strip()

    @functools.cached_property
    def comments(self) -> dict[int, str]:
        """line -> the comment that stands alone on it."""
        found = {}
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if (
                token.type == tokenize.COMMENT
                and not token.line[: token.start[1]].strip()
            ):
                found[token.start[0]] = token.string
        return found


class SourceSet:
    """The files of one conversion, each parsed once."""

    def __init__(self) -> None:
        self.files: dict[Path, SourceFile] = {}

    def load(self, path: Path, text: str | None = None) -> SourceFile:
        path = path.resolve()
        if path in self.files and text is None:
            return self.files[path]
        if text is None:
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"{path}: can't be read: {error}") from error
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 0
            raise UsageError(f"{path}:{line}: not Python: {error}") from error
        file = SourceFile(path, _shown(path), text, tree, _package_of(path))
        self.files[path] = file
        self._bind(file)
        return file

    def _bind(self, file: SourceFile) -> None:
        for stmt in _top_level(file.tree.body):
            if _patches(stmt):
                file.patched.append(stmt.lineno)
            if isinstance(stmt, ast.ClassDef):
                file.names[stmt.name] = Class(stmt.name, stmt, file)
            elif isinstance(stmt, ast.FunctionDef):
                file.names[stmt.name] = Function(stmt, file)
            elif isinstance(stmt, ast.Import):
                for alias in stmt.names:
                    name = alias.asname or alias.name.split(".")[0]
                    target = alias.name if alias.asname else name
                    file.names[name] = External(target)
            elif isinstance(stmt, ast.ImportFrom):
                for alias in stmt.names:
                    origin = _Import(stmt.module or "", stmt.level, alias.name)
                    file.names[alias.asname or alias.name] = origin
            elif isinstance(stmt, ast.Assign) and isinstance(stmt.targets[0], ast.Name):
                name = stmt.targets[0].id
                if stmt in file.tree.body or name not in file.names:
                    file.names[name] = stmt.value
            elif isinstance(stmt, ast.AnnAssign) and isinstance(stmt.target, ast.Name):
                if stmt.value is not None:
                    file.names.setdefault(stmt.target.id, stmt.value)

    def lookup(self, file: SourceFile, name: str) -> Any:
        """What a top-level name of the file is bound to; imports are followed."""
        value = file.names.get(name)
        if isinstance(value, _Import):
            value = self._follow(file, value)
            file.names[name] = value
        if isinstance(value, Class) and not value.bases:
            value.bases = [self._base(value.file, b) for b in value.node.bases]
        return value

    def _base(self, file: SourceFile, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return self.lookup(file, node.id) or External(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._base(file, node.value)
            if isinstance(owner, External):
                if owner.name.split(".")[0] == "transformers":
                    return self._follow(file, _Import(owner.name, 0, node.attr))
                return owner.attr(node.attr)
        return External("object")

    def _follow(self, file: SourceFile, item: "_Import") -> Any:
        path = _resolve_module(file, item)
        if path is None:
            prefix = _absolute(file.package, item)
            return External(f"{prefix}.{item.name}" if prefix else item.name)
        if _is_author_file(path, file):
            target = self.load(path)
            found = self.lookup(target, item.name)
            if found is not None:
                return found
        return External(f"{_absolute(file.package, item)}.{item.name}")


@dataclass(frozen=True)
class _Import:
    module: str
    level: int
    name: str


def _patches(stmt: ast.stmt) -> bool:
    """A statement of the module that changes a class or function after its definition."""
    if isinstance(stmt, ast.Assign):
        return any(isinstance(t, (ast.Attribute, ast.Subscript)) for t in stmt.targets)
    if isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Call):
        return getattr(stmt.value.func, "id", "") in ("setattr", "exec", "delattr")
    return isinstance(stmt, (ast.For, ast.While, ast.AugAssign, ast.Delete, ast.With))


def _top_level(body):
    for stmt in body:
        if isinstance(stmt, (ast.If, ast.Try)):
            yield from _top_level(stmt.body)
            yield from _top_level(stmt.orelse)
        else:
            yield stmt


def _package_of(path: Path) -> str:
    parts = path.parts
    if "transformers" in parts:
        index = len(parts) - 1 - parts[::-1].index("transformers")
        return ".".join(parts[index:-1])
    return ""


def _absolute(package: str, item: _Import) -> str:
    if item.level == 0:
        return item.module
    base = package.split(".")[: len(package.split(".")) - item.level + 1]
    if not package:
        return item.module
    return ".".join([*base, item.module] if item.module else base)


def _resolve_module(file: SourceFile, item: _Import) -> Path | None:
    """The file behind an import that may be another author's modeling file."""
    if item.level:
        base = file.path.parent
        for _ in range(item.level - 1):
            base = base.parent
        candidate = base.joinpath(*item.module.split(".")) if item.module else base
    elif _EXPORTING.fullmatch(item.module):
        return _exported(library_of(file.path), item)
    elif item.module.startswith("transformers."):
        candidate = library_of(file.path).joinpath(*item.module.split(".")[1:])
    elif "." not in item.module:
        candidate = file.path.parent / item.module
    else:
        return None
    for path in (candidate.with_suffix(".py"), candidate / "__init__.py"):
        if path.is_file():
            return path
    return None


# Packages that hand on the classes of models' files.
_EXPORTING = re.compile(r"transformers|transformers\.models\.(?!auto$)\w+")


def _exported(library: Path, item: _Import) -> Path | None:
    """The file of a model's class that is imported from transformers itself, or from a
    model's folder: a folder whose name the class's begins with, the longest first."""
    _, _, named = item.module.partition("transformers.models.")
    folders = [library / "models" / named] if named else [
        f for f in _folders(library)
        if item.name.lower().startswith(f.name.replace("_", ""))
    ]  # fmt: skip
    kinds = ("configuration", "modeling")
    files = (p for f in folders for k in kinds for p in sorted(f.glob(f"{k}_*.py")))
    made = re.compile(rf"^class {item.name}\b", re.MULTILINE)
    return next((p for p in files if made.search(p.read_text(encoding="utf-8"))), None)


@functools.cache
def _folders(library: Path) -> list[Path]:
    """All but that of the Auto classes, which are no model's."""
    models = (library / "models").iterdir()
    found = [f for f in models if f.is_dir() and f.name != "auto"]
    return sorted(found, key=lambda f: (-len(f.name.replace("_", "")), f.name))


def _is_author_file(path: Path, importer: SourceFile) -> bool:
    """Model files are read; transformers' own library files are its API, but for those
    whose functions make tensors."""
    if "transformers" not in path.parts:
        return True
    inside = path.parts[path.parts.index("transformers") :]
    if path.name in _READ:
        return True
    return "models" in inside and path.name != "__init__.py"


_READ = ("modeling_attn_mask_utils.py",)


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
