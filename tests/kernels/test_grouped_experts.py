"""The experts' products of a GPU against expert by expert in plain torch."""

import itertools

import pytest
import torch

from porter.runtime.kernels.act_and_mul import silu_and_mul
from porter.runtime.kernels.gpu.expert_order import order_pairs
from porter.runtime.kernels.grouped_experts import grouped_mlp
from tests.kernels.close import DEVICE, DTYPES, assert_near


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape).to(DEVICE, dtype)


def compare(
    tokens: int,
    experts: int,
    top_k: int,
    hidden: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    biases: tuple[bool, bool] = (False, False),
    ids: torch.Tensor | None = None,
) -> None:
    """Of numbers around one, by what plain torch makes of them in double."""
    x = randn(tokens, hidden, dtype=dtype)
    w13 = randn(experts, 2 * width, hidden, dtype=dtype) * hidden**-0.5
    w2 = randn(experts, hidden, width, dtype=dtype) * width**-0.5
    b13 = randn(experts, 2 * width, dtype=dtype) if biases[0] else None
    b2 = randn(experts, hidden, dtype=dtype) if biases[1] else None
    weights = torch.rand(tokens, top_k, device=DEVICE)
    if ids is None:
        ids = torch.rand(tokens, experts).argsort(-1)[:, :top_k].to(DEVICE)
    got = grouped_mlp.on_gpu(x, weights, ids, w13, w2, b13, b2, silu_and_mul.on_gpu)
    wide = [None if t is None else t.double() for t in (x, weights, w13, w2, b13, b2)]
    expected = grouped_mlp.reference(wide[0], wide[1], ids, *wide[2:], _silu_and_mul)
    assert_near(got, expected, kernels=2)


def _silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    gate, up = x.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("hidden", "width"), [(128, 64), (40, 24), (17, 9)])
@pytest.mark.parametrize(
    "biases", [*itertools.product([False, True], repeat=2)], ids=str
)
def test_sizes_and_biases(
    dtype: torch.dtype, hidden: int, width: int, biases: tuple[bool, bool]
) -> None:
    compare(5, 6, 2, hidden, width, dtype, biases)


@pytest.mark.parametrize("tokens", [1, 3, 20, 70])
@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (3, 2), (5, 5), (40, 4)])
def test_tokens_and_experts(tokens: int, experts: int, top_k: int) -> None:
    compare(tokens, experts, top_k, 24, 8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [20, 40, 150, 300])
@pytest.mark.parametrize(("hidden", "width"), [(72, 40), (71, 39)])
def test_tiles_for_many_rows(
    dtype: torch.dtype, tokens: int, hidden: int, width: int
) -> None:
    """Three experts, so that each has 13, 26, 100 and 200 rows; rows of whole lines of 16
    bytes, which Hopper's copy engine brings, and others."""
    compare(tokens, 3, 2, hidden, width, dtype)


def test_all_tokens_of_one_expert() -> None:
    compare(37, 4, 1, 24, 8, ids=torch.full((37, 1), 2, device=DEVICE))


def test_experts_of_other_ranks_count_for_nothing() -> None:
    ids = torch.tensor([[0, 7], [-3, 1], [4, -1], [9, -2], [2, 2]], device=DEVICE)
    compare(5, 4, 2, 24, 8, ids=ids)
    compare(5, 4, 2, 24, 8, biases=(True, True), ids=ids)
    w13, w2 = randn(4, 16, 24), randn(4, 24, 8)
    asked = (randn(5, 24), torch.ones(5, 2, device=DEVICE), ids.abs() + 4, w13, w2)
    assert not grouped_mlp.on_gpu(*asked, None, None, silu_and_mul.on_gpu).any()


def test_no_tokens() -> None:
    ids = torch.zeros(0, 2, dtype=torch.int64, device=DEVICE)
    w13, w2 = randn(3, 16, 24), randn(3, 24, 8)
    weights = torch.zeros(0, 2, device=DEVICE)
    got = grouped_mlp.on_gpu(
        randn(0, 24), weights, ids, w13, w2, None, None, silu_and_mul.on_gpu
    )
    assert got.shape == (0, 24)


def test_rows_that_lie_apart() -> None:
    """Tokens as a slice of something wider, weights as a transposed checkpoint's view."""
    x, weights = randn(6, 40)[:, 8:32], torch.rand(6, 2, device=DEVICE)
    w13, w2 = randn(3, 32, 24)[:, ::2], randn(3, 24, 16)[..., :8]
    ids = torch.tensor([[0, 1], [2, 1], [1, 0], [2, 0], [0, 2], [1, 2]], device=DEVICE)
    asked = (x, weights, ids, w13, w2, None, None)
    got = grouped_mlp.on_gpu(*asked, silu_and_mul.on_gpu)
    assert_near(got, grouped_mlp.reference(*asked, silu_and_mul.reference))


@pytest.mark.parametrize("tokens", [1, 700, 5000])
def test_order_of_pairs(tokens: int) -> None:
    """5000 tokens' are more than a program looks at together."""
    ids = torch.randint(-2, 9, (tokens, 2), device=DEVICE)
    order, ends = order_pairs(ids, 7)
    flat = ids.flatten()
    expected = [torch.nonzero(flat == expert).flatten() for expert in range(7)]
    assert ends.tolist() == torch.tensor([len(e) for e in expected]).cumsum(0).tolist()
    assert order[: ends[-1]].tolist() == torch.cat(expected).tolist()
