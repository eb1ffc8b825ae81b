"""The catalogue: one-place changes of real sources, one module a kind."""

from tests.faithful.catalogue import (
    attention,
    controls,
    dense,
    experts,
    head,
    latent,
    layer_types,
    mlp,
    norm,
    own_attention,
    residual,
    rope,
    tokens,
    traps,
)
from tests.faithful.mutation import Mutation

CATALOGUE: tuple[Mutation, ...] = (
    *norm.CASES,
    *dense.CASES,
    *rope.CASES,
    *layer_types.CASES,
    *attention.CASES,
    *own_attention.CASES,
    *residual.CASES,
    *mlp.CASES,
    *experts.CASES,
    *latent.CASES,
    *head.CASES,
    *traps.CASES,
    *tokens.CASES,
    *controls.CASES,
)

# Judged at tensor parallel 2 as well by default: one for each way to go wrong there.
HANDFUL = (
    "norm-no-root",
    "heads-packed-in-blocks",
    "gate-steeper",
    "mlp-normed-between",
    "mlp-activation-after",
    "logits-log-softmax",
    "expert-halves-swapped",
    "latent-normed-twice",
)
