"""One forward body: schedule a frame's nodes into statements, in the order of their use.

Order follows from the data flow alone (operands first, left to right), so that moving
statements about in the source changes nothing. A value stands in its reader's expression
where it is read once and small; layers and calls always get a statement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from porter.analyze.graph import Frame, Node, Span, dependencies
from porter.analyze.symbols import key, negate
from porter.emit.frames import Call, FrameGraph
from porter.emit.lines import Line, as_lines, as_tree
from porter.emit.names import hinted, preferred
from porter.emit.printing import Printer
from porter.emit.read_back import read_back
from porter.transforms.matching import is_op

_STATEMENTS = {
    "linear", "qkv", "merged_linear", "attend", "attend_latent", "norm", "embedding",
    "rope", "logits", "gather_heads", "shard_heads", "phi", "act_and_mul", "item", "kept",
    "fused_moe", "picked", "matrix",
}  # fmt: skip
_INLINE_COST = 6
Region = tuple[tuple[int, bool], ...]
Binding = tuple[str, Node]


@dataclass(eq=False)
class _Item:
    """A node, or the call of a child frame, to be scheduled."""

    node: Node | None = None
    call: Call | None = None

    @property
    def key(self) -> int:
        if self.node is not None:
            return self.node.id
        assert self.call is not None
        return -id(self.call.frame)


class Body:
    """Writes statements that compute nodes of one frame; `names` is what is in scope."""

    def __init__(self, graph: FrameGraph, frame: Frame, scope: Any):
        self.graph, self.frame, self.scope = graph, frame, scope
        self.lines: list[Line] = []
        self.called: dict[int, list[str]] = {}  # node id -> names it was given
        self.holder: dict[str, Node] = {}  # name -> the node it holds now
        self.emitted: set[int] = set()
        self.indent = 0
        self.region: Region = ()
        self.calls: dict[int, Call] = {}
        self.readers: dict[int, list[tuple[int, Region]]] = {}
        self.items: dict[int, _Item] = {}
        self.cost: dict[int, int] = {}
        self.stop: set[int] = set()
        self.bound: list[Node] = []
        self.reserved: set[str] = set()
        self.branches: dict[int, int] = {}
        self.spans: list[Span] = []
        self.reads: list[Binding] = []  # of the statement that is being written

    # -- what is to be written

    def bind(self, node: Node, name: str) -> None:
        """A value that is there under a name: a parameter."""
        self.hold(node, name)
        self.stop.add(node.id)
        self.bound.append(node)

    def plan(self, roots: list[Node]) -> None:
        """Find the items that the roots need, who reads each, and in which branch."""
        order: list[_Item] = []
        seen: set[int] = set()

        def visit(item: _Item) -> None:
            if item.key in seen:
                return
            seen.add(item.key)
            for dep in self._deps(item):
                found = self._item(dep)
                if found is not None:
                    visit(found)
            order.append(item)

        for root in roots:
            found = self._item(root)
            if found is not None:
                visit(found)
        self._pair_branches([i.node for i in order if i.node is not None])
        self.readers = {}
        for root in roots:
            self.readers.setdefault(root.id, []).append((0, ()))
        regions: dict[int, Region] = {}
        for item in reversed(order):
            if item.call is not None:
                outs = item.call.outputs
            else:
                assert item.node is not None
                outs = [item.node]
            uses = [r for out in outs for _, r in self.readers.get(out.id, [])]
            regions[item.key] = _common(uses)
            self._together(item, regions)
            self._record_reads(item, regions[item.key])
        self.regions = regions
        self.items = {i.key: i for i in order}

    def _together(self, item: _Item, regions: dict[int, Region]) -> None:
        """What is unpacked in one statement stands where the whole is made."""
        if item.node is not None and item.node.op in ("rope", "add_norm"):
            for reader in self.graph.readers.get(item.node.id, []):
                if reader.op == "item" and reader.id in regions:
                    regions[reader.id] = regions[item.key]

    def _record_reads(self, item: _Item, region: Region) -> None:
        node = item.node
        if node is not None and node.op == "phi":
            for side, operand in ((True, node.args[1]), (False, node.args[2])):
                branch = (*region, (self._test(node), side))
                self.readers.setdefault(operand.id, []).append((item.key, branch))
            return
        for dep in self._deps(item):
            self.readers.setdefault(dep.id, []).append((item.key, region))

    def _deps(self, item: _Item) -> list[Node]:
        if item.node is not None and item.node.op in ("buffer", "parameter"):
            return []  # the constructor makes it
        if item.call is not None:
            return self.graph.free(item.call.frame)
        assert item.node is not None
        like = self.like(item.node)
        return [*dependencies(item.node), *([like] if like is not None else [])]

    def like(self, node: Node) -> Node | None:
        """The value within reach whose dtype a cast takes; None: the model's own dtype."""
        if (
            node.op != "cast"
            or node.dtype is not None
            or node.attrs.get("like") is None
        ):
            return None
        like: Node = node.attrs["like"].final
        for bound in self.bound:  # the same values, gathered or cut for the ranks
            if (
                bound.op in ("gather_heads", "shard_heads")
                and bound.args[0].final is like
            ):
                return bound
        live = like.id in self.graph.position and self.graph.inside(like, self.frame)
        return (
            like if like.id in self.stop or (live and like.loop is node.loop) else None
        )

    def _item(self, node: Node) -> _Item | None:
        """The item that makes a node, or None where it comes from outside."""
        if node.id in self.stop:
            return None
        if node.frame is self.frame:
            found = self.items.get(node.id)
            if found is None:
                found = self.items[node.id] = _Item(node=node)
            return found
        if node.frame is not None and self.graph.inside(node, self.frame):
            child = node.frame.child_of(self.frame)
            call = self.calls.get(id(child))
            if call is None:
                call = Call(child, self.graph.outputs(child))
                self.calls[id(child)] = call
            key = -id(child)
            if key not in self.items:
                self.items[key] = _Item(call=call)
            return self.items[key]
        if node.op in ("buffer", "parameter", "leaf_parameter"):
            return self.items.setdefault(node.id, _Item(node=node))
        if node.frame is None and node.op not in ("positions", "input_ids", "mask"):
            return self.items.setdefault(node.id, _Item(node=node))
        self.scope.unbound(node, self.frame)
        return None

    # -- writing

    def line(
        self,
        text: str,
        spans: list[Span] | None = None,
        *,
        reads: Sequence[Binding] | None = None,
        writes: Sequence[Binding] = (),
        cond: Any = None,
        spends: Sequence[Node] = (),
    ) -> None:
        """Write a statement. reads: None for what `operand` was asked for meanwhile."""
        pad = "    " * self.indent
        body = "\n".join(pad + part for part in text.split("\n"))
        if reads is None:
            reads, self.reads = self.reads, []
        spans = list(self.spans if spans is None else spans)
        self.lines.append(Line(body, spans, tuple(reads), writes, cond, spends))

    def finished(self, ends: dict[str, Node], span: Span) -> list[Line]:
        """The lines, once they have been read back. ends: what names must hold behind
        the last line."""
        bound = {self.called[n.id][0]: n for n in self.bound}
        read_back(self.lines, bound, ends, span)
        return as_lines(as_tree(self.lines))

    def printer(self) -> Printer:
        return Printer(self.operand, self.scope.number, self.scope.imports, self._dtype)

    def _dtype(self, node: Node) -> str:
        like = self.like(node)
        if like is not None:
            return f"{self.operand(like, 9)}.dtype"
        self.scope.attrs.setdefault("dtype", "torch.get_default_dtype()")
        return "self.dtype"

    def operand(self, node: Node, level: int = 0) -> str:
        """The name of a node, or its expression where it is written in place."""
        name = self.name(node)
        self.spans.append(node.span)
        if name is not None:
            self.reads.append((name, node))
            return name
        text, own = self.expression(node)
        self.emitted.add(node.id)
        return f"({text})" if own < level else text

    def expression(self, node: Node) -> tuple[str, int]:
        special = self.scope.render(node, self)
        return special if special is not None else self.printer().render(node)

    def name(self, node: Node) -> str | None:
        """A name that holds node now, the first that it was given."""
        for name in self.called.get(node.id, []):
            if self.holder.get(name) is node:
                return name
        return None

    def ensure(self, node: Node) -> str:
        """Write what is needed for node; return its name or expression."""
        self.prepare(node)
        self.reads = []
        return self.operand(node)

    def prepare(self, node: Node) -> None:
        """Write the statements that a node's expression reads, then its own, if any."""
        if self.name(node) is not None or node.id in self.emitted:
            return
        item = self._item(node)
        if item is None:
            return
        if item.call is not None:
            self._call(item)
            return
        if node.op == "phi":
            self._branch(node)
            return
        for dep in self._deps(item):
            self.prepare(dep)
        if not self.inline(node) and not self.scope.is_grouped(node):
            self.statement(node)

    def inline(self, node: Node) -> bool:
        if node.op in _STATEMENTS or self.scope.is_statement(node):
            return False
        if len(self.readers.get(node.id, [])) != 1:
            return self.scope.is_cheap(node)
        return self._cost(node) <= _INLINE_COST

    def _cost(self, node: Node) -> int:
        known = self.cost.get(node.id)
        if known is None:
            known = 1
            for dep in dependencies(node):
                if dep.frame is self.frame and dep.id not in self.stop:
                    if (
                        dep.op not in _STATEMENTS
                        and len(self.readers.get(dep.id, [])) == 1
                    ):
                        known += self._cost(dep)
            if (
                known > _INLINE_COST
            ):  # it becomes a statement; to its reader it is a name
                self.cost[node.id] = known
                return known
            self.cost[node.id] = known
        return known if known <= _INLINE_COST else 0

    def statement(self, node: Node, target: str | None = None) -> None:
        """Write `name = ...` for a node."""
        self.spans, self.reads = [node.span], []
        group = self.scope.group(node, self)
        if group is not None:
            text, targets = group
            spans, reads = self.spans, self.reads
            names, writes = [], []
            for target_ in targets:
                names.append("_" if target_ is None else self.take_name(target_))
                if target_ is not None:
                    self.hold(target_, names[-1])
                    writes.append((names[-1], target_))
            text = self._grouped(node, names, text)
            spends = node.args[0].args if is_op(node.args[0], "add_norm") else ()
            self.line(text, spans, reads=reads, writes=writes, spends=spends)
            return
        text, _ = self.expression(node)
        spans, reads = self.spans, self.reads
        name = target or self.take_name(node)
        tail = ", _" if self.scope.returns_bias(node) else ""
        text = f"{name}{tail} = {text}"
        self.line(text, spans, reads=reads, writes=[(name, node)])
        self.hold(node, name)

    def _grouped(self, node: Node, names: list[str], text: str) -> str:
        """`a, b = f(a, b)`, where need be under its condition."""
        test, before = self.scope.group_condition(node, self)
        left = ", ".join(names)
        starts = self.scope.without_residual(node, names)
        if starts is not None:
            test, single = starts
            return f"if {test}:\n{single}\nelse:\n    {left} = {text}"
        if test is None:
            return f"{left} = {text}"
        if names == before:
            return f"if {test}:\n    {left} = {text}"
        return f"{left} = {text} if {test} else ({', '.join(before)})"

    def hold(self, node: Node, name: str) -> None:
        self.called.setdefault(node.id, []).append(name)
        self.holder[name] = node
        self.emitted.add(node.id)

    def _call(self, item: _Item) -> None:
        call = item.call
        assert call is not None
        for dep in self.graph.free(call.frame):
            self.prepare(dep)
        self.spans, self.reads = [call.frame.span], []
        args = [self.operand(d) for d in self.graph.free(call.frame)]
        args += self.scope.passed(self.graph.layer_arguments(call.frame))
        text = f"{self.scope.module(call.frame.inst)}({', '.join(args)})"
        spans, reads = self.spans, self.reads
        writes = []
        for out in call.outputs:
            writes.append((self.take_name(out), out))
            self.hold(out, writes[-1][0])
        names = ", ".join(name for name, _ in writes)
        self.line(f"{names} = {text}", spans, reads=reads, writes=writes)
        self.emitted.add(item.key)

    # -- branches

    def _branch(self, phi: Node) -> None:
        cond, then, other = phi.args
        together = self._companions(phi)
        if together:
            self._branch_together([phi, *together])
            return
        for dep in self._hoisted(phi):
            self.prepare(dep)
        self.spans = [phi.span]
        name = self._phi_name(phi, then, other)
        spans = self.spans
        sides = [(True, then), (False, other)]
        needs = [self._side_needs_code(operand, name) for _, operand in sides]
        if not needs[0]:
            cond, sides, needs = negate(cond), sides[::-1], needs[::-1]
        if not needs[0]:
            self.hold(phi, name)
            return
        test = f"if {self.scope.condition(cond, self, sides)}:"
        self.line(test, spans, reads=(), cond=cond)
        self._side(sides[0][0], [(phi, sides[0][1], name)])
        if needs[1]:
            self.line("else:", spans, reads=())
            self._side(sides[1][0], [(phi, sides[1][1], name)])
        self.hold(phi, name)

    def _pair_branches(self, nodes: list[Node]) -> None:
        """Phis of one condition that unpack the same values are one branch."""
        phis = [n for n in nodes if n.op == "phi"]
        for i, phi in enumerate(phis):
            for other in phis[:i]:
                if key(other.args[0]) == key(phi.args[0]) and any(
                    (a.op == b.op == "picked" and a.args[0] is b.args[0])
                    or (a.op == b.op == "absent" and a.attrs == b.attrs)
                    for a, b in zip(phi.args[1:], other.args[1:], strict=True)
                ):
                    self.branches[phi.id] = self._test(other)

    def _test(self, phi: Node) -> int:
        """The phi that a branch goes by."""
        return self.branches.get(phi.id, phi.id)

    def _companions(self, phi: Node) -> list[Node]:
        nodes = [i.node for i in self.items.values() if i.node is not None]
        return [
            n
            for n in nodes
            if n.op == "phi" and n is not phi and self._test(n) == self._test(phi)
            if n.id not in self.emitted and self.name(n) is None
        ]

    def _branch_together(self, phis: list[Node]) -> None:
        for dep in [d for phi in phis for d in self._hoisted(phi)]:
            self.prepare(dep)
        self.spans = [phi.span for phi in phis]
        names: list[str] = []
        for phi in phis:
            names.append(self.take_name(phi))
            self.reserved.add(names[-1])
        self.reserved -= set(names)
        spans, cond = self.spans, phis[0].args[0]
        sides = [(True, phis[0].args[1]), (False, phis[0].args[2])]
        test = f"if {self.scope.condition(cond, self, sides)}:"
        self.line(test, spans, reads=(), cond=cond)
        for i, side in ((1, True), (2, False)):
            if i == 2:
                self.line("else:", spans, reads=())
            parts = zip(phis, names, strict=True)
            self._side(side, [(phi, phi.args[i], name) for phi, name in parts])
        for phi, name in zip(phis, names, strict=True):
            self.hold(phi, name)

    def _side(self, side: bool, parts: list[tuple[Node, Node, str]]) -> None:
        """One side of a branch: (phi, what it is there, under which name)."""
        saved = (
            {k: list(v) for k, v in self.called.items()},
            dict(self.holder),
            self.region,
        )
        self.indent += 1
        for phi, operand, name in parts:
            self.region = (*saved[2], (self._test(phi), side))
            self._put(operand, name)
        self.indent -= 1
        self.called, self.holder, self.region = saved

    def _put(self, operand: Node, name: str) -> None:
        item = self._item(operand)
        if self.name(operand) is not None:
            self.spans, self.reads = [], []
            if self.holder.get(name) is not operand:
                text = f"{name} = {self.operand(operand)}"
                self.line(text, writes=[(name, operand)])
        elif item is not None and item.call is not None:
            self._call(item)
            given = self.name(operand)
            if given is not None and given != name:
                self._rename_last(given, name)
        elif operand.op in ("phi", "item", "picked"):
            self.prepare(operand)
            self.reads = []
            if self.name(operand) != name:
                text = f"{name} = {self.operand(operand)}"
                self.line(text, writes=[(name, operand)])
        else:
            for dep in self._deps(item) if item is not None else []:
                self.prepare(dep)
            self.statement(operand, name)

    def _rename_last(self, old: str, new: str) -> None:
        last = self.lines[-1]
        head, _, tail = last.text.partition(" = ")
        last.text = head.replace(old, new) + " = " + tail
        last.writes = [(new if n == old else n, node) for n, node in last.writes]

    def _side_needs_code(self, operand: Node, name: str) -> bool:
        return self.holder.get(name) is not operand

    def _phi_name(self, phi: Node, then: Node, other: Node) -> str:
        """The name of an operand that ends here, or a new one."""
        for operand in (then, other):
            name = self.name(operand)
            if name is not None and not self._alive(operand, phi):
                return name
        return self.take_name(phi)

    def _hoisted(self, phi: Node) -> list[Node]:
        """What the branches read that is made before them."""
        out: list[Node] = []
        seen: set[int] = set()

        def visit(node: Node) -> None:
            if node.id in seen:
                return
            seen.add(node.id)
            item = self._item(node)
            if item is None:
                return
            region = self.regions.get(item.key, ())
            if not any(step[0] == self._test(phi) for step in region):
                out.append(node)
                return
            for dep in self._deps(item):
                visit(dep)

        visit(phi.args[1])
        visit(phi.args[2])
        return out

    # -- names

    def _alive(self, node: Node, phi: Node) -> bool:
        """Whether a statement yet to come, outside phi and its branches, reads node."""
        for reader, region in self.readers.get(node.id, []):
            test = self._test(phi)
            if reader == phi.id or any(step[0] == test for step in region):
                continue
            if reader not in self.emitted and not _exclusive(region, self.region):
                return True
        return False

    def take_name(self, node: Node) -> str:
        """A name for node: the source's, unless it holds a value that is still read."""
        candidates = preferred(node, self.frame)
        for name in candidates:
            if self._free(name, node):
                return name
            if self._save(name, node):
                return name
        fallback = self.scope.fallback(node, self)
        for name in fallback:
            if self._free(name, node):
                return name
        base = (candidates or fallback)[0]
        number = 2
        while not self._free(f"{base}_{number}", node):
            number += 1
        return f"{base}_{number}"

    def _free(self, name: str, node: Node) -> bool:
        if name in self.reserved:
            return False
        held = self.holder.get(name)
        if held is None or held is node:
            return True
        others = [n for n in self.called.get(held.id, []) if self.holder.get(n) is held]
        return len(others) > 1 or not self._alive_after(held, node)

    def _alive_after(self, held: Node, node: Node) -> bool:
        """Whether held is read by anything but the statement that makes node."""
        keys = self._statement_keys(node)
        for reader, region in self.readers.get(held.id, []):
            if reader in keys or reader in self.emitted:
                continue
            if _exclusive(region, self.region) or self._within(reader, keys):
                continue
            return True
        return False

    def _statement_keys(self, node: Node) -> set[int]:
        """Of the readers of values, those that the statement which makes node is."""
        keys = {node.id}
        inner = node.frame if node.frame is not self.frame else None
        if inner is not None and self.graph.inside(node, self.frame):
            keys.add(-id(inner.child_of(self.frame)))
        return keys | self.scope.group_keys(node)

    def _read_by(self, node: Node, held: Node) -> bool:
        """Whether the statement that makes node reads held."""
        keys = self._statement_keys(node)
        readers = [reader for reader, _ in self.readers.get(held.id, [])]
        return any(r in keys or self._within(r, keys) for r in readers)

    def _within(self, reader: int, keys: set[int]) -> bool:
        """Whether the reader is written in place inside the statement of one of keys."""
        item = self.items.get(reader)
        if item is None or item.node is None or not self.inline(item.node):
            return False
        users = [r for r, _ in self.readers.get(reader, [])]
        return bool(users) and all(u in keys or self._within(u, keys) for u in users)

    def _save(self, name: str, node: Node) -> bool:
        """Give the value that a name holds its other name: `residual = hidden_states`.

        The line stands before the statement that makes node, so what that reads keeps
        its name.
        """
        held = self.holder.get(name)
        if held is None:
            return False
        for other in hinted(held, self.frame):
            if other == name or other in self.reserved:
                continue
            current = self.holder.get(other)
            if current is None or not (
                self._alive_after(current, held) or self._read_by(node, current)
            ):
                text = f"{other} = {name}"
                self.line(text, [], reads=[(name, held)], writes=[(other, held)])
                self.called[held.id].append(other)
                self.holder[other] = held
                return True
        return False


def _common(regions: list[Region]) -> Region:
    if not regions:
        return ()
    out = regions[0]
    for region in regions[1:]:
        n = 0
        while n < min(len(out), len(region)) and out[n] == region[n]:
            n += 1
        out = out[:n]
    return out


def _exclusive(a: Region, b: Region) -> bool:
    """Whether two places are on different sides of one condition."""
    for x, y in zip(a, b, strict=False):
        if x != y:
            return x[0] == y[0]
    return False
