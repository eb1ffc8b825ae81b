"""The loop over experts: each works on the tokens that were routed to it.

    mask = one_hot(ids, num_experts).permute(2, 1, 0)
    for e in (mask.sum((-1, -2)) > 0).nonzero():        # or range(num_experts)
        slot, token = torch.where(mask[e])
        y = expert_e(x[token]) * weights[token, slot, None]
        out.index_add_(0, token, y)

is one operation: the sum over the slots of a token of weight * expert(x). Its body is
followed once, for one pair of a token and a slot and whichever expert that is for: `pair`
is an axis of its own, which nothing but this loop knows.
"""

import ast
from dataclasses import dataclass, field
from typing import Any

from porter.analyze import axes as ax
from porter.analyze.graph import Axis, Factor, Node, axis_size, walk
from porter.analyze.part import Part
from porter.analyze.sequences import SymRange
from porter.analyze.symbols import Sym, arith, constant, is_symbolic, negate, same
from porter.analyze.values import Module, Opaque, is_scalar

PAIRS = Sym("runtime", ("pairs",))


@dataclass(eq=False)
class Experts:
    """One loop: the one-hot mask that says who goes where, or how many are counted."""

    mask: Node | None = None
    count: Any = None
    skipped: Any = None  # the expert number that `continue` leaves out
    pair: Axis = field(default_factory=lambda: (Factor(PAIRS, "pair"),))


@dataclass(frozen=True)
class ExpertHit:
    """The numbers of the experts that any token goes to, by a mask."""

    mask: Node


@dataclass(frozen=True)
class ExpertIndex:
    """The number of the expert at hand."""

    loop: Experts


@dataclass(frozen=True)
class PairIndex:
    """Of each pair the token, or the slot: axis of the mask without its experts."""

    loop: Experts
    axis: Axis

    @property
    def is_token(self) -> bool:
        return bool(ax.roles(self.axis))


