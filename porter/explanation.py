"""What `porter explain` knows of transforms, and of edits by hand in a port."""

import ast
import difflib
from importlib.resources import files

from porter.gap import UsageError


def transform_docs() -> dict[str, str]:
    """name -> docstring of each transform, read without importing it."""
    docs = {}
    for file in sorted(files("porter.transforms").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".py"):
            tree = ast.parse(file.read_text("utf-8"))
            if _defines_transform(tree):
                docs[file.name.removesuffix(".py")] = ast.get_docstring(tree) or ""
    return docs


def _defines_transform(tree: ast.Module) -> bool:
    return any(
        isinstance(base, ast.Name) and base.id == "Transform"
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    )


def docs_of(name: str) -> str:
    """The transform's specification. Raises UsageError for an unknown name."""
    docs = transform_docs()
    if name in docs:
        return docs[name]
    close = difflib.get_close_matches(name, docs, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    raise UsageError(
        f"no transform is called {name}.{meant} 'porter explain' lists them all"
    )


def generated_line(written: list[str], fresh: list[str], line: int) -> int | None:
    """The line of the fresh port that line `line` of the written file is, from 1.

    None where an edit by hand made it, so that no source line stands behind it.
    """
    matcher = difflib.SequenceMatcher(None, written, fresh, autojunk=False)
    for block in matcher.get_matching_blocks():
        if block.a < line <= block.a + block.size:
            return line - block.a + block.b
    return None
