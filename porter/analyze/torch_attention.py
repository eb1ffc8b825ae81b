"""torch's own attention, in the operations that it is made of.

scaled_dot_product_attention(q, k, v) = softmax(scale * q @ k.T + mask) @ v, as torch's
documentation has it: what is masked, and whether that is causal, is then proved as for an
attention that is written out.
"""

from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import arith, constant, same
from porter.analyze.torch_elementwise import binary, cast, where
from porter.analyze.torch_products import matmul
from porter.analyze.torch_reductions import softmax
from porter.analyze.torch_shapes import repeat_interleave, transpose, tril
from porter.analyze.values import Dtype


def scaled_dot_product_attention(
    interp,
    query,
    key=None,
    value=None,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
) -> Node:
    """q, k, v: [..., tokens, dim]. attn_mask: what is added, or False where a key is not
    attended to. is_causal: the triangle of torch, whose first row sees the first key."""
    if not all(isinstance(x, Node) for x in (query, key, value)):
        raise interp.gap("attention of something that isn't a tensor")
    if constant(dropout_p) != 0:  # torch drops here whether or not it trains
        raise interp.gap(
            "attention with dropout that isn't off",
            "write `dropout_p=p if self.training else 0.0`",
        )
    if not (isinstance(is_causal, bool) and isinstance(enable_gqa, bool)):
        raise interp.gap("attention with arguments that can't be followed")
    if is_causal and attn_mask is not None:
        raise interp.gap("attention that is causal and has a mask: torch refuses it")
    if enable_gqa:
        key, value = (_heads_of(interp, x, query) for x in (key, value))
    if scale is None:
        scale = arith("pow", axis_size(query.axes[-1]), -0.5)
    scores = binary(
        interp, "mul", matmul(interp, query, transpose(interp, key, -2, -1)), scale
    )
    mask = _triangle(interp, scores) if is_causal else attn_mask
    if isinstance(mask, Node) and mask.dtype == "bool":
        scores = where(interp, mask, scores, float("-inf"))
    elif mask is not None:
        scores = binary(interp, "add", scores, mask)
    return matmul(interp, softmax(interp, scores), value)


def _heads_of(interp, x: Node, query: Node) -> Node:
    """Keys or values with each head repeated for the queries that share it."""
    heads, wanted = (axis_size(n.axes[-3]) for n in (x, query))
    if same(heads, wanted):
        return x
    return repeat_interleave(interp, x, arith("floordiv", wanted, heads), -3)


def _triangle(interp, scores: Node) -> Node:
    ones = interp.node("fill", (1.0,), scores.axes[-2:], dtype=None, init="ones")
    return cast(interp, tril(interp, ones), Dtype("bool"))