class ExpertLoops(Part):
    """What the loop's own values do."""

    experts: "Experts | None"

    def expert_iteration(self, iterable) -> Experts | None:
        if isinstance(iterable, ExpertHit):
            return Experts(mask=iterable.mask)
        if isinstance(iterable, SymRange) and self.frame is not None:
            if same(iterable.start, 0):
                return Experts(count=iterable.stop)
        return None

    def loop_experts(self, stmt: ast.For, loop: Experts, env) -> None:
        if self.experts is not None:
            raise self.gap("a loop over experts inside another isn't followed")
        if stmt.orelse:
            raise self.gap("`else` of a loop over experts isn't followed")
        before = dict(env.vars)
        stored = _stored_names(self, stmt.body)
        for name in stored & set(before):
            env.vars[name] = self._carried(before[name], name)
        entered = dict(env.vars)
        self.experts = loop
        try:
            self.assign(stmt.target, ExpertIndex(loop), env)
            signal = self.run_block(stmt.body, env)
        finally:
            self.experts = None
        if signal is not None:
            raise self.gap("leaving a loop over experts early isn't followed")
        self._close_experts(loop, before, entered, stored, env)

    def _carried(self, value, name: str):
        """What a name that the body binds holds when an expert's turn begins."""
        if isinstance(value, Node):
            return self.node(
                "expert_carry", (), value.axes, dtype=value.dtype, unique=object()
            )
        return Opaque(f"`{name}` as the last expert left it")

    def _close_experts(self, loop, before, entered, stored, env) -> None:
        sums = 0
        for name, value in list(env.vars.items()):
            old = entered.get(name)
            if value is old:
                if name in stored and name in before:
                    env.vars[name] = before[name]
                continue
            total = self._total(loop, value, old, before.get(name))
            sums += isinstance(total, Node)
            env.vars[name] = total or Opaque(f"`{name}` as the last expert left it")
            self.hint(env.vars[name], name, env)
        if sums != 1:
            raise self.gap(f"a loop over experts that makes {sums} sums isn't followed")

    def _total(self, loop: Experts, value, old, start) -> Node | None:
        """The sum that a name stands for behind the loop; None where it is none."""
        if not (isinstance(value, Node) and value.op == "scatter_pairs"):
            return None
        if value.args[0] is not old or not isinstance(start, Node):
            raise self.gap("experts' results are added in a way that isn't followed")
        body = value.args[1]
        reads = {n.id for n in walk([body])}
        if old.id in reads or any(n.op == "expert_carry" for n in walk([body])):
            raise self.gap("an expert reads what those before it have made")
        if loop.mask is None:
            raise self.gap("a loop over experts without a mask of theirs")
        from porter.analyze.torch_creation import is_zero

        ids, classes = _hot(loop.mask).args
        total = self.node(
            "experts", (ids, body), start.axes, dtype=start.dtype,
            classes=classes, skipped=loop.skipped, count=loop.count,
        )  # fmt: skip
        if is_zero(start):
            return total
        return self.elementwise("add", start, total)

    # -- in the loop

    def index_by_pairs(self, x: Node, items: list) -> Node:
        """x[token], w[token, slot], w[token, slot, None], x[None, token]."""
        pairs = [i for i in items if isinstance(i, PairIndex)]
        loop = pairs[0].loop
        lead = items.index(pairs[0])
        rest = items[lead + len(pairs) :]
        if items[lead : lead + len(pairs)] != pairs or any(
            i is not None for i in [*items[:lead], *rest]
        ):
            raise self.gap("a tensor is indexed by routed tokens and something else")
        if loop is not self.experts or len(pairs) > len(x.axes):
            raise self.gap("routed tokens are used outside their loop")
        for pair, axis in zip(pairs, x.axes, strict=False):
            if ax.roles(pair.axis) != ax.roles(axis) or not (
                pair.is_token or same(axis_size(pair.axis), axis_size(axis))
            ):
                raise self.gap("routed tokens index another axis than their own")
        if not pairs[0].is_token:
            raise self.gap("slots alone index a tensor")
        axes = [loop.pair, *x.axes[len(pairs) :]]
        op = "dispatch" if len(pairs) == 1 else "pair_value"
        out = self.node(op, (x,), tuple(axes), dtype=x.dtype, loop=loop)
        for i in range(len(rest)):
            out = self._with_axis(out, 1 + i)
        for _ in range(lead):
            out = self._with_axis(out, 0)
        return out

    def _with_axis(self, x: Node, at: int) -> Node:
        from porter.analyze.torch_shapes import unsqueeze

        return unsqueeze(self, x, at)

    def index_by_expert(self, x, index: ExpertIndex):
        """mask[e] says whose pairs these are; weight[e], experts[e] are the expert's."""
        loop = index.loop
        if loop is not self.experts:
            raise self.gap("an expert's number is used outside its loop")
        if isinstance(x, Module):
            if x.leaf != "torch.nn.ModuleList" or x.element is None:
                raise self.gap("an expert that isn't an item of a ModuleList")
            self._check_count(x.count)
            return x.element
        if is_mask(x):
            return self._index_mask(loop, x)
        if not isinstance(x, Node) or not x.axes or ax.roles(x.axes[0]):
            raise self.gap("an expert's number indexes something that isn't experts'")
        self._check_count(axis_size(x.axes[0]))
        return self.node("expert_part", (x,), x.axes[1:], dtype=x.dtype, loop=loop)

    def _check_count(self, size) -> None:
        loop = self.experts
        if loop is not None and loop.count is not None and not same(loop.count, size):
            raise self.gap("a loop over some of the experts")

    def _index_mask(self, loop: Experts, mask: Node) -> Node:
        if loop.mask is not None and loop.mask is not mask:
            raise self.gap("experts are chosen by one mask and given tokens by another")
        loop.mask = mask
        return self.node("pair_mask", (mask,), mask.axes[1:], loop=loop)

    def where_pairs(self, x: Node) -> tuple:
        """torch.where(mask[e]): the tokens and slots, in the order of the mask's axes."""
        if x.op != "pair_mask" or len(x.axes) != 2:
            raise self.gap("`where` without values depends on the data")
        return tuple(PairIndex(x.attrs["loop"], axis) for axis in x.axes)

    def index_add(self, x: Node, dim, index, source, alpha=1) -> Node:
        if not isinstance(index, PairIndex) or not index.is_token:
            raise self.gap("`index_add` mixes tokens outside a loop over experts")
        if constant(dim) != 0 or constant(alpha) != 1 or index.loop is not self.experts:
            raise self.gap("`index_add` of this form isn't followed")
        if not isinstance(source, Node) or len(source.axes) != len(x.axes):
            raise self.gap("`index_add` of something that isn't the routed tokens'")
        fits = source.axes[0] == index.loop.pair and ax.roles(x.axes[0]) == ax.roles(
            index.axis
        )
        for mine, other in zip(x.axes[1:], source.axes[1:], strict=True):
            fits = fits and self.must_equal(axis_size(mine), axis_size(other))
        if not fits:
            raise self.gap("`index_add` of other sizes than the routed tokens'")
        return self.node("scatter_pairs", (x, source), x.axes, dtype=x.dtype)

    def skips_expert(self, cond, body: list[ast.stmt]) -> bool:
        """`if expert == n: continue`: noted, and gone on for the others."""
        if not (isinstance(cond, Sym) and cond.op == "is_expert" and self.experts):
            return False
        if len(body) != 1 or not isinstance(body[0], ast.Continue):
            raise self.gap("experts that do different things aren't followed")
        if self.experts.skipped is not None:
            raise self.gap("two kinds of experts are left out")
        self.experts.skipped = cond.args[0]
        return True


