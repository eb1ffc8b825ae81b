"""What is computed before the layers, but is each layer's own  ->  computed in the layer.

A source makes tables for every layer type before its loop, and gives each layer the one
of its type. In the port a layer knows its index, so that what depends on it is computed
where it is read.

Before: tables = {t: self.rotary(positions, t) for t in set(types)}
        layer(x, tables[types[i]])
After:  layer(positions, x), which reads the table of its own type
Leaves: what is the same for every layer.
"""

from porter.analyze.graph import Frame, Node
from porter.analyze.symbols import contains
from porter.transforms.base import Transform


class SinkLayerValues(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        own: set[int] = set()
        order = self.nodes()
        for node in order:
            if node.loop is None and node.op != "loop_exit":
                if _names_layer(node) or any(i.id in own for i in node.inputs()):
                    own.add(node.id)
        readers = self.users()
        for node in reversed(order):
            if node.id in own and node.frame is not None:
                self._sink(node, readers.get(node.id, []))

    def _sink(self, node: Node, readers: list[Node]) -> None:
        frames = [r.frame for r in readers]
        loops = {id(r.loop): r.loop for r in readers}
        where, loop = _common(frames), next(iter(loops.values()), None)
        if len(loops) != 1 or loop is None or where is None:
            raise self.gap(
                node.span, "a value of one layer is used outside the loop over layers"
            )
        self.note(node.span, "it is each layer's own: the layer computes it")
        node.frame, node.loop = where, loop


def _names_layer(node: Node) -> bool:
    scalars = [*node.args, *(v for n, v in node.attrs.items() if n != "unique")]
    table = node.attrs.get("table")
    if table is not None:
        scalars += [table.parameters, table.dim]
    return any(contains(s, "layer") for s in scalars)


def _common(frames: list[Frame | None]) -> Frame | None:
    """The innermost call that holds them all."""
    frame = frames[0] if frames else None
    while frame is not None and not all(f and f.is_inside(frame) for f in frames):
        frame = frame.parent
    return frame
