"""Linear and embedding layers  ->  column-, row-parallel, replicated, vocabulary-parallel.

Placement follows from the data flow, as DTensor would have it: attention works head by
head, so what makes its operands is sharded by columns and what takes its result by rows;
an MLP's inner width is sharded where everything between its two ends is elementwise.
What mixes a sharded axis with itself (a norm over all heads) gets the full axis: gathered
before, cut to the rank's part after. Keys and values that no fused projection makes are
made on every rank, which takes its heads from them. Everything else is replicated.

Before: nn.Linear(hidden_size, intermediate_size)
After:  ColumnParallelLinear(hidden_size, intermediate_size, ...)
"""

from porter.analyze.graph import Frame, Node, axis_size, walk
from porter.analyze.symbols import same
from porter.analyze.values import Module, is_scalar
from porter.transforms.base import Layer, Transform
from porter.transforms.matching import is_op
from porter.transforms.paths import (
    ELEMENTWISE,
    HeadRegion,
    has_heads,
    head_leaves,
    head_path,
    head_region,
    holds_other_heads,
    is_copies,
)
from porter.transforms.replicate_heads import can_cut_behind


class PlaceParallel(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        self.full: set[int] = set()  # nodes that are given all heads
        self.own: dict[int, Node] = {}  # of a projection of all heads: the rank's heads
        self.inner: dict[int, str] = {}  # modules on either end of an inner width
        self.sharded: set[int] = set()  # nodes that a row-parallel layer takes sharded
        for attend in [n for n in self.nodes() if n.op == "attend"]:
            self._attention(attend)
        self.reads = self.users()
        for node in self.nodes():
            if node.op == "linear" and self._is_inner(node):
                self._inner(node)
        self._whole_products()
        for node in self.nodes():
            if node.op == "linear" and node.attrs["module"].replaced is None:
                self._place(
                    node, "ReplicatedLinear", "nothing around it can be sharded"
                )
            elif node.op == "embedding" and node.attrs["module"].replaced is None:
                self._embedding(node)

    # -- attention

    def _attention(self, attend: Node) -> None:
        made = [head_region(attend.args[i], head_leaves(attend, i)) for i in (1, 2)]
        fewer = not same(attend.attrs["num_heads"], attend.attrs["num_kv_heads"])
        cut = fewer and all(can_cut_behind(region, attend) for region in made)
        cut = cut and not any(
            holds_other_heads(end, attend, i + 1)
            for i, region in enumerate(made)
            for end in region.ends
        )
        for i, region in enumerate(made if cut else ()):
            self._cut_behind(region, attend, i + 1)
        for i, name in enumerate(("num_heads", "num_kv_heads", "num_kv_heads")):
            region = head_region(attend.args[i], head_leaves(attend, i))
            if not region.ends:
                where = region.nodes[-1] if region.nodes else attend
                raise self.gap(
                    where.span, "an operand of attention comes from no linear layer"
                )
            for node in head_path(attend.args[i]):
                if node.frame is attend.frame:
                    node.attrs["role_name"] = "qkv"[i]
            if not all(_heads_first(e, head_leaves(attend, i)) for e in region.ends):
                self._whole(region, attend, i)
                continue
            if i and cut:
                self._leaks(region, attend, i)
                continue
            for end in region.ends:
                if end.op == "linear":
                    self._place(
                        end, "ColumnParallelLinear", f"it makes attention's {name}"
                    )
                    # Cut by columns, a head can't be on two ranks: the port says so.
                    attend.attrs["kv_by_columns"] = bool(i) or attend.attrs.get(
                        "kv_by_columns", False
                    )
            if region.mixing:
                self._full_axis(region, attend, i)
            else:
                _number_copies(region, name)
            self._leaks(region, attend, i)
        self._output(attend)

    def _whole(self, region: HeadRegion, attend: Node, which: int) -> None:
        """Heads that don't stand first in the weight: every rank computes all of them."""
        for end in region.ends:
            if end.op != "linear":
                raise self.gap(
                    end.span, "the heads of packed projections are taken apart"
                )
            self._place(
                end, "ReplicatedLinear", "its heads don't lie one behind the other"
            )
        operand = attend.args[which]
        part = self.make(
            "shard_heads",
            (operand,),
            operand,
            kind="kv" if which else "q",
            role_name="qkv"[which],
        )
        part.frame = attend.frame
        args = list(attend.args)
        args[which] = part
        attend.args = tuple(args)
        self.full |= {n.id for n in [*region.nodes, *region.mixing]}

    def _cut_behind(self, region: HeadRegion, attend: Node, which: int) -> None:
        """All key/value heads are made on every rank, and its own are taken from them."""
        for end in region.ends:
            self._place(
                end,
                "ReplicatedLinear",
                "ranks may share a head: each makes all of them",
            )
            if end.id not in self.own:
                self.own[end.id] = self.make(
                    "shard_heads",
                    (end,),
                    end,
                    kind="kv",
                    role_name="qkv"[which],
                    frame=attend.frame,
                )
            self.full.add(end.id)
            for reader in region.nodes:
                reader.args = _replaced(reader.args, end, self.own[end.id])

    def _leaks(self, region: HeadRegion, attend: Node, which: int) -> None:
        """Heads that something beside attention reads are gathered for it."""
        heads = head_leaves(attend, which)
        inside = {n.id for n in [*region.nodes, *region.ends, *region.mixing]}
        sides = {id(s) for i in range(3) for s in self._side(attend, i)}
        readers = self.users()
        for node in dict.fromkeys([*region.nodes, *region.ends]):
            if node.id in self.full or node.op == "qkv":
                continue
            if not (node in region.ends or has_heads(node, heads)):
                continue
            outside = [
                r
                for r in readers.get(node.id, [])
                if r.id not in inside
                and id(r) not in sides
                and not _attends_to(r, node, which)
                and r.op not in ("gather_heads", "shard_heads")
            ]
            if outside:
                full = self.make(
                    "gather_heads", (node,), node, kind="kv" if which else "q"
                )
                full.frame = attend.frame
                for reader in outside:
                    reader.args = _replaced(reader.args, node, full)
                self.note(
                    node.span, "it is read beside attention: all heads are gathered"
                )

    def _side(self, attend: Node, which: int) -> list[Node]:
        """What attention's operands are made of: there each rank has its own heads."""
        region = head_region(attend.args[which], head_leaves(attend, which))
        ropes = [n.args[0] for n in region.nodes if n.op == "item"]
        return [*region.nodes, *region.mixing, *ropes]

    def _full_axis(self, region: HeadRegion, attend: Node, which: int) -> None:
        """Gather the heads for what works across them; cut to the rank's part behind it."""
        heads = head_leaves(attend, which)
        across = self._across(region, attend)
        self.full |= across
        kind = "kv" if which else "q"
        role = {"role_name": "qkv"[which]}
        readers = self.users()
        everything = self.nodes()
        for node in [n for n in everything if n.id in across]:
            for source in dict.fromkeys(node.inputs()):
                if source.id in across or source.op == "gather_heads":
                    continue
                if not has_heads(source, heads):
                    continue
                full = self.make("gather_heads", (source,), source, kind=kind, **role)
                full.frame = attend.frame
                for reader in readers[source.id]:
                    if reader.id in across:
                        reader.args = _replaced(reader.args, source, full)
        for node in everything:
            outside = [r for r in readers.get(node.id, []) if r.id not in across]
            if node.id in across and outside and has_heads(node, heads):
                part = self.make("shard_heads", (node,), node, kind=kind, **role)
                part.frame = attend.frame
                for reader in outside:
                    reader.args = _replaced(reader.args, node, part)
        self.note(
            region.mixing[0].span, "it works across the heads: it is given all of them"
        )

    def _across(self, region: HeadRegion, attend: Node) -> set[int]:
        """The nodes to be computed on all heads: those that mix, with their module's."""
        inside = {n.id for n in region.mixing}
        frames = {
            id(f) for n in region.mixing if (f := _below(n, attend.frame)) is not None
        }
        for node in self.nodes():
            frame = _below(node, attend.frame)
            if frame is not None and id(frame) in frames:
                inside.add(node.id)
        return inside

    def _output(self, attend: Node) -> None:
        users = self.users()
        heads = head_leaves(attend, 0)
        node = attend
        while True:
            readers = users.get(node.id, [])
            if len(readers) != 1:
                break
            reader = readers[0]
            if reader.op == "linear":
                if self._flat_heads(node, heads, attend):
                    self._place(
                        reader, "RowParallelLinear", "it takes attention's heads"
                    )
                    return
                break
            if reader.op not in ("rearrange", "cast") and not _scalar_elementwise(
                reader
            ):
                break
            node = reader
        full = self.make("gather_heads", (attend,), attend, kind="q")
        for reader in users.get(attend.id, []):
            reader.args = _replaced(reader.args, attend, full)
        self.note(
            attend.span,
            "what follows attention works across the heads: it is given all",
        )

    def _flat_heads(self, node: Node, heads, attend: Node) -> bool:
        leaves = [leaf for f in node.axes[-1] for leaf in f.leaves()]
        front = leaves[: len(heads)]
        whole = axis_size(node.axes[-1])
        attrs = attend.attrs
        return {id(f) for f in front} == heads and same(
            whole, _times(attrs["num_heads"], attrs["head_size_v"])
        )

    # -- inner widths

    def _is_inner(self, node: Node, kind: str = "RowParallelLinear") -> bool:
        """Whether a layer is still to be placed, or was, at another call of its module."""
        module = node.attrs["module"]
        return module.replaced is None or self.inner.get(id(module)) == kind

    def _inner(self, consumer: Node) -> None:
        """consumer is row-parallel where its input is elementwise work on columns."""
        producers: list[Node] = []
        inside: list[Node] = []
        if not self._trace(consumer.args[0], producers, inside) or not producers:
            if id(consumer.attrs["module"]) in self.inner:
                raise self.gap(
                    consumer.span,
                    "a linear layer is used in two ways that are sharded differently",
                )
            return
        region = {n.id for n in [*producers, *inside]}
        for node in [*producers, *inside]:
            for reader in self.reads.get(node.id, []):
                if reader is not consumer and reader.id not in region:
                    return
        for producer in producers:
            if producer.op == "linear":
                self._place(
                    producer,
                    "ColumnParallelLinear",
                    "what follows it is elementwise up to a linear layer",
                )
                self.inner[id(producer.attrs["module"])] = "ColumnParallelLinear"
        self.inner[id(consumer.attrs["module"])] = "RowParallelLinear"
        self._place(consumer, "RowParallelLinear", "its input is sharded by columns")
        self.sharded |= region

    def _whole_products(self) -> None:
        """A fused gate and up that no row-parallel layer takes: gather their product."""
        readers = self.users()
        for node in self.nodes():
            if node.op == "act_and_mul" and node.id not in self.sharded:
                full = self.make("gather_heads", (node,), node, kind="q")
                for reader in readers.get(node.id, []):
                    reader.args = _replaced(reader.args, node, full)
                self.note(
                    node.span, "what reads it works across its width: it is gathered"
                )

    def _trace(self, node: Node, producers: list[Node], inside: list[Node]) -> bool:
        if node in producers or node in inside:
            return True
        if node.op == "merged_linear":
            producers.append(node)
            return True
        if node.op == "linear":
            if not self._is_inner(node, "ColumnParallelLinear"):
                return False
            producers.append(node)
            return True
        if node.op == "rearrange":
            same_last = [id(f) for f in node.axes[-1]] == [
                id(f) for f in node.args[0].axes[-1]
            ]
            if not same_last:
                return False
        elif node.op not in ELEMENTWISE:
            return False
        inside.append(node)
        tensors = [a for a in node.args if isinstance(a, Node)]
        if any(not isinstance(a, Node) and not is_scalar(a) for a in node.args):
            return False
        width = axis_size(node.axes[-1])
        for tensor in tensors:
            if _is_one_number(tensor):
                continue
            if not tensor.axes or not same(axis_size(tensor.axes[-1]), width):
                if node.op != "act_and_mul":
                    return False
        return all(
            self._trace(t, producers, inside) for t in tensors if not _is_one_number(t)
        )

    # -- layers

    def _place(self, node: Node, kind: str, why: str) -> None:
        module: Module = node.attrs["module"]
        if module.replaced is not None:
            if module.replaced.kind != kind:
                raise self.gap(
                    node.span,
                    "a linear layer is used in two ways that are sharded differently",
                )
            return
        module.replaced = Layer(
            kind,
            {"input_size": module.args["in_features"],
             "output_size": module.args["out_features"], "bias": module.args["bias"]},
            parallel=True, prefix=True,
        )  # fmt: skip
        self.note(module.span, why)

    def _embedding(self, node: Node) -> None:
        module: Module = node.attrs["module"]
        ids = node.args[0]
        args = {
            "num_embeddings": module.args["num_embeddings"],
            "embedding_dim": module.args["embedding_dim"],
        }
        if is_op(ids, "input_ids"):
            module.replaced = Layer(
                "VocabParallelEmbedding", args, parallel=True, prefix=True
            )
            self.note(
                module.span,
                "the embedding of the tokens is sharded over the vocabulary",
            )
        else:
            module.replaced = Layer("nn.Embedding", args)


def _attends_to(node: Node, operand: Node, which: int) -> bool:
    """Whether an attention takes a rank's heads of an operand as its own."""
    return node.op == "attend" and node.args[which].final is operand


def _heads_first(end: Node, heads: set[int]) -> bool:
    """Whether cutting a projection's output in equal parts cuts between heads."""
    if end.op != "linear":
        return True
    leaves = [leaf for factor in end.axes[-1] for leaf in factor.leaves()]
    return bool(leaves) and id(leaves[0]) in heads


def _number_copies(region: HeadRegion, name: str) -> None:
    """What is repeated for every head is so for the rank's own heads."""
    for cat in [n for n in region.nodes if n.op == "cat"]:
        for part in cat.args[0]:
            if part.final.op == "rearrange" and any(map(is_copies, part.final.axes)):
                part.final.attrs["copies"] = name


def _below(node: Node, frame: Frame | None) -> Frame | None:
    """The call under `frame` in which a node is made, None for one of its own."""
    if node.frame is None or frame is None or node.frame is frame:
        return None
    return node.frame.child_of(frame) if node.frame.is_inside(frame) else None


def _replaced(args: tuple, old: Node, new: Node) -> tuple:
    def swap(value):
        if isinstance(value, tuple):
            return tuple(swap(v) for v in value)
        return new if isinstance(value, Node) and value.final is old else value

    return tuple(swap(a) for a in args)


def _times(a, b):
    from porter.analyze.symbols import arith

    return arith("mul", a, b)


def _scalar_elementwise(node: Node) -> bool:
    if node.op not in ELEMENTWISE:
        return False
    tensors = [a for a in node.args if isinstance(a, Node)]
    return len(tensors) == 1 and all(
        isinstance(a, Node) or is_scalar(a) for a in node.args
    )


def _is_one_number(tensor: Node) -> bool:
    """A parameter, or made of parameters, that is the same for every column."""
    return not any(tensor.axes) and not any(
        n.op in ("linear", "embedding", "input_ids", "positions")
        for n in walk([tensor])
    )
