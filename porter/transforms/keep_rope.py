"""Rope that isn't vLLM's: keep its arithmetic, on tables that the port can make.

transformers' frequencies of the scaled rope types come from its own library, which a port
doesn't import. Where cos and sin are the standard tables, they are read from vLLM's rope
(`cos_sin_cache`), whatever is then done with them. Where the tables themselves are other
arithmetic, it is kept for the default type, and the port stops for the other types.

Before: cos, sin = self.rotary_emb(hidden_states, position_ids)
After:  cos, sin = self.rotary_emb.cos_sin_cache[positions].chunk(2, dim=-1)
Refuses: frequencies without a default formula; a width of the tables that only the rope
type tells, where more is done with it than cutting them.
"""

from dataclasses import replace
from typing import Any

from porter.analyze.graph import Factor, Node, feature_axis, walk
from porter.analyze.rope_widths import reads_size, width_of_table, with_width
from porter.analyze.symbols import Sym, arith, contains, same, unwrap
from porter.transforms.base import Transform, settle
from porter.transforms.matching import is_op
from porter.transforms.rope_tables import (
    Table,
    match_table,
    rotated_head,
    tested_type,
)

# The fields that transformers' initialisation of the scaled types makes the width of.
_LIBRARY_READS = ("head_dim", "hidden_size", "num_attention_heads")


class KeepRope(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        self.reads = self.users()
        self.widths: list[tuple[Any, Any]] = []  # (what it is by default, for any type)
        found = []
        for node in self.nodes():
            for fn, which in (("cos", 0), ("sin", 1)):
                table = match_table(node, fn) if node.frame is not None else None
                if table is not None and self._is_outermost(node, fn):
                    found.append((node, self._of_its_width(table), which))
        for node, table, which in found:
            self._read_cache(node, table, which)
        settle(self.facts)
        for dim, width in self.widths:
            for node in self.nodes():
                if node.op == "slice":
                    self._cut_at_width(node, dim, width)
                if any(reads_size(arg, dim) for arg in node.args):
                    raise self.gap(
                        node.span, "rope's width, which the type decides, as a number"
                    )
        for node in self.nodes():
            self._default_only(node)
        settle(self.facts)

    def _of_its_width(self, table: Table) -> Table:
        """The table with the width that it has for every type, where the config class
        gives a factor that the default type doesn't read."""
        config, facts = self.facts.config, self.facts.interpreter.sizes.checked
        if table.partial or not config.sets_partial_rotary:
            return table
        reads = tuple(map(config.canonical, _LIBRARY_READS))
        width = width_of_table(facts, table.dim, table.parameters, reads)
        if not same(width, table.dim):
            self.widths.append((table.dim, width))
        return replace(table, dim=width)

    def _cut_at_width(self, node: Node, dim: Any, width: Any) -> None:
        """A part of a table is cut at its width, not at what the source calls it."""
        ops = {n.op for n in walk(node.args[:1])}
        if "rope_rows" in ops and not ops & {"linear", "embedding", "attend"}:
            cuts = (with_width(cut, dim, width) for cut in node.args[1:])
            node.args = (node.args[0], *cuts)

    def _is_outermost(self, node: Node, fn: str) -> bool:
        """In the module that makes the table, the last step of making it."""
        made = next(n for n in walk([node]) if n.op == fn)
        if made.frame is not node.frame:
            return False
        return not any(
            r.frame is node.frame and match_table(r, fn)
            for r in self.reads.get(node.id, [])
        )

    # -- the standard tables

    def _read_cache(self, node: Node, table: Table, which: int) -> None:
        frame = node.frame.parent if node.frame and node.frame.parent else node.frame
        half = arith("floordiv", table.dim, 2)
        tokens = table.positions.axes
        rows = self._rows(node, table, frame, tokens)
        low, high = (0, half) if which == 0 else (half, table.dim)
        once = table.pairing == "once"
        part = self.make(
            "slice",
            (rows, low, high),
            node,
            axes=node.axes if once else (*tokens, feature_axis(half)),
            frame=frame,
            dim=-1,
            step=1,
        )
        if once:
            full = part
        elif table.pairing == "halves":  # the axes stay those that readers know
            full = self.make("cat", ((part, part),), node, frame=frame, dim=-1)
        else:
            pairs = (*part.axes[-1], Factor(2, "", repeats=True))
            view = self.make(
                "rearrange", (part,), node, frame=frame, axes=(*tokens, pairs)
            )
            full = self.make("along", (view,), node, frame=frame, fn="clone", names=())
        self.change(node, full, "cos and sin of the positions are vLLM's rope cache")

    def _rows(self, node: Node, table: Table, frame, tokens) -> Node:
        made: list[tuple[Table, Node]] = self.__dict__.setdefault("made", [])
        for known, rows in made:
            if known.same_as(table):
                return rows
        axes = (*tokens, feature_axis(table.dim))
        rows = self.make(
            "rope_rows",
            (table.positions,),
            node,
            axes=axes,
            frame=frame,
            table=table,
            head_size=_head_size(table),
        )
        made.append((table, rows))
        return rows

    # -- tables of their own

    def _default_only(self, node: Node) -> None:
        if node.op == "phi" and any(is_op(a, "rope_init") for a in node.args[1:]):
            default = node.args[2] if is_op(node.args[1], "rope_init") else node.args[1]
            kind = tested_type(node.args[0])
            if kind is None or is_op(default, "rope_init"):
                raise self.gap(
                    node.span, "rope frequencies whose default can't be told"
                )
            self.facts.default_rope_only = unwrap(kind)
            self.change(
                node,
                default,
                "the rope's own frequencies are kept, for rope type default",
            )
        elif any(isinstance(a, Sym) and contains(a, "rope_scaling") for a in node.args):
            node.args = tuple(self._without_scaling(node, a) for a in node.args)

    def _without_scaling(self, node: Node, value: Any) -> Any:
        inner = unwrap(value)
        if not isinstance(inner, Sym) or not contains(inner, "rope_scaling"):
            return value
        if inner.op == "ifexp":
            cond, a, b = inner.args
            kind = tested_type(cond)
            if kind is not None:
                self.facts.default_rope_only = unwrap(kind)
                return self._without_scaling(node, b if _is_scaling(a) else a)
        if inner.op == "rope_scaling":
            raise self.gap(node.span, "a rope scaling whose default can't be told")
        args = tuple(self._without_scaling(node, a) for a in inner.args)
        return Sym(inner.op, args)


def _is_scaling(value) -> bool:
    inner = unwrap(value)
    return isinstance(inner, Sym) and inner.op == "rope_scaling"


def _head_size(table: Table):
    """The head size for which vLLM's rope rotates `dim` elements."""
    if not table.partial:
        return table.dim
    return rotated_head(table)
