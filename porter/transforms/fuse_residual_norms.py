"""norm(x + residual), and the sum read again  ->  x, residual = norm(x, residual)

vLLM's RMSNorm and GemmaRMSNorm take both summands and give the normed sum and the sum:
one pass over memory where an addition and a norm are two. Within a layer that is the norm
behind attention. Across the layers the sum that ends a layer is left to the norm that the
next one starts with, so a layer takes and gives the two summands, as pipeline stages do.

The sum is the source's, in fp32 exactly. In a narrower dtype it comes out as rounded as
the source's; what is normed may be the sum before it is rounded, as in vLLM's own models.

Before: x = x + residual; residual = x; x = self.norm(x)
After:  x, residual = self.norm(x, residual)
The kernel writes over both summands. Leaves: a summand that anything else may still read,
in this memory or a view of it; the layers' first input where it is read elsewhere;
summands of different widths or in a dtype of their own; sums that are scaled before the
norm, or read by the norm only; norms under a condition that the sum isn't under.
"""

from porter.analyze.axes import AxisError, feature_layout
from porter.analyze.graph import Frame, Loop, Node, axis_size, dependencies, walk
from porter.analyze.symbols import same
from porter.transforms.base import Layer, Transform, settle
from porter.transforms.matching import is_op
from porter.transforms.memory import Memory, rows

_NORMS = ("RMSNorm", "GemmaRMSNorm")
_WHY = "the norm adds the residual and gives the sum as well"
_NAME = "residual"
Row = tuple[Node, Node, Node, Node]
Region = tuple[tuple[int, int], ...]


