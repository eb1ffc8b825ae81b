"""What the experts' table counts, and that the peers compute the same."""

import pytest
import torch

from porter.bench import expert_engines
from porter.bench.expert_cases import ExpertsCase, ExpertsProblem
from porter.runtime.kernels.act_and_mul import silu_and_mul
from porter.runtime.kernels.grouped_experts import grouped_mlp

EXPERTS, TOP_K, HIDDEN, WIDTH, TOKENS = 8, 2, 64, 32, 9


def problem() -> ExpertsProblem:
    torch.manual_seed(0)
    weights, ids = torch.rand(TOKENS, EXPERTS).topk(TOP_K)
    return ExpertsProblem(
        torch.randn(TOKENS, HIDDEN).bfloat16(),
        weights,
        ids % (EXPERTS - 1),  # one expert has no token
        torch.randn(EXPERTS, 2 * WIDTH, HIDDEN).bfloat16() * HIDDEN**-0.5,
        torch.randn(EXPERTS, HIDDEN, WIDTH).bfloat16() * WIDTH**-0.5,
    )


def test_torchs_peer_computes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("EXPERTS", EXPERTS), ("TOP_K", TOP_K), ("WIDTH", WIDTH)):
        monkeypatch.setattr(expert_engines, name, value)
    asked = problem()
    got = expert_engines.by_torch(asked)()
    expected = grouped_mlp.reference(
        asked.x, asked.weights, asked.ids, asked.w13, asked.w2, None, None,
        silu_and_mul.reference,
    )  # fmt: skip
    error = (got - expected).float().norm() / expected.float().norm()
    assert error < 1e-2


def test_the_floor_counts_each_used_expert_once() -> None:
    case = ExpertsCase(3)
    matrices = 3 * 768 * 2048  # gate, up and down
    assert case.moved_bytes(20) == 2 * (20 * matrices + 2 * 3 * 2048)
    assert case.operations == 2 * 3 * 8 * matrices
    assert problem().used < EXPERTS
