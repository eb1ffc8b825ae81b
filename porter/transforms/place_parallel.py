"""Linear and embedding layers  ->  column-, row-parallel, replicated, vocabulary-parallel.

Placement follows from the data flow, as DTensor would have it: attention works head by
head, so what makes its operands is sharded by columns and what takes its result by rows;
an MLP's inner width is sharded where everything between its two ends is elementwise.
What mixes a sharded axis with itself (a norm over all heads) gets the full axis: gathered
before, cut to the rank's part after. Everything else is replicated.

Before: nn.Linear(hidden_size, intermediate_size)
After:  ColumnParallelLinear(hidden_size, intermediate_size, ...)
"""

from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import same
from porter.analyze.values import Module, is_scalar
from porter.transforms.base import Layer, Transform
from porter.transforms.matching import is_op
from porter.transforms.paths import (
    ELEMENTWISE,
    head_leaves,
    head_path,
    head_region,
    mixes_heads,
)


class PlaceParallel(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        self.placed: dict[int, str] = {}
        for attend in [n for n in self.nodes() if n.op == "attend"]:
            self._attention(attend)
        self.reads = self.users()
        for node in self.nodes():
            if node.op == "linear" and node.attrs["module"].replaced is None:
                self._inner(node)
        for node in self.nodes():
            if node.op == "linear" and node.attrs["module"].replaced is None:
                self._place(node, "ReplicatedLinear", "nothing around it can be sharded")
            elif node.op == "embedding" and node.attrs["module"].replaced is None:
                self._embedding(node)

    # -- attention

    def _attention(self, attend: Node) -> None:
        for i, name in enumerate(("num_heads", "num_kv_heads", "num_kv_heads")):
            region = head_region(attend.args[i], head_leaves(attend, i))
            if not region.ends:
                where = region.nodes[-1] if region.nodes else attend
                raise self.gap(where.span, "an operand of attention comes from no linear layer")
            for node in head_path(attend.args[i]):
                node.attrs["role_name"] = "qkv"[i]
            for end in region.ends:
                if end.op == "linear":
                    self._place(end, "ColumnParallelLinear", f"it makes attention's {name}")
            if region.mixing:
                path = head_path(attend.args[i])
                if path[-1] not in region.ends or len(region.ends) != 1:
                    node = region.mixing[0]
                    raise self.gap(node.span, f"`{node.op}` mixes attention's heads here",
                                   "each rank has only its own heads")
                self._full_axis(path, attend, i)
        attend.attrs["sharded"] = True
        self._output(attend)

    def _full_axis(self, path: list[Node], attend: Node, which: int) -> None:
        """Gather in front of the first node that mixes heads, cut behind the last."""
        heads = head_leaves(attend, which)
        mixing = [i for i, node in enumerate(path[:-1]) if mixes_heads(node, heads)]
        if not mixing:
            return
        last, first = mixing[0], mixing[-1]  # the path runs from attention backwards
        source = path[first + 1]
        kind = "kv" if which else "q"
        gathered = self.make("gather_heads", (source,), source, kind=kind,
                             role_name="qkv"[which])
        path[first].args = tuple(gathered if a is source else a for a in path[first].args)
        final = path[last]
        cut = self.make("shard_heads", (final,), final, kind=kind,
                        role_name="qkv"[which])
        keep = path[last - 1] if last else attend
        keep.args = tuple(cut if a is final else a for a in keep.args)
        self.note(final.span, "it works on all heads at once: the full axis is gathered for it")

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
                    self._place(reader, "RowParallelLinear", "it takes attention's heads")
                    return
                break
            if reader.op not in ("rearrange", "cast") and not _scalar_elementwise(reader):
                break
            node = reader
        raise self.gap(node.span, "attention's result isn't taken by one linear layer",
                       "gates and norms on attention's heads aren't ported yet")

    def _flat_heads(self, node: Node, heads, attend: Node) -> bool:
        leaves = [leaf for f in node.axes[-1] for leaf in f.leaves()]
        front = leaves[: len(heads)]
        whole = axis_size(node.axes[-1])
        attrs = attend.attrs
        return {id(f) for f in front} == heads and same(
            whole, _times(attrs["num_heads"], attrs["head_size_v"]))

    # -- inner widths

    def _inner(self, consumer: Node) -> None:
        """consumer is row-parallel where its input is elementwise work on columns."""
        producers: list[Node] = []
        inside: list[Node] = []
        if not self._trace(consumer.args[0], producers, inside) or not producers:
            return
        region = {n.id for n in [*producers, *inside]}
        for node in [*producers, *inside]:
            for reader in self.reads.get(node.id, []):
                if reader is not consumer and reader.id not in region:
                    return
        for producer in producers:
            if producer.op == "linear":
                self._place(producer, "ColumnParallelLinear",
                            "what follows it is elementwise up to a linear layer")
        self._place(consumer, "RowParallelLinear", "its input is sharded by columns")

    def _trace(self, node: Node, producers: list[Node], inside: list[Node]) -> bool:
        if node in producers or node in inside:
            return True
        if node.op == "merged_linear":
            producers.append(node)
            return True
        if node.op == "linear":
            if node.attrs["module"].replaced is not None:
                return False
            producers.append(node)
            return True
        if node.op == "rearrange":
            same_last = [id(f) for f in node.axes[-1]] == [id(f) for f in
                                                          node.args[0].axes[-1]]
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
            if not tensor.axes or not same(axis_size(tensor.axes[-1]), width):
                if node.op != "act_and_mul":
                    return False
        return all(self._trace(t, producers, inside) for t in tensors)

    # -- layers

    def _place(self, node: Node, kind: str, why: str) -> None:
        module: Module = node.attrs["module"]
        if module.replaced is not None:
            if module.replaced.kind != kind:
                raise self.gap(node.span, "a linear layer is used in two ways that are sharded "
                               "differently")
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
        args = {"num_embeddings": module.args["num_embeddings"],
                "embedding_dim": module.args["embedding_dim"]}
        if is_op(ids, "input_ids"):
            module.replaced = Layer("VocabParallelEmbedding", args, parallel=True, prefix=True)
            self.note(module.span, "the embedding of the tokens is sharded over the vocabulary")
        else:
            module.replaced = Layer("nn.Embedding", args)


def _times(a, b):
    from porter.analyze.symbols import arith

    return arith("mul", a, b)


def _scalar_elementwise(node: Node) -> bool:
    if node.op not in ELEMENTWISE:
        return False
    tensors = [a for a in node.args if isinstance(a, Node)]
    return len(tensors) == 1 and all(isinstance(a, Node) or is_scalar(a) for a in node.args)
