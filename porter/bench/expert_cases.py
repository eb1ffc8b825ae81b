"""Mixtures of experts, at the sizes of 30 billion parameters with 3 active."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

EXPERTS, TOP_K, HIDDEN, WIDTH = 128, 8, 2048, 768
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class ExpertsCase:
    """Each token goes to TOP_K of EXPERTS, drawn evenly."""

    tokens: int

    @property
    def name(self) -> str:
        return f"{self.tokens} tokens, {TOP_K} of {EXPERTS}"

    @property
    def operations(self) -> float:
        """Of both products: gate and up, and down."""
        return 2 * self.tokens * TOP_K * 3 * WIDTH * HIDDEN

    def moved_bytes(self, used: int) -> int:
        """All that must be read and written when `used` experts have a token."""
        weights = used * 3 * WIDTH * HIDDEN
        return DTYPE.itemsize * (weights + 2 * self.tokens * HIDDEN)


@dataclass(frozen=True)
class ExpertsProblem:
    """x: [tokens, HIDDEN]. weights, ids: [tokens, TOP_K]. w13: [EXPERTS, 2 * WIDTH,
    HIDDEN], gate first. w2: [EXPERTS, HIDDEN, WIDTH]."""

    x: torch.Tensor
    weights: torch.Tensor
    ids: torch.Tensor
    w13: torch.Tensor
    w2: torch.Tensor

    @property
    def used(self) -> int:
        """How many experts have a token."""
        return len(self.ids.unique())


def experts_problems(cases: Sequence[ExpertsCase]) -> list[list[ExpertsProblem]]:
    """Some draws of each case over the same weights, which no GPU's cache holds."""
    with torch.device("cuda"):
        w13 = torch.randn(EXPERTS, 2 * WIDTH, HIDDEN, dtype=DTYPE) * HIDDEN**-0.5
        w2 = torch.randn(EXPERTS, HIDDEN, WIDTH, dtype=DTYPE) * WIDTH**-0.5
        return [[_draw(case.tokens, w13, w2) for _ in range(4)] for case in cases]


def _draw(tokens: int, w13: torch.Tensor, w2: torch.Tensor) -> ExpertsProblem:
    x = torch.randn(tokens, HIDDEN, dtype=DTYPE)
    weights, ids = torch.rand(tokens, EXPERTS).topk(TOP_K)
    return ExpertsProblem(x, weights, ids, w13, w2)
