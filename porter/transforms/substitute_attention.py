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

from porter.analyze.graph import Factor, Node, axis_size, has_role
from porter.analyze.paths import Unproved
from porter.analyze.symbols import Sym, arith, constant, poly, same, unwrap
from porter.transforms.attention_sinks import Weights, match_gate, match_weights
from porter.transforms.base import Transform
from porter.transforms.causal_masks import prove_causal
from porter.transforms.matching import is_op, scaled, strip_casts


@dataclass
class Scores:
    query: Node
    key: Node
    scale: Any
    soft_cap: Any
    window: Any


class SubstituteAttention(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        self.readers = self.users()
        for node in self.nodes():
            if node.op == "matmul" and _over_history(node.args[1], -2):
                self._replace(node)
        for node in reversed(self.nodes()):  # the one furthest on says most
            if node.op == "seq_index":
                raise self.gap(
                    node.span,
                    "tokens are numbered from 0 at every step",
                    "positions must count the tokens before: add the cache's length",
                )
            if any(has_role(axis, "hist", "span") for axis in node.axes):
                raise self.gap(
                    node.span,
                    f"`{node.op}` on cached tokens outside an attention that is recognised",
                    "attention must be softmax(scale * q @ k.T + mask) @ v",
                )

    def _replace(self, node: Node) -> None:
        weights = match_weights(node.args[0])
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
        query, key_states = (
            scores.query,
            self._remembered(scores.key, node, transposed=True),
        )
        value_states = self._remembered(node.args[1], node, transposed=False)
        if (
            len(query.axes) != 4
            or len(key_states.axes) != 4
            or len(value_states.axes) != 4
        ):
            raise self.gap(
                node.span, "attention whose operands aren't [batch, heads, seq, dim]"
            )
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
            scale=scale,
            soft_cap=scores.soft_cap,
            window=scores.window,
            num_heads=axis_size(query.axes[1]),
            num_kv_heads=axis_size(key_states.axes[1]),
            head_size=axis_size(query.axes[3]),
            head_size_v=axis_size(value_states.axes[3]),
            sinks=sinks,
            sinks_cond=weights.cond,
        )
        self._check_heads(node, query, key_states, value_states)
        self._check_sinks(attend)
        self.change(
            whole,
            attend,
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
        base, scale, cap = self._curve(value)
        if cap is None:
            scale = _times(scale, temperature)
        elif not same(temperature, 1.0):
            scale, cap = _times(scale, temperature), _times(cap, temperature)
        if not is_op(base, "matmul") or not _over_history(base, -1):
            what = base.op if isinstance(base, Node) else "a scalar"
            span = base.span if isinstance(base, Node) else softmax.span
            raise self.gap(
                span,
                f"attention scores go through `{what}`",
                "vLLM's Attention takes scale * q @ k.T, a soft cap and a mask",
            )
        return Scores(base.args[0], base.args[1], scale, cap, window)

    def _curve(self, value):
        """(base, s, c) of s * base, or of c * tanh(s * base / c) where c isn't None."""
        value = strip_casts(value)
        part = scaled(value)
        if part is not None:
            inner, factor, op = part
            base, scale, cap = self._curve(inner)
            factor = factor if op == "mul" else arith("truediv", 1.0, factor)
            return (
                base,
                _times(scale, factor),
                cap if cap is None else _times(cap, factor),
            )
        if is_op(value, "tanh"):
            base, scale, cap = self._curve(value.args[0])
            if cap is None:
                return base, scale, 1.0
        if is_op(value, "phi"):
            cond, a, b = value.args
            left, right = self._curve(a), self._curve(b)
            if left[0] is right[0]:
                return (
                    left[0],
                    _either(cond, left[1], right[1]),
                    _either(cond, left[2], right[2]),
                )
        return value, 1.0, None

    def _mask(self, weights: Weights):
        value, temperature = strip_casts(weights.scores), 1.0
        while (part := scaled(value)) is not None and _is_positive(part[1]):
            # the mask is 0 or -inf: a positive factor leaves it as it is
            factor = part[1] if part[2] == "mul" else arith("truediv", 1.0, part[1])
            value, temperature = strip_casts(part[0]), _times(temperature, factor)
        try:
            masked = prove_causal(value)
        except Unproved as why:
            raise self.gap(
                weights.softmax.span,
                f"attention without a causal mask on its scores: {why}",
                "a port is a decoder: each token attends to those before it",
            ) from why
        return strip_casts(masked.scores), masked.window, temperature

    # -- the operands

    def _remembered(self, node, where: Node, transposed: bool) -> Node:
        """The states before they were cached: [batch, kv heads, seq, dim]."""
        base = node
        while is_op(base, "rearrange", "cast"):
            base = base.args[0]
        if not is_op(base, "remember"):
            span = base.span if isinstance(base, Node) else where.span
            raise self.gap(
                span,
                f"cached keys or values go through `{base.op}`",
                "apply it before the cache is updated",
            )
        axes = list(node.axes)
        if transposed:
            axes[-1], axes[-2] = axes[-2], axes[-1]
        kept = [tuple(f for f in _leaves(axis) if not f.repeats) for axis in axes]
        wanted = [_leaves(axis) for axis in base.axes]
        if [list(map(id, a)) for a in kept] != [list(map(id, a)) for a in wanted]:
            raise self.gap(node.span, "the cached heads are regrouped before attention")
        heads = _leaves(axes[1])
        repeats = [i for i, f in enumerate(heads) if f.repeats]
        if repeats and repeats != [len(heads) - 1]:
            raise self.gap(
                node.span,
                "key/value heads are repeated in another order than vLLM's",
                "query head i must read key/value head i // group",
            )
        if any(f.repeats for a in (axes[0], axes[2], axes[3]) for f in a):
            raise self.gap(node.span, "cached tokens are repeated")
        return base.args[0]

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


def _leaves(axis) -> tuple[Factor, ...]:
    return tuple(leaf for f in axis for leaf in f.leaves())


def _times(a, b):
    if same(a, 1.0):
        return b
    return a if same(b, 1.0) else arith("mul", a, b)


def _is_positive(value) -> bool:
    number = constant(value)
    return number is not None and number > 0


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
