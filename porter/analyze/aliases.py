"""Other names of a tensor that is changed in place, and whether they are read again.

`x += 1` in a function that was handed x changes the caller's tensor too. The graph has
pure operations, so every name that still stands for the tensor would have to be bound
anew. A name that nothing reads any more sees nothing: `f(x)`, and x isn't read after it.

What reads later is decided by the text of the function that owns the name: a load behind
the statement that runs now, and `y += 1` is one; any load, where a loop may come back to
it or a function within may be called later. Of the statement that runs now at most one
load is allowed, that of the call which leads here: a second may be evaluated after it, or
wait for it.
"""

import ast
from collections.abc import Iterable
from typing import Any

_AGAIN = (ast.For, ast.While, ast.AsyncFor)
_WITHIN = (
    ast.Lambda,
    ast.FunctionDef,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)


def read_again(scope: Any, names: Iterable[str]) -> str | None:
    """One of the names in that call's scope that is read after now, None where none is.

    scope: an Env whose `node` is the function that it is a call of and whose `now` is
    the statement that it has come to.
    """
    wanted = set(names)
    function, now = scope.node, scope.now
    if not isinstance(function, ast.FunctionDef) or now is None:
        return next(iter(wanted), None)
    current = 0
    for load, inside in _loads(function, ()):
        if load.id not in wanted:
            continue
        if any(isinstance(node, _WITHIN) for node in inside):
            return load.id
        if any(isinstance(node, _AGAIN) and _holds(node, now) for node in inside):
            return load.id
        if now in inside:
            current += 1
            if current > 1:
                return load.id
        elif (load.lineno, load.col_offset) > (now.lineno, now.col_offset):
            return load.id
    return None


def _loads(node: ast.AST, inside: tuple[ast.AST, ...]):
    """The names that are read under a node, each with the nodes around it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name):
            changed = isinstance(node, ast.AugAssign)  # in place, where others see it
            if changed or not isinstance(child.ctx, ast.Store):
                yield child, inside
        else:
            yield from _loads(child, (*inside, child))


def _holds(node: ast.AST, statement: ast.stmt) -> bool:
    return any(child is statement for child in ast.walk(node))
