"""Variants that bind: sub-expressions hoisted into locals, locals inlined."""

import ast
import random
from collections import Counter
from collections.abc import Iterator

from tests.metamorphic.effects import effects
from tests.metamorphic.order import imported
from tests.metamorphic.rename import Names

Simple = ast.Assign | ast.AnnAssign | ast.Return | ast.AugAssign


def hoist_locals(
    text: str, seed: int = 0, probability: float = 0.5
) -> tuple[str, Names]:
    """Calls and arithmetic inside statements are bound to fresh locals first."""
    tree = ast.parse(text)
    hoister = _Hoister(random.Random(seed), probability, imported(tree))
    for cls in tree.body:
        for function in ast.walk(cls):
            if isinstance(function, ast.FunctionDef):
                for body in bodies(function):
                    body[:] = hoister.block(body)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n", Names()


def bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """Every statement list of a function, its branches and loops."""
    for name in ("body", "orelse"):
        body = getattr(node, name, None)
        if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
            yield body
            for statement in list(body):
                if not isinstance(statement, ast.FunctionDef | ast.ClassDef):
                    yield from bodies(statement)


class _Hoister(ast.NodeTransformer):
    """Replaces some sub-expressions of one statement; `block` emits their bindings."""

    def __init__(
        self, chance: random.Random, probability: float, modules: frozenset[str]
    ):
        self.chance = chance
        self.probability = probability
        self.modules = modules
        self.count = 0
        self.bound: list[ast.stmt] = []
        self.depth = 0

    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        out: list[ast.stmt] = []
        for statement in body:
            self.bound = []
            if isinstance(statement, Simple) and statement.value is not None:
                self.depth = 0
                statement.value = _expression(self.visit(statement.value))
            out += [*self.bound, statement]
        return out

    def visit(self, node: ast.AST) -> ast.AST:
        # Parts that may not run, or run more than once, stay where they are.
        if isinstance(
            node,
            ast.Lambda
            | ast.IfExp
            | ast.BoolOp
            | ast.comprehension
            | ast.ListComp
            | ast.DictComp
            | ast.SetComp
            | ast.GeneratorExp
            | ast.JoinedStr
            | ast.NamedExpr,
        ):
            return node
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        if self.depth and isinstance(node, ast.Call | ast.BinOp) and self._take(node):
            name = f"hoisted_{self.count}"
            self.count += 1
            self.bound.append(ast.Assign([ast.Name(name, ast.Store())], node, lineno=0))
            return ast.Name(name, ast.Load())
        return node

    def _take(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "super":
            return False
        if effects(node).writes - self.modules:
            return False
        return self.chance.random() < self.probability


def inline_locals(text: str, seed: int = 0) -> tuple[str, Names]:
    """Locals that are used once move to their use, where the order allows it."""
    tree = ast.parse(text)
    inline_all(tree)
    return ast.unparse(tree) + "\n", Names()


def inline_all(tree: ast.Module) -> int:
    """Inline in place until nothing moves; returns how many locals went."""
    modules = imported(tree)
    gone = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            while _inline_one(node, modules):
                gone += 1
    return gone


def _inline_one(function: ast.FunctionDef, modules: frozenset[str]) -> bool:
    uses: Counter[tuple[str, type]] = Counter(
        (node.id, type(node.ctx))
        for node in ast.walk(function)
        if isinstance(node, ast.Name)
    )
    parameters = {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}
    for body in bodies(function):
        for i, statement in enumerate(body):
            name = _bound_name(statement)
            if name is None or name in parameters:
                continue
            if uses[name, ast.Store] != 1 or uses[name, ast.Load] != 1:
                continue
            value = statement.value  # type: ignore[attr-defined]
            if effects(value).writes - modules:
                continue
            if _move(name, value, body[i + 1 :], modules):
                del body[i]
                return True
    return False


def _bound_name(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target: ast.expr = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target = statement.target
    else:
        return None
    return target.id if isinstance(target, ast.Name) else None


def _move(
    name: str, value: ast.expr, after: list[ast.stmt], modules: frozenset[str]
) -> bool:
    """Put `value` in the place of `name` in the statement that uses it."""
    needed = effects(value).reads - modules
    for statement in after:
        found = effects(statement)
        if name in found.reads:
            if not isinstance(statement, Simple):
                return False
            put = _Put(name, value)
            if statement.value is not None:
                statement.value = _expression(put.visit(statement.value))
            return put.done
        writes = found.writes - modules
        if writes & needed or (
            any(path.startswith("self.") for path in writes)
            and any(path.startswith("self.") for path in needed)
        ):
            return False
    return False


def _expression(node: ast.AST) -> ast.expr:
    assert isinstance(node, ast.expr)
    return node


class _Put(ast.NodeTransformer):
    """Replace one Name; parts that may run again or not at all are left alone."""

    def __init__(self, name: str, value: ast.expr):
        self.name = name
        self.value = value
        self.done = False

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        return node

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.AST:
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id != self.name:
            return node
        self.done = True
        return self.value
