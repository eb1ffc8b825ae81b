"""What a statement reads and writes, coarsely: enough to move it safely."""

import ast
from dataclasses import dataclass

# Methods of tensors, sizes and dicts that change nothing; any other method call on a
# local counts as a write to it (a cache's `update`).
PURE_METHODS = frozenset(
    """
    abs amax chunk clone contiguous cos expand flatten float get get_interface items
    keys log_softmax long mean permute pow repeat_interleave reshape size softmax split
    square sin sum to transpose type_as unbind unflatten unsqueeze values view
    """.split()
)
WHOLE_SELF = "self.*"


@dataclass(frozen=True)
class Effects:
    """Names and `self.x` paths that something reads and writes."""

    reads: frozenset[str]
    writes: frozenset[str]

    def conflicts(self, other: "Effects") -> bool:
        return bool(
            _meet(self.writes, other.reads | other.writes)
            or _meet(other.writes, self.reads)
        )


def _meet(some: frozenset[str], others: frozenset[str]) -> bool:
    if some & others:
        return True
    if WHOLE_SELF in some and any(name.startswith("self.") for name in others):
        return True
    return WHOLE_SELF in others and any(name.startswith("self.") for name in some)


def effects(node: ast.AST) -> Effects:
    """Reads and writes of everything below `node`."""
    reads: set[str] = set()
    writes: set[str] = set()
    _collect(node, reads, writes)
    return Effects(frozenset(reads), frozenset(writes))


def _collect(node: ast.AST, reads: set[str], writes: set[str]) -> None:
    if isinstance(node, ast.Attribute) and _is_self(node.value):
        place = writes if isinstance(node.ctx, ast.Store) else reads
        place.add(f"self.{node.attr}")
        return
    if isinstance(node, ast.Name):
        if node.id == "self":
            reads.add(WHOLE_SELF)
        elif isinstance(node.ctx, ast.Load):
            reads.add(node.id)
        else:
            writes.add(node.id)
        return
    if isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(
        node.ctx, ast.Load
    ):
        writes |= {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
    if isinstance(node, ast.Call):
        writes |= _mutated(node)
    for child in ast.iter_child_nodes(node):
        _collect(child, reads, writes)


def _mutated(call: ast.Call) -> set[str]:
    """The local whose unknown method is called, if this is such a call."""
    callee = call.func
    if not isinstance(callee, ast.Attribute) or callee.attr in PURE_METHODS:
        return set()
    root: ast.expr = callee.value
    while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
        root = root.func if isinstance(root, ast.Call) else root.value
    if not isinstance(root, ast.Name) or root.id == "self":
        return set()
    # `torch.f(...)` and `nn.functional.f(...)`: modules, which nothing assigns.
    return {root.id}


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def is_pure(node: ast.AST, modules: frozenset[str]) -> bool:
    """No assignment and no unknown call on a local; `modules` are imported names."""
    return not (effects(node).writes - modules)
