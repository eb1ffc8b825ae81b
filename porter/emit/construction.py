"""Tensors that a constructor computes, as statements: tables, masks' slopes, frequencies.

The arithmetic is the source's own and keeps its names; what depends on the config stays a
branch. A small expression is written in place.
"""

from typing import Any

from porter.analyze.graph import Frame, Node
from porter.emit.method import Body
from porter.gap import Gap, Refused


class _NoCalls:
    """The frame graph of a constructor: nothing of it lies in a call of another module."""

    position: dict[int, int] = {}

    def inside(self, node: Node, frame: Frame | None) -> bool:
        return False

    def free(self, frame: Frame | None) -> list[Node]:
        return []


class _Scope:
    """What a body asks of the class that it stands in, answered by its constructor."""

    def __init__(self, constructor: Any):
        self.constructor = constructor
        self.imports = constructor.imports

    def number(self, value, level: int = 0) -> str:
        return self.constructor.number(value, level)

    def condition(self, cond, body, sides) -> str:
        return self.constructor.number(cond)

    def fallback(self, node: Node, body) -> list[str]:
        return ["table"]

    def render(self, node: Node, body) -> None:
        return None

    def is_statement(self, node: Node) -> bool:
        return False

    is_cheap = is_grouped = returns_bias = is_statement

    def group(self, node: Node, body) -> None:
        return None

    def group_keys(self, node: Node) -> set[int]:
        return set()

    def unbound(self, node: Node, frame: Frame | None) -> None:
        raise Refused(
            [
                Gap(
                    node.span.file,
                    node.span.line,
                    f"a constructor would need `{node.op}`",
                    "a port's constructor knows the config, not the tokens",
                )
            ]
        )


class ConstructorBody(Body):
    """Statements of a constructor that compute one tensor."""

    def __init__(self, constructor: Any, reserved: set[str]):
        super().__init__(_NoCalls(), None, _Scope(constructor))  # type: ignore[arg-type]
        self.reserved = {"self", "config", "prefix", "layer_idx", *reserved}

    def _dtype(self, node: Node) -> str:
        return "torch.get_default_dtype()"

    def value(self, node: Node, level: int = 0) -> tuple[list[str], str]:
        """(statements, expression) that compute a constant node; level: how strongly the
        expression must bind."""
        self.plan([node])
        self.prepare(node)
        text = self.operand(node, level)
        return [line.text for line in self.finished({}, node.span)], text
