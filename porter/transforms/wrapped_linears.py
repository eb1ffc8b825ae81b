"""Linear layers that a module of the author's holds and does nothing else but call."""

from porter.analyze.graph import Frame, Node
from porter.analyze.values import Module


def caller_of(linear: Node, nodes: list[Node]) -> tuple[Frame | None, Module | None]:
    """(frame, module) in which the linear layer's result is made and used: where a module
    of the author's is only a wrapper around the layer, those of the one that calls it."""
    frame, module = linear.frame, linear.attrs["module"]
    while (
        frame is not None
        and frame.parent is not None
        and frame.inst is module.owner
        and frame.inst.owner is frame.parent.inst
        and _only(linear, frame, nodes)
    ):
        frame, module = frame.parent, frame.inst
    return frame, module.owner


def _only(linear: Node, frame: Frame, nodes: list[Node]) -> bool:
    """Whether the module does nothing else, in this call or another."""
    return not any(
        n.frame.is_inside(frame) or n.frame.inst is frame.inst
        for n in nodes
        if n is not linear and n.frame is not None
    )


def name_below(part: Module, owner: Module) -> str:
    """The layer's name in the module that its result is used in: `name.inner`."""
    return ".".join(part.path[len(owner.path) :])
