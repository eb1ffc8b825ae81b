"""What every transform is made of: the facts, the graph, and `change`, the only edit."""

from dataclasses import dataclass
from typing import Any

from porter.analyze.graph import Node, Span, iter_nodes, walk
from porter.analyze.model import Facts
from porter.analyze.values import Module
from porter.gap import Gap, Refused


@dataclass(frozen=True)
class Change:
    """One edit: which transform, at which place in the source, and why."""

    transform: str
    span: Span
    why: str


@dataclass(eq=False)
class Layer:
    """What a module becomes in the port. kind: the vLLM layer (or torch's); args: its
    constructor arguments, Syms and text; parallel: whether it takes quant_config."""

    kind: str
    args: dict[str, Any]
    parallel: bool = False
    prefix: bool = False
    source: str = ""


class Transform:
    """A rewrite of the value graph. Subclasses say in their docstring what they rewrite,
    why, and what they leave alone or refuse, and implement `run`."""

    def __init__(self, facts: Facts, changes: list[Change]):
        self.facts, self.changes = facts, changes

    @classmethod
    def name(cls) -> str:
        words = "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__)
        return words.strip("_")

    def run(self) -> None:
        raise NotImplementedError

    def apply(self) -> None:
        self.run()
        settle(self.facts)

    # -- reading

    def nodes(self) -> list[Node]:
        return walk([self.facts.logits])

    def users(self) -> dict[int, list[Node]]:
        out: dict[int, list[Node]] = {}
        for node in self.nodes():
            for dep in _reads(node):
                out.setdefault(dep.id, []).append(node)
        return out

    # -- writing

    def change(self, node: Node, new: Node, why: str) -> None:
        """Put `new` in the place of `node` and note it."""
        if new is not node:
            for frame, names in node.hints.items():
                mine = new.hints.setdefault(frame, [])
                mine.extend(n for n in names if n not in mine)
            node.forward = new
        self.note(node.span, why)

    def note(self, span: Span, why: str) -> None:
        self.changes.append(Change(self.name(), span, why))

    def make(self, op: str, args: tuple, like: Node, /, **attrs) -> Node:
        """A new node in the place of `like`: its axes, frame, loop and dtype."""
        axes = attrs.pop("axes", like.axes)
        dtype = attrs.pop("dtype", like.dtype)
        frame = attrs.pop("frame", like.frame)
        node = Node(op, args, attrs, axes, frame, like.span, like.loop, dtype)
        return node

    def gap(self, span: Span, what: str, advice: str = "") -> Refused:
        return Refused([Gap(span.file, span.line, what, advice)])


def _reads(node: Node) -> list[Node]:
    from porter.analyze.graph import dependencies

    return dependencies(node)


def settle(facts: Facts) -> None:
    """Make every node refer to what now stands in the place of its operands."""
    facts.logits = facts.logits.final
    for node in walk([facts.logits]):
        node.args = tuple(_settled(a) for a in node.args)
        for name, value in node.attrs.items():
            if name not in ("loop", "slot", "module") and _holds(value):
                node.attrs[name] = _settled(value)
        if node.op == "loop_exit":
            loop = node.attrs["loop"]
            loop.carried = [tuple(n.final for n in row) for row in loop.carried]


def _holds(value) -> bool:
    return any(True for _ in iter_nodes(value))


def _settled(value):
    if isinstance(value, Node):
        return value.final
    if isinstance(value, tuple):
        return tuple(_settled(v) for v in value)
    if isinstance(value, list):
        return [_settled(v) for v in value]
    if isinstance(value, dict):
        return {k: _settled(v) for k, v in value.items()}
    return value


def module_of(node: Node) -> Module:
    return node.attrs["module"]
