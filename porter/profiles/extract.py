"""Read from a vLLM release what model files use of it: names and signatures.

    python -m porter.profiles.extract 0.26 vllm-0.26.0-*.whl MODULE:NAME...

writes `facts/0.26.json`, of what ports import and of further names: the tests hold the
methods of a port against those of a model of the release. The wheel, or the folder that
holds `vllm`, is read and not imported, so that any release can be read beside any other.
A name's entry is the signature of its call; a class also has those of the methods that
ports call.
"""

import ast
import json
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from porter.profiles import profile_of

FACTS = Path(__file__).parent / "facts"
_METHODS = (
    "forward", "forward_native", "tie_weights", "load_weights", "apply",
    "get_cache_scale", "embed_input_ids", "get_input_embeddings", "compute_logits",
    "sample",
)  # fmt: skip


class Release:
    """The modules of a wheel or of a folder, parsed."""

    def __init__(self, source: Path):
        self.source = source
        self.zip = zipfile.ZipFile(source) if source.is_file() else None
        self.tree = cache(self._tree)

    def _read(self, path: str) -> str | None:
        if self.zip is not None:
            return self.zip.read(path).decode() if path in self.zip.namelist() else None
        file = self.source / path
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def _tree(self, module: str) -> tuple[ast.Module, bool] | None:
        """The parsed module, and whether it is a package."""
        path = module.replace(".", "/")
        for file, package in ((f"{path}/__init__.py", True), (f"{path}.py", False)):
            text = self._read(file)
            if text is not None:
                return ast.parse(text), package
        return None

    def definition(self, module: str, name: str) -> tuple[str, Any] | None:
        """(module, last definition) of a name, through re-exports."""
        found: tuple[str, Any] | None = None
        parsed = self.tree(module)
        for node in parsed[0].body if parsed else ():
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
                found = module, node
            elif isinstance(node, ast.Assign):
                if any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                    found = module, node
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        source = self._imported(module, node)
                        found = self.definition(source, alias.name) or found
                    elif alias.name == "*" and found is None:
                        found = self.definition(self._imported(module, node), name)
        return found

    def _imported(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parsed = self.tree(module)
        package = module.split(".") if parsed and parsed[1] else module.split(".")[:-1]
        package = package[: len(package) - node.level + 1]
        return ".".join([*package, node.module] if node.module else package)

    def method(self, module: str, node: ast.ClassDef, name: str) -> Any:
        """The class's method, or that of the first base that has it."""
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == name:
                return item
        for base in node.bases:
            if isinstance(base, ast.Name):
                found = self.definition(module, base.id)
                if found is not None and isinstance(found[1], ast.ClassDef):
                    method = self.method(*found, name)
                    if method is not None:
                        return method
        return None


def facts_of(release: Release, imports: dict[str, list[str]]) -> dict[str, Any]:
    """module -> name -> {"call": signature, method: signature}."""
    out: dict[str, Any] = {}
    for module, names in sorted(imports.items()):
        for name in sorted(names):
            found = release.definition(module, name)
            if found is not None:
                out.setdefault(module, {})[name] = _entry(release, *found)
    return out


def _entry(release: Release, module: str, node: Any) -> dict[str, str]:
    if isinstance(node, ast.FunctionDef):
        return {"call": signature(node.args)}
    if not isinstance(node, ast.ClassDef):
        return {}
    entry = {}
    made = release.method(module, node, "__init__")
    if made is not None:
        entry["call"] = signature(made.args, bound=True)
    elif any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        entry["call"] = _fields(node)
    for name in _METHODS:
        method = release.method(module, node, name)
        if method is not None:
            entry[name] = signature(method.args, bound=True)
    return entry


def signature(args: ast.arguments, bound: bool = False) -> str:
    """The parameters without annotations; a default that isn't a literal is `...`."""
    made = ast.parse(f"def f({ast.unparse(args)}): ...").body[0]
    assert isinstance(made, ast.FunctionDef)
    bare = made.args
    for arg in [
        *bare.posonlyargs,
        *bare.args,
        *bare.kwonlyargs,
        bare.vararg,
        bare.kwarg,
    ]:
        if arg is not None:
            arg.annotation = None
    if bound and bare.args:
        bare.args.pop(0)
    bare.defaults = [_literal(d) for d in bare.defaults]
    bare.kw_defaults = [None if d is None else _literal(d) for d in bare.kw_defaults]
    return ast.unparse(bare)


def _literal(node: ast.expr) -> ast.expr:
    try:
        ast.literal_eval(node)
    except ValueError:
        return ast.Constant(...)
    return node


def _fields(node: ast.ClassDef) -> str:
    fields = [
        item.target.id + ("" if item.value is None else "=...")
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]
    return ", ".join(fields)


def wanted(name: str, further: list[str]) -> dict[str, list[str]]:
    """What is read of a release: what ports import, and further `module:name`s."""
    found = {m: list(n) for m, n in profile_of(name).imports.items()}
    for each in further:
        module, _, attribute = each.partition(":")
        found.setdefault(module, []).append(attribute)
    return found


def main() -> None:
    name, source, further = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    facts = facts_of(Release(source), wanted(name, further))
    FACTS.mkdir(exist_ok=True)
    text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
    (FACTS / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