def any_pairs(cond) -> bool | None:
    """`if token.numel() > 0`: where an expert has no tokens it adds nothing, so that the
    body is followed as if it had some."""
    if not isinstance(cond, Sym):
        return None
    if cond.op == "not":
        inner = any_pairs(cond.args[0])
        return None if inner is None else not inner
    if cond.op == "lt" and constant(cond.args[0]) == 0 and same(cond.args[1], PAIRS):
        return True
    if cond.op == "eq" and same(cond.args[0], PAIRS) and constant(cond.args[1]) == 0:
        return False
    return None


def attribute(interp, obj, name: str, args: list) -> Any:
    """A method of one of the loop's values."""
    if isinstance(obj, PairIndex) and name in ("numel", "size"):
        return PAIRS
    if name in ("tolist", "item", "flatten", "squeeze", "view", "to", "long", "cpu"):
        return obj
    raise interp.gap(f"`.{name}()` of what a loop over experts runs over")


_SWAPPED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def compare_expert(interp, op: str | None, left, right) -> Sym:
    """Whether the expert at hand is that of a number, or one of those below a number."""
    index, number = (left, right) if isinstance(left, ExpertIndex) else (right, left)
    if index is right and op is not None:
        op = _SWAPPED[op]
    if op is None or not is_scalar(number) or index.loop is not interp.experts:
        raise interp.gap("an expert's number is compared")
    if op in ("eq", "ne"):
        found = Sym("is_expert", (number,))
    else:
        over = op in ("le", "gt")
        found = Sym("expert_below", (arith("add", number, 1) if over else number,))
    return negate(found) if op in ("ne", "gt", "ge") else found


def is_mask(x) -> bool:
    """Whether x is a one_hot of expert numbers with the experts' axis in front."""
    if not isinstance(x, Node):
        return False
    hot = _one_hot(x)
    return hot is not None and len(x.axes) == 3 and x.axes[0] == hot.axes[-1]


def _one_hot(x: Node) -> Node | None:
    while x.op in ("rearrange", "cast"):
        x = x.args[0]
    return x if x.op == "one_hot" else None


def _hot(mask: Node) -> Node:
    hot = _one_hot(mask)
    assert hot is not None
    return hot


def load(interp, x: Node, dims: list[int], keepdim) -> Node | None:
    """mask.sum over everything but the experts: how many go to each."""
    if not is_mask(x) or sorted(d % 3 for d in dims) != [1, 2] or keepdim:
        return None
    return interp.node("expert_load", (x,), x.axes[:1], dtype="int64")


def hit(interp, x: Node) -> ExpertHit:
    """(load > 0).nonzero()"""
    ok = x.op == "gt" and isinstance(x.args[0], Node) and x.args[0].op == "expert_load"
    if not ok or is_symbolic(x.args[1]) or constant(x.args[1]) != 0:
        raise interp.gap("`nonzero` depends on the data")
    return ExpertHit(x.args[0].args[0])


def _stored_names(interp, body: list[ast.stmt]) -> set[str]:
    found = set()
    for stmt in body:
        for node in ast.walk(stmt):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                raise interp.gap("an attribute is set in a loop over experts")
            elif isinstance(node, ast.Attribute) and node.attr in ("append", "extend"):
                raise interp.gap("a list is filled in a loop over experts")
    return found
