"""One form for files that differ in order or in single-use locals alone.

A reordered source may give a reordered port, since a port keeps its source's order, so
these variants are compared in this form as well as strictly.
"""

import ast

from tests.metamorphic.bind import bodies, inline_all
from tests.metamorphic.compare import without_docstrings
from tests.metamorphic.order import imported, independent


def ordered(text: str) -> str:
    """Definitions by name; adjacent independent assignments in one fixed order."""
    tree = without_docstrings(ast.parse(text))
    _order(tree)
    return ast.unparse(tree)


def bound(text: str) -> str:
    """Single-use locals inlined, then ordered."""
    tree = without_docstrings(ast.parse(text))
    inline_all(tree)
    _order(tree)
    return ast.unparse(tree)


def _order(tree: ast.Module) -> None:
    modules = imported(tree)
    definitions = (ast.ClassDef, ast.FunctionDef)
    found = [node for node in tree.body if isinstance(node, definitions)]
    places = iter(sorted(found, key=lambda node: node.name))
    tree.body = [
        next(places) if isinstance(node, definitions) else node for node in tree.body
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            _sort_keys(node)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for body in bodies(function):
                body[:] = _sorted(body, modules)


def _sort_keys(node: ast.Dict) -> None:
    """Weight maps follow the order of the modules; no lookup depends on it."""
    if all(isinstance(key, ast.Constant) for key in node.keys):
        pairs = list(zip(node.keys, node.values, strict=True))
        pairs.sort(key=lambda pair: ast.unparse(pair[0]) if pair[0] else "")
        node.keys, node.values = [k for k, _ in pairs], [v for _, v in pairs]


def _sorted(body: list[ast.stmt], modules: frozenset[str]) -> list[ast.stmt]:
    """Repeatedly the smallest statement that nothing left must precede."""
    left = [(ast.unparse(node), node) for node in body]
    out: list[ast.stmt] = []
    while left:
        free = [
            i
            for i in range(len(left))
            if all(independent(left[j][1], left[i][1], modules) for j in range(i))
        ]
        chosen = min(free, key=lambda i: left[i][0])
        out.append(left.pop(chosen)[1])
    return out