class FuseResidualNorms(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        for total in [n for n in self.nodes() if n.op == "add"]:
            self.readers = self.users()
            self.regions = _regions(self.nodes())
            self._within(total)
        for loop in {
            id(n.attrs["loop"]): n.attrs["loop"] for n in self._exits()
        }.values():
            for row in rows(loop):
                self.readers = self.users()
                self.regions = _regions(self.nodes())
                self._across(loop, row)

    def _exits(self) -> list[Node]:
        return [n for n in self.nodes() if n.op == "loop_exit"]

    # -- within a layer

    def _within(self, total: Node) -> None:
        norm = self._norm_of(total, total.frame)
        if norm is None or len(self.readers[total.id]) < 2 or not _plain_sum(total):
            return
        x, residual = _roles(total)
        memory = Memory(self.readers)
        mine, other = memory.owned(x, total), memory.owned(residual, total)
        if mine is None or other is None or mine.keys() & other.keys():
            return
        fused = self._fused(norm, x, residual, total)
        self._replace(norm, total, fused)

    def _norm_of(self, total: Node, frame: Frame | None) -> Node | None:
        """The norm of a value, in this frame and wherever the value is made."""
        for reader in self.readers.get(total.id, []):
            layer = reader.attrs["module"].replaced if is_op(reader, "norm") else None
            if (
                isinstance(layer, Layer)
                and layer.kind in _NORMS
                and (frame is None or reader.frame is frame)
                and reader.loop is total.loop
                and self.regions[reader.id] == self.regions[total.id]
            ):
                return reader
        return None

    def _fused(self, norm: Node, x: Node, residual: Node, total: Node) -> Node:
        module = norm.attrs["module"]
        node = self.make("add_norm", (x, residual), norm, module=module)
        node.attrs["added"] = total.span
        return node

    def _replace(
        self, norm: Node, total: Node, fused: Node, above: Frame | None = None
    ) -> None:
        """The fused node's results in the place of the norm and of the sum. above: the
        frame that may hand the sum on."""
        normed = self.make("item", (fused, 0), norm)
        summed = self.make("item", (fused, 1), norm, axes=total.axes, dtype=total.dtype)
        summed.hints = dict(total.hints)
        for frame in (norm.frame, *(() if above is None else (above,))):
            summed.hints[frame] = [(0, _NAME)]
        self.change(norm, normed, _WHY)
        total.forward = summed
        settle(self.facts)

    # -- from layer to layer

    def _across(self, loop: Loop, row: Row) -> None:
        entry, init, total, exit_ = row
        first, last = self._norm_of_entry(entry), self._norm_of(exit_, loop.frame)
        if first is None or last is None or init.dtype is not None:
            return
        if not _plain_sum(total) or self.readers[total.id] != [exit_]:
            return
        if (
            self.regions[total.id]
            or not _alike(entry, total)
            or not _alike(init, total)
        ):
            return
        x, residual = _roles(total)
        if not self._handed_on(loop, row, x, residual):
            return
        pairs = self._two_rows(loop, row, x, residual, first.frame)
        starting = self._fused(first, *pairs[0], total)
        starting.attrs["starts"] = True
        self._replace(first, entry, starting, loop.frame)
        self._replace(last, exit_, self._fused(last, *pairs[1], total))

    def _norm_of_entry(self, entry: Node) -> Node | None:
        found = self._norm_of(entry, None)
        return found if found is not None and not self.regions[found.id] else None

    def _handed_on(self, loop: Loop, row: Row, x: Node, residual: Node) -> bool:
        """Whether the norms that the layers start with may write over what they are
        given: the first layer's input, then the two summands of the layer before."""
        entry, init, _, exit_ = row
        memory = Memory(self.readers)
        if not memory.given(init, exit_):
            return False
        shared = []
        for value in (x, residual):
            if value is entry:  # it becomes a result of this layer's own norm
                shared.append({entry.id: entry})
                continue
            if not memory.left(value, exit_, loop):
                return False
            shared.append(memory.shared(value, loop) or {})
        return not shared[0].keys() & shared[1].keys()

    def _two_rows(
        self, loop: Loop, row: Row, x: Node, residual: Node, frame: Frame | None
    ) -> list[tuple[Node, Node]]:
        """Carry the summands for their sum. Gives those of the layer before and those of
        the last layer; before the first layer there is one value, and no residual."""
        entry, init, _, exit_ = row
        absent = self.make("absent", (), init, frame=loop.frame, of=entry.id)
        made: list[list[Node]] = [[], []]
        for value, named in ((x, False), (residual, True)):
            for ends, old in zip(made, (entry, exit_), strict=True):
                new = self.make(old.op, (), old, **old.attrs)
                new.hints = dict(old.hints)
                if named:
                    new.hints = {f: [(0, _NAME)] for f in (loop.frame, frame)}
                ends.append(new)
            if value is not entry:
                hints = [(0, _NAME)] if named else exit_.hints.get(loop.frame, [])
                value.hints.setdefault(loop.frame, list(hints))
        new_rows = [
            (made[0][0], init, x, made[1][0]),
            (made[0][1], absent, residual, made[1][1]),
        ]
        at = [r[0] for r in rows(loop)].index(entry)
        loop.carried[at : at + 1] = new_rows
        return [(ends[0], ends[1]) for ends in made]


def _roles(total: Node) -> tuple[Node, Node]:
    """(x, residual) of a sum: the residual is the value that the other is made of."""
    left, right = total.args
    if any(n is right for n in walk([left])):
        return left, right
    return right, left


def _plain_sum(total: Node) -> bool:
    """Whether a node adds two different values of one width, in the model's own dtype."""
    if not is_op(total, "add") or not all(isinstance(a, Node) for a in total.args):
        return False
    left, right = total.args
    if left is right or any(n.dtype is not None for n in (left, right, total)):
        return False
    return _alike(left, total) and _alike(right, total)


def _alike(value: Node, total: Node) -> bool:
    """Whether both are a vector of the same size for each token."""
    try:
        (tokens, features), (all_tokens, wanted) = (
            feature_layout(value.axes),
            feature_layout(total.axes),
        )
    except AxisError:
        return False
    if not (tokens and all_tokens and len(features) == len(wanted) == 1):
        return False
    return same(axis_size(features[0]), axis_size(wanted[0]))


def _regions(nodes: list[Node]) -> dict[int, Region]:
    """The sides of branches on which a node's readers are, all of them."""
    regions: dict[int, Region] = {nodes[-1].id: ()}
    for node in reversed(nodes):
        mine = regions[node.id]
        for dep in dependencies(node):
            where = mine
            if node.op == "phi":
                sides = [i for i in (1, 2) if node.args[i].final is dep]
                if len(sides) == 1:
                    where = (*mine, (node.id, sides[0]))
            known = regions.get(dep.id)
            regions[dep.id] = where if known is None else _common(known, where)
    return regions


def _common(a: Region, b: Region) -> Region:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return a[:n]
