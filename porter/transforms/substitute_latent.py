"""attn(q, cat(k, rope), v) with k, v = up(c)  ->  MLAAttention(q, c, rope) where it may be

Latent attention makes keys without position and values as one projection of a compressed
vector, and gives all heads the same rotated part of the key. vLLM's latent cache stores
the vector and that part, once a token; whether an engine has such a cache it says itself
(`model_config.use_mla`), so the port has both forms and takes the one that fits.

Proved are: keys are, head by head, the first columns of the projection and then what is
equal for all heads; values are the rest of the columns; the projection has no bias, and
nothing stands between it and attention. Queries may be anything.

Before: k_nope, v = up(c).split(...); self.attn(q, cat((k_nope, rope.expand(...))), v)
After:  if self.use_mla: self.attn(q, c, rope, output_shape=...) else: as before
Leaves: windows, soft caps, sinks and slopes, which MLAAttention has not; keys whose
        rotated part comes first; two projections.
"""

from dataclasses import dataclass
from typing import Any

from porter.analyze.axes import leaf_ids, leaves
from porter.analyze.graph import Axis, Node, axis_size, has_role
from porter.analyze.symbols import LATENT_CACHE, arith, same
from porter.transforms.base import Transform
from porter.transforms.flatten_tokens import flat_heads
from porter.transforms.matching import is_op, strip_casts, strip_views

_UNLIKE_LATENT = ("window", "soft_cap", "slopes", "sinks")


@dataclass
class _Latent:
    """up: the projection; latent: its operand; rope: the part that all heads share."""

    up: Node
    latent: Node
    rope: Node
    nope_size: Any


class SubstituteLatent(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        for attend in [n for n in self.nodes() if n.op == "attend"]:
            found = _latent_of(attend)
            if found is not None:
                self._choose(attend, found)

    def _choose(self, attend: Node, found: _Latent) -> None:
        """A choice of two attentions in the place of one, all of them flat."""
        query = attend.args[0]
        batch, heads, seq, dim = query.axes
        flat = flat_heads(attend.axes)
        if not found.rope.hints:
            found.rope.attrs["role_name"] = "k_pe"
        operands = (
            self._view(query, (batch, seq, heads, dim), attend, role_name="q"),
            self._view(found.latent, _each_token(found.latent), attend),
            self._view(found.rope, _each_token(found.rope, ((),)), attend),
        )
        latent = self.make(
            "attend_latent",
            operands,
            attend,
            axes=flat,
            module=found.up.attrs["module"],
            sizes={
                "qk_nope_head_dim": found.nope_size,
                "qk_rope_head_dim": axis_size(found.rope.axes[-1]),
                "v_head_dim": attend.attrs["head_size_v"],
                "kv_lora_rank": axis_size(found.latent.axes[-1]),
            },
        )
        whole = self.make("attend", attend.args, attend, **attend.attrs)
        plain = self.make("rearrange", (whole,), attend, axes=flat)
        choice = self.make(
            "phi", (LATENT_CACHE, latent, plain), attend, axes=flat,
            role_name="attn_output",
        )  # fmt: skip
        self.change(
            attend,
            self.make("rearrange", (choice,), attend),
            "attention is over what the engine's cache holds",
        )
        self.note(
            found.up.span,
            "keys and values are one projection of what a latent cache stores",
        )

    def _view(self, node: Node, axes: tuple, attend: Node, **attrs: Any) -> Node:
        view = self.make("rearrange", (node,), node, axes=axes, **attrs)
        view.frame, view.loop = attend.frame, attend.loop
        return view


def _latent_of(attend: Node) -> _Latent | None:
    attrs = attend.attrs
    if any(attrs[name] is not None for name in _UNLIKE_LATENT):
        return None
    key, value = strip_casts(attend.args[1]), strip_casts(attend.args[2])
    key, value = _unwrapped(key), _unwrapped(value)
    if not is_op(key, "cat") or not _last(key) or len(key.args[0]) != 2:
        return None
    first, rope = (_unwrapped(part.final) for part in key.args[0])
    up = _projection(value, attend)
    if up is None or _projection(first, attend) is not up:
        return None
    nope_size = axis_size(first.axes[-1])
    whole = arith("add", nope_size, attrs["head_size_v"])
    cuts = (first.args[1], first.args[2], value.args[1], value.args[2])
    wanted = (0, nope_size, nope_size, whole)
    if not all(same(a, b) for a, b in zip(cuts, wanted, strict=True)):
        return None
    shared = _shared(rope)
    if shared is None or not same(
        axis_size(attend.args[1].axes[1]), attrs["num_heads"]
    ):
        return None
    latent = strip_views(up.args[0])
    if any(not _is_per_token(node) for node in (latent, shared)):
        return None
    return _Latent(up, latent, shared, nope_size)


def _unwrapped(node: Node) -> Node:
    """The node under casts and views that keep every axis where it is."""
    while node.op in ("rearrange", "cast"):
        inner = node.args[0].final
        if [leaf_ids(a) for a in inner.axes] != [leaf_ids(a) for a in node.axes]:
            break
        node = inner
    return node


def _projection(part: Node, attend: Node) -> Node | None:
    """The linear layer of which `part` is a slice, head by head."""
    if not is_op(part, "slice") or not _last(part) or part.attrs.get("step", 1) != 1:
        return None
    up = strip_views(part.args[0].final)
    if not is_op(up, "linear") or up.attrs["module"].args["bias"] is not False:
        return None
    module, frame = up.attrs["module"], attend.frame
    if frame is None or up.frame is not frame or module.owner is not frame.inst:
        return None
    if module.replaced is None or module.replaced.kind != "ColumnParallelLinear":
        return None
    heads, dim = _heads_and_dim(part)
    if heads is None or leaf_ids(up.axes[-1]) != [*heads, *dim]:
        return None
    return up


def _heads_and_dim(part: Node) -> tuple[list[int] | None, list[int]]:
    """The factors of the heads and of a head's columns, of what is sliced."""
    axes = part.args[0].final.axes
    features = [a for a in axes[:-1] if a and not has_role(a, "batch", "seq")]
    if len(features) != 1:
        return None, []
    return leaf_ids(features[0]), leaf_ids(axes[-1])


def _shared(rope: Node) -> Node | None:
    """What is repeated for each head."""
    if not is_op(rope, "rearrange"):
        return None
    heads = [f for a in rope.axes[:-1] for f in leaves(a) if not f.role]
    if not heads or not all(f.repeats for f in heads):
        return None
    base = rope.args[0].final
    while is_op(base, "rearrange", "cast") and _repeats(base):
        base = base.args[0].final
    return None if _repeats(base) else base


def _repeats(node: Node) -> bool:
    return any(f.repeats for axis in node.axes for f in leaves(axis))


def _is_per_token(node: Node) -> bool:
    """[batch, seq, size], with axes of one element anywhere."""
    *lead, last = [a for a in node.axes if a]
    roles = [[f.role for f in axis] for axis in lead]
    return sorted(roles) == [["batch"], ["seq"]] and not has_role(last, "batch", "seq")


def _each_token(node: Node, between: tuple[Axis, ...] = ()) -> tuple[Axis, ...]:
    tokens = [a for a in node.axes if has_role(a, "batch", "seq")]
    return (*tokens, *between, node.axes[-1])


def _last(node: Node) -> bool:
    return node.attrs["dim"] in (-1, len(node.axes) - 1)
