"""What each module's method must contain: its nodes, its calls, what goes in and out."""

from dataclasses import dataclass, field

from porter.analyze.graph import Frame, Loop, Node, dependencies, walk
from porter.analyze.model import Facts
from porter.profiles import DEFAULT, profile_of
from porter.profiles.profile import Argument, Profile


@dataclass(eq=False)
class Call:
    """A call of a child module within a frame; its outputs are nodes of the child's."""

    frame: Frame
    outputs: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Repeat:
    """The loop over the layers within a frame."""

    loop: Loop


Item = Node | Call | Repeat


def held_by_module(node: Node) -> bool:
    """Made by a constructor: methods reach it through `self`."""
    return node.frame is None and node.op not in ("positions", "input_ids")


def _held_above(node: Node, frame: Frame) -> bool:
    """Whether a stored tensor belongs to a module that holds the frame's: it is handed
    down, as every module makes its own."""
    stored = node.op == "parameter" or (
        node.op == "buffer" and node.attrs.get("persistent") is True
    )
    if not stored or "slot" not in node.attrs:
        return False
    owner = frame.inst.owner
    while owner is not None:
        if owner is node.attrs["slot"][0]:
            return True
        owner = owner.owner
    return False


class FrameGraph:
    """The live nodes by frame, and how values cross from frame to frame."""

    def __init__(self, facts: Facts, profile: Profile | None = None):
        self.facts = facts
        # parameters that a module's holder reads: id of the module -> name -> node
        self.read_outside: dict[int, dict[str, Node]] = {}
        self.profile = profile or profile_of(DEFAULT)
        self.order = walk([facts.logits])
        self.position = {n.id: i for i, n in enumerate(self.order)}
        self.readers: dict[int, list[Node]] = {}
        for node in self.order:
            for dep in dependencies(node):
                self.readers.setdefault(dep.id, []).append(node)
        self.frames: list[Frame] = []
        for node in self.order:
            self._note_frame(node.frame)
        self._outputs = {id(f): self._find_outputs(f) for f in self.frames}
        self._free = {id(f): self._find_free(f) for f in self.frames}

    def _note_frame(self, frame: Frame | None) -> None:
        if frame is None or frame in self.frames:
            return
        self._note_frame(frame.parent)
        self.frames.append(frame)

    def inside(self, node: Node, frame: Frame) -> bool:
        return node.frame is not None and node.frame.is_inside(frame)

    def _find_outputs(self, frame: Frame) -> list[Node]:
        out = []
        for node in self.order:
            if not self.inside(node, frame):
                continue
            readers = self.readers.get(node.id, [])
            used = any(not self.inside(r, frame) for r in readers)
            if used or node is self.facts.logits:
                out.append(node)
        return sorted(out, key=self._row)

    def _row(self, node: Node) -> int:
        """Where a layer's result stands among what the layers hand on."""
        for reader in self.readers.get(node.id, []):
            if reader.op == "loop_exit":
                carried = [row[2].final for row in reader.attrs["loop"].carried]
                return carried.index(node) if node in carried else len(carried)
        return len(self.order)

    def _find_free(self, frame: Frame) -> list[Node]:
        found: list[Node] = []
        for node in self.order:
            if self.inside(node, frame):
                for dep in dependencies(node):
                    if self.inside(dep, frame) or dep in found:
                        continue
                    if held_by_module(dep) and not _held_above(dep, frame):
                        continue
                    found.append(dep)
        found.sort(key=lambda n: (n.op != "input_ids", n.op != "positions"))
        return found

    def outputs(self, frame: Frame) -> list[Node]:
        return self._outputs[id(frame)]

    def free(self, frame: Frame) -> list[Node]:
        return self._free[id(frame)]

    def layer_arguments(self, frame: Frame) -> tuple[Argument, ...]:
        """What the release passes through a frame to the attention in it."""
        attends = any(n.op == "attend" and self.inside(n, frame) for n in self.order)
        return self.profile.layer_arguments if attends else ()

    def children(self, frame: Frame) -> list[Frame]:
        return [f for f in self.frames if f.parent is frame]
