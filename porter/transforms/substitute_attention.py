"""matmul(softmax(scale * q @ k.T [soft cap] + mask), v)  ->  Attention(q, k, v).

The engine owns the key/value cache, so attention must be its own layer. It is recognised
by what it computes: scores of queries with the cached keys, scaled, perhaps soft-capped,
a mask that is proved causal (see causal_masks), softmax over the history, a weighted sum
of the cached values. Grouped heads are read off the axes of the repeated keys.

Before: torch.matmul(softmax(torch.matmul(q, repeat(k).transpose(2, 3)) * s + mask), v)
After:  self.attn(q, k, v) with scale s, num_kv_heads, per_layer_sliding_window, soft cap,
        sinks
Refuses: no mask, one that is not proved causal, anything else between scores and sum.
"""

from dataclasses import dataclass
from typing import Any

from porter.analyze.graph import Node, axis_size, has_role, walk
from porter.analyze.inequalities import without_cache
from porter.analyze.paths import Unproved
from porter.analyze.symbols import Poly, Sym, arith, constant, poly, same, unwrap
from porter.transforms.alibi import scaled_slopes, slopes_of, summed
from porter.transforms.attention_sinks import Weights, match_gate, match_weights
from porter.transforms.base import Transform, settle
from porter.transforms.cached_states import cached_states, heads_apart, viewed
from porter.transforms.causal_masks import prove_causal
from porter.transforms.matching import (
    either_way,
    is_op,
    scaled,
    strip_casts,
    strip_views,
)
from porter.transforms.merging import merge_equal
from porter.transforms.shared_caches import sharing_of


@dataclass
class Scores:
    query: Node
    key: Node
    scale: Any
    soft_cap: Any
    window: Any
    slopes: Node | None


@dataclass
class Curve:
    """scale * base under a soft cap, plus biases, each times a factor."""

    base: Any
    scale: Any
    cap: Any
    biases: list[tuple[Node, Any]]


