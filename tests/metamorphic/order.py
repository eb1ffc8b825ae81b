"""Variants that reorder: independent statements, and definitions in the file."""

import ast
import random

from tests.metamorphic.effects import Effects, effects
from tests.metamorphic.names import module_names
from tests.metamorphic.rename import Names

Definition = ast.ClassDef | ast.FunctionDef


def reorder_statements(text: str, seed: int = 0) -> tuple[str, Names]:
    """Adjacent independent assignments change places, in all functions."""
    tree = ast.parse(text)
    chance = random.Random(seed)
    modules = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.If | ast.For):
            _shuffle(node.body, chance, modules)
            if not isinstance(node, ast.FunctionDef):
                _shuffle(node.orelse, chance, modules)
    return ast.unparse(tree) + "\n", Names()


def imported(tree: ast.Module) -> frozenset[str]:
    """Module-level names: reading them and calling through them moves nothing."""
    return frozenset(module_names(tree))


def independent(one: ast.stmt, two: ast.stmt, modules: frozenset[str]) -> bool:
    """Both are assignments, and neither touches what the other writes."""
    if not (_movable(one) and _movable(two)):
        return False
    return not _without(effects(one), modules).conflicts(
        _without(effects(two), modules)
    )


def _without(found: Effects, modules: frozenset[str]) -> Effects:
    return Effects(found.reads - modules, found.writes - modules)


def _movable(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) or (
        isinstance(node, ast.AnnAssign) and node.value is not None
    )


def _shuffle(
    body: list[ast.stmt], chance: random.Random, modules: frozenset[str]
) -> None:
    for _ in range(len(body)):
        for i in range(len(body) - 1):
            if chance.random() < 0.5 and independent(body[i], body[i + 1], modules):
                body[i], body[i + 1] = body[i + 1], body[i]


def move_definitions(text: str, seed: int = 0) -> tuple[str, Names]:
    """Helpers and classes in a random order that still defines before it uses."""
    tree = ast.parse(text)
    chance = random.Random(seed)
    definitions = [node for node in tree.body if isinstance(node, Definition)]
    names = {node.name for node in definitions}
    waiting = {node.name: defined_first(node) & names for node in definitions}
    by_name = {node.name: node for node in definitions}
    ordered: list[ast.stmt] = []
    while waiting:
        ready = sorted(name for name, needs in waiting.items() if not needs)
        chosen = chance.choice(ready)
        ordered.append(by_name[chosen])
        del waiting[chosen]
        for needs in waiting.values():
            needs.discard(chosen)
    places = iter(ordered)
    tree.body = [
        next(places) if isinstance(node, Definition) else node for node in tree.body
    ]
    return ast.unparse(tree) + "\n", Names()


def defined_first(node: Definition) -> set[str]:
    """Names that Python reads when it executes this definition."""
    found: set[str] = set()
    _read_at_definition(node, found)
    return found


def _read_at_definition(node: ast.AST, found: set[str]) -> None:
    if isinstance(node, ast.FunctionDef):
        arguments = node.args
        parts: list[ast.AST | None] = [
            *node.decorator_list,
            node.returns,
            *arguments.defaults,
            *arguments.kw_defaults,
            *(
                arg.annotation
                for arg in ast.walk(arguments)
                if isinstance(arg, ast.arg)
            ),
        ]
        for part in parts:
            if part is not None:
                _read_at_definition(part, found)
        return
    if isinstance(node, ast.Name):
        found.add(node.id)
    for child in ast.iter_child_nodes(node):
        _read_at_definition(child, found)
