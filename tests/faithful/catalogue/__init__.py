"""The catalogue: one-place changes of the six real sources, one module a kind."""

from tests.faithful.catalogue import (
    attention,
    controls,
    head,
    mlp,
    norm,
    residual,
    rope,
    tokens,
    traps,
)
from tests.faithful.mutation import Mutation

CATALOGUE: tuple[Mutation, ...] = (
    *norm.CASES,
    *rope.CASES,
    *attention.CASES,
    *residual.CASES,
    *mlp.CASES,
    *head.CASES,
    *traps.CASES,
    *tokens.CASES,
    *controls.CASES,
)