class SubstituteAttention(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        self.readers = self.users()
        for node in self.nodes():
            if node.op == "matmul" and _over_history(node.args[1], -2):
                self._replace(node)
        settle(self.facts)
        merge_equal(self.facts)
        for node in reversed(self.nodes()):  # the one furthest on says most
            if node.op == "seq_index":
                raise self.gap(
                    node.span,
                    "tokens are numbered from 0 at every step",
                    "positions must count the tokens before: add the cache's length",
                )
            if node.op == "left":
                raise self.gap(
                    node.span,
                    "a layer reads what an earlier one left, beside keys and values",
                    "a value that all later layers read can be carried by the loop",
                )
            if any(has_role(axis, "hist", "span") for axis in node.axes):
                raise self.gap(
                    node.span,
                    f"`{node.op}` on cached tokens outside an attention that is recognised",
                    "attention must be softmax(scale * q @ k.T + mask) @ v",
                )

    def _replace(self, node: Node) -> None:
        weights = match_weights(strip_views(node.args[0]))
        if weights is None or not _over_history(weights.softmax, -1):
            raise self.gap(
                node.span, "cached values are summed with weights that are no softmax"
            )
        if weights.softmax.attrs["dim"] != -1:
            raise self.gap(
                weights.softmax.span, "softmax over another axis than the cached tokens"
            )
        scores = self._scores(weights)
        sinks, whole = weights.sinks, node
        gated = match_gate(node, weights, self.readers) if sinks is None else None
        if gated is not None:
            whole, sinks = gated
        shares = sharing_of(scores.key, node.args[1])
        query = self._with_heads(strip_casts(scores.query))
        key_states = cached_states(scores.key, node, True, self.make)
        value_states = cached_states(node.args[1], node, False, self.make)
        for states in (query, key_states, value_states):
            roles = [tuple(f.role for f in a if f.role) for a in states.axes]
            if roles != [("batch",), (), ("seq",), ()]:
                raise self.gap(
                    states.span,
                    "attention whose operands aren't [batch, heads, seq, dim]",
                )
        scale, query = self._fold_query_scale(scores.scale, query)
        if not _may_be_positive(scale):
            raise self.gap(
                node.span,
                "attention scores are scaled by a number that isn't positive",
                "attention kernels mask before they scale; negate the queries instead",
            )
        attend = self.make(
            "attend",
            (query, key_states, value_states),
            node,
            axes=heads_apart(node.axes) or node.axes,
            scale=scale,
            soft_cap=scores.soft_cap,
            window=scores.window,
            slopes=scores.slopes,
            num_heads=axis_size(query.axes[1]),
            num_kv_heads=axis_size(key_states.axes[1]),
            head_size=axis_size(query.axes[3]),
            head_size_v=axis_size(value_states.axes[3]),
            sinks=sinks,
            sinks_cond=weights.cond,
            shares=shares,
        )
        self._check_heads(node, query, key_states, value_states)
        self._check_sinks(attend)
        found = attend
        if len(node.axes) != 4:
            found = self.make("rearrange", (attend,), node)
        self.change(
            whole,
            found,
            "softmax(q @ k.T) @ v over the cache is the engine's attention",
        )

    def _check_sinks(self, attend: Node) -> None:
        sinks = attend.attrs["sinks"]
        if sinks is None:
            return
        held = attend.frame.inst if attend.frame else None
        if sinks.attrs.get("slot", (None,))[0] is not held:
            raise self.gap(attend.span, "sinks that another module holds")
        if not same(axis_size(sinks.axes[0]), attend.attrs["num_heads"]):
            raise self.gap(attend.span, "sinks that aren't one for each head")

    # -- the scores, from the softmax inwards

    def _scores(self, weights: Weights) -> Scores:
        softmax = weights.softmax
        value, window, temperature = self._mask(weights)
        curve = self._curve(value)
        scale, cap = curve.scale, curve.cap
        if cap is None:
            scale = _times(scale, temperature)
        elif not same(temperature, 1.0):
            scale, cap = _times(scale, temperature), _times(cap, temperature)
        base = curve.base
        if not is_op(base, "matmul") or not _over_history(base, -1):
            what = base.op if isinstance(base, Node) else "a scalar"
            span = base.span if isinstance(base, Node) else softmax.span
            raise self.gap(
                span,
                f"attention scores go through `{what}`",
                "vLLM's Attention takes scale * q @ k.T, a soft cap and a mask",
            )
        slopes = self._slopes(curve.biases, temperature, softmax)
        return Scores(base.args[0], base.args[1], scale, cap, window, slopes)

    def _slopes(self, biases, temperature, softmax: Node) -> Node | None:
        """What the biases add up to, for each head and position."""

        def make(op: str, args: tuple, axes) -> Node:
            return self.make(op, args, softmax, axes=axes, dtype="float32")

        parts = []
        for bias, factor in biases:
            try:
                slopes = slopes_of(bias, make)
            except Unproved as why:
                raise self.gap(
                    bias.span, str(why), "vLLM's Attention takes alibi_slopes"
                ) from why
            parts.append(scaled_slopes(slopes, _times(factor, temperature), make))
        if not parts:
            return None
        self.note(parts[0].span, "slope * key position is attention's own bias")
        return summed(parts, make)

    def _curve(self, value) -> Curve:
        """s * base, or c * tanh(s * base / c) where c isn't None, plus biases."""
        value = strip_views(value)
        part = scaled(value)
        if part is not None:
            inner, factor, op = part
            curve = self._curve(inner)
            factor = factor if op == "mul" else arith("truediv", 1.0, factor)
            return Curve(
                curve.base,
                _times(curve.scale, factor),
                curve.cap if curve.cap is None else _times(curve.cap, factor),
                [(bias, _times(f, factor)) for bias, f in curve.biases],
            )
        if is_op(value, "tanh"):
            curve = self._curve(value.args[0])
            if curve.cap is None and not curve.biases:
                return Curve(curve.base, curve.scale, 1.0, [])
        if is_op(value, "add"):
            for bias, rest in either_way(value):
                curve = self._curve(rest)
                if is_op(curve.base, "matmul") and _over_history(curve.base, -1):
                    if not _holds_scores(bias):
                        biases = [*curve.biases, (bias, 1.0)]
                        return Curve(curve.base, curve.scale, curve.cap, biases)
        if is_op(value, "phi"):
            cond, a, b = value.args
            left, right = self._curve(a), self._curve(b)
            if left.base is right.base and not (left.biases or right.biases):
                return Curve(
                    left.base,
                    _either(cond, left.scale, right.scale),
                    _either(cond, left.cap, right.cap),
                    [],
                )
        return Curve(value, 1.0, None, [])

    def _mask(self, weights: Weights):
        value, temperature = strip_views(weights.scores), 1.0
        while (part := scaled(value)) is not None and _is_positive(part[1]):
            # the mask is 0 or -inf: a positive factor leaves it as it is
            factor = part[1] if part[2] == "mul" else arith("truediv", 1.0, part[1])
            value, temperature = strip_views(part[0]), _times(temperature, factor)
        try:
            masked = prove_causal(value, self._known())
        except Unproved as why:
            raise self.gap(
                weights.softmax.span,
                f"attention without a causal mask on its scores: {why}",
                "a port is a decoder: each token attends to those before it",
            ) from why
        return strip_views(masked.scores), masked.window, temperature

    def _known(self) -> tuple[Poly, ...]:
        return without_cache() if self.facts.interpreter.cacheless else ()

    # -- the operands

    def _with_heads(self, query: Node) -> Node:
        """[batch, heads, seq, dim], also of queries whose heads stand with the batch."""
        axes = heads_apart(query.axes)
        if axes is None:
            raise self.gap(
                query.span, "attention whose operands aren't [batch, heads, seq, dim]"
            )
        if len(query.axes) == 4:
            return query
        base = query.args[0] if query.op == "rearrange" else query
        view = viewed(base, axes, self.make)
        if view is not base:
            view.hints = query.hints
        return view

    def _check_heads(self, node: Node, query: Node, keys: Node, values: Node) -> None:
        if not same(axis_size(keys.axes[1]), axis_size(values.axes[1])):
            raise self.gap(node.span, "keys and values have different head counts")

    def _fold_query_scale(self, scale, query: Node):
        """q * s before the scores is a scale of s."""
        base = query.args[0] if query.op == "rearrange" else query
        part = scaled(strip_casts(base))
        if part is None or part[2] != "mul" or unwrap(part[1]) is None:
            return scale, query
        tensor, factor, _ = part
        new = tensor
        if query.op == "rearrange":
            new = self.make("rearrange", (tensor,), query)
            new.hints = query.hints
        folded = factor if same(scale, 1.0) else arith("mul", scale, factor)
        self.note(base.span, "a scale on the queries is the scale of attention")
        return folded, new


def _over_history(node, axis: int) -> bool:
    if not isinstance(node, Node) or len(node.axes) < 2:
        return False
    return has_role(node.axes[axis], "hist", "span")


def _holds_scores(node) -> bool:
    """Whether queries and keys go into a value too."""
    if not isinstance(node, Node):
        return True
    return any(n.op in ("remember", "linear", "attend") for n in walk([node]))


def _times(a, b):
    if same(a, 1.0):
        return b
    return a if same(b, 1.0) else arith("mul", a, b)


def _is_positive(value) -> bool:
    """Whether a scalar is above 0 in every model that works: sizes are, and roots of what
    is divided by."""
    number = constant(value)
    if number is not None:
        return number > 0
    inner = unwrap(value)
    if not isinstance(inner, Sym):
        return False
    if inner.op == "pow":
        return _is_positive(inner.args[0]) or constant(inner.args[1]) in (0.5, -0.5)
    if inner.op in ("mul", "truediv"):
        return all(_is_positive(a) for a in inner.args)
    return False


def _may_be_positive(scale) -> bool:
    """False for a factor that is 0 or less for all sizes, which are positive."""
    terms = poly(scale)
    return any(coefficient > 0 for coefficient in terms.values())


def _either(cond, a, b):
    """a where cond holds, else b; a value that is its own default is itself."""
    if a is b or (a is not None and b is not None and same(a, b)):
        return a
    test = unwrap(cond)
    if isinstance(test, Sym) and test.op == "not":
        return _either(test.args[0], b, a)
    if isinstance(test, Sym) and test.op == "is_none" and a is None:
        if same(test.args[0], b):
            return b
    return Sym("ifexp", (cond, a, b))
