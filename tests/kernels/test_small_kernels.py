"""Norms, gated activations, rope, cache writes and embedding against plain torch."""

from typing import Any

import pytest
import torch

from porter.runtime.kernels.act_and_mul import gelu_and_mul, silu_and_mul
from porter.runtime.kernels.matvec import matvec
from porter.runtime.kernels.rms_norm import fused_add_rms_norm, rms_norm
from porter.runtime.kernels.rotary_embedding import rotate_by_position
from porter.runtime.kernels.rotate_and_store import HeadNorm, rotate_and_store
from porter.runtime.kernels.store_kv import store_kv
from porter.runtime.kernels.vocab_embedding import vocab_embedding
from tests.kernels.close import DEVICE, DTYPES, assert_near


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(
    ("weighted", "variance_size", "unit_offset"),
    [(True, None, False), (False, None, False), (True, 37, False), (True, None, True)],
)
def test_rms_norm(
    dtype: torch.dtype,
    rows: int,
    weighted: bool,
    variance_size: int | None,
    unit_offset: bool,
) -> None:
    x, residual = randn(rows, 100, dtype=dtype), randn(rows, 100, dtype=dtype)
    weight = randn(100, dtype=dtype) if weighted else None
    options = (weight, 1e-5, variance_size, unit_offset)
    assert_near(rms_norm.on_gpu(x, *options), rms_norm.reference(x, *options))
    got = fused_add_rms_norm.on_gpu(x.clone(), residual.clone(), *options)
    expected = fused_add_rms_norm.reference(x, residual, *options)
    assert_near(got[0], expected[0])
    assert_near(got[1], expected[1])
    assert expected[0] is x and expected[1] is residual


def test_rms_norm_of_a_sum_writes_over_both() -> None:
    wide, residual = randn(3, 150), randn(3, 100)
    x = wide[:, 25:125]
    expected = fused_add_rms_norm.reference(x.clone(), residual.clone(), None, 1e-5)
    around = wide[:, :25].clone()
    got = fused_add_rms_norm.on_gpu(x, residual, None, 1e-5)
    assert got[0] is x and got[1] is residual and torch.equal(wide[:, :25], around)
    assert_near(x, expected[0])
    assert_near(residual, expected[1])


def test_rms_norm_of_heads_inside_a_wider_tensor() -> None:
    x = randn(7, 9 * 16)[:, 16:-48].view(7, -1, 16)
    weight = randn(16).double().float() + 1
    assert_near(rms_norm.on_gpu(x, weight, 1e-6), rms_norm.reference(x, weight, 1e-6))


def test_rms_norm_with_a_weight_in_fp32_rounds_last() -> None:
    x, weight = randn(3, 64, dtype=torch.bfloat16), randn(64)
    got = rms_norm.on_gpu(x, weight, 1e-6)
    assert got.dtype == torch.bfloat16
    assert_near(got, rms_norm.reference(x, weight, 1e-6))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 10), (1, 2, 2060)])
def test_gated_activations(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = randn(*shape, dtype=dtype)
    assert_near(silu_and_mul.on_gpu(x), silu_and_mul.reference(x))
    for kind in ("none", "tanh"):
        assert_near(gelu_and_mul.on_gpu(x, kind), gelu_and_mul.reference(x, kind))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [16, 24, 40])  # of which 16 turn
@pytest.mark.parametrize("neox", [True, False])
def test_rope(dtype: torch.dtype, size: int, neox: bool) -> None:
    table = randn(50, 16, dtype=dtype)
    positions = torch.tensor([3, 0, 49, 7], device=DEVICE)
    qkv = randn(4, 9 * size, dtype=dtype)
    query, key = qkv[:, : 6 * size], qkv[:, 6 * size : 8 * size]
    asked: tuple[Any, ...] = (positions, query, key, table, size, neox)
    expected, expected_key = rotate_by_position.reference(*asked)
    got, got_key = rotate_by_position.on_gpu(*asked)
    assert_near(got, expected)
    assert_near(got_key, expected_key)
    alone = rotate_by_position.on_gpu(positions, query, None, table, size, neox)
    assert torch.equal(alone[0], got) and alone[1] is None


SLOTS = torch.tensor([5, -1, 23, 9], device=DEVICE)  # of 3 blocks of 8


def empty_caches(
    *sizes: int, dtype: torch.dtype, in_a_row: bool = False
) -> tuple[torch.Tensor, ...]:
    """Of two heads; in memory block by block and head by head, or as a reference needs
    them, slot by slot."""
    if in_a_row:
        return tuple(torch.zeros(3, 8, 2, n, device=DEVICE, dtype=dtype) for n in sizes)
    made = (torch.zeros(3, 2, 8, n, device=DEVICE, dtype=dtype) for n in sizes)
    return tuple(cache.transpose(1, 2) for cache in made)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_store_kv(dtype: torch.dtype) -> None:
    key, value = randn(4, 2, 40, dtype=dtype), randn(4, 2, 12, dtype=dtype)
    kept = SLOTS >= 0
    expected = empty_caches(40, 12, dtype=dtype, in_a_row=True)
    store_kv.reference(key[kept], value[kept], *expected, SLOTS[kept])
    got = empty_caches(40, 12, dtype=dtype)
    store_kv.on_gpu(key, value, *got, SLOTS)
    assert all(map(torch.equal, got, expected))


NORMS: dict[str, Any] = {
    "not normed": lambda size, dtype: None,
    "normed": lambda size, dtype: HeadNorm(randn(size, dtype=dtype), 1e-2),
    "normed in fp32": lambda size, dtype: HeadNorm(randn(size), 1e-2),
    "normed without weight": lambda size, dtype: HeadNorm(None, 1e-2),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [16, 24, 40])  # of which 16 turn
@pytest.mark.parametrize("neox", [True, False])
@pytest.mark.parametrize("kind", NORMS)
def test_norms_rope_and_cache_write(
    dtype: torch.dtype, size: int, neox: bool, kind: str
) -> None:
    """Nothing but the number of launches differs from one kernel after the other."""
    norms = [NORMS[kind](size, dtype) for _ in range(2)]
    table = randn(50, 16, dtype=dtype)
    positions = torch.tensor([3, 0, 49, 7], device=DEVICE)
    qkv = randn(4, 9 * size, dtype=dtype)
    query, key = qkv[:, : 6 * size], qkv[:, 6 * size : 8 * size]
    value = randn(4, 2 * 12, dtype=dtype)
    got_caches = empty_caches(size, 12, dtype=dtype)
    got = rotate_and_store.on_gpu(
        positions, query, key, value, table, neox, *got_caches, SLOTS, *norms
    )
    assert got.shape == query.shape

    heads = [x.unflatten(-1, (-1, size)) for x in (query, key)]
    for i, norm in enumerate(norms):
        heads[i] = heads[i] if norm is None else rms_norm.on_gpu(heads[i], *norm)
    turned = rotate_by_position.on_gpu(positions, *heads, table, size, neox)
    caches = empty_caches(size, 12, dtype=dtype)
    store_kv.on_gpu(turned[1], value.view(4, 2, 12), *caches, SLOTS)
    assert_near(got.view(turned[0].shape), turned[0])
    for got_cache, cache in zip(got_caches, caches, strict=True):
        assert_near(got_cache, cache)

    kept = SLOTS >= 0
    expected_caches = empty_caches(size, 12, dtype=dtype, in_a_row=True)
    expected = rotate_and_store.reference(
        positions[kept], query[kept], key[kept], value[kept], table, neox,
        *expected_caches, SLOTS[kept], *norms,
    )  # fmt: skip
    assert_near(got[kept], expected)
    for got_cache, cache in zip(got_caches, expected_caches, strict=True):
        assert_near(got_cache, cache)


def both_caches(*sizes: int) -> list[tuple[torch.Tensor, ...]]:
    """A kernel's and its reference's."""
    return [
        empty_caches(*sizes, dtype=torch.float32, in_a_row=flat)
        for flat in (False, True)
    ]


def test_one_of_two_norms() -> None:
    """Queries normed, keys not: neither takes the other's."""
    asked = (
        torch.tensor([3, 0, 49, 7], device=DEVICE), randn(4, 96), randn(4, 32),
        randn(4, 24), randn(50, 16), True,
    )  # fmt: skip
    norm = HeadNorm(randn(16), 1e-2)
    slots = SLOTS.abs()
    for norms in ((norm, None), (None, norm)):
        got_caches, caches = both_caches(16, 12)
        got = rotate_and_store.on_gpu(*asked, *got_caches, slots, *norms)
        expected = rotate_and_store.reference(*asked, *caches, slots, *norms)
        assert_near(got, expected)
        assert_near(got_caches[0], caches[0])


def test_heads_whose_elements_lie_apart() -> None:
    """As a view of a projection that has heads last."""

    def apart(heads: int, size: int) -> torch.Tensor:
        return randn(4, size, heads).transpose(1, 2)

    query, key, value = apart(6, 16), apart(2, 16), apart(2, 12)
    table, slots = randn(50, 16), SLOTS.abs()
    positions = torch.tensor([3, 0, 49, 7], device=DEVICE)
    asked = (positions, query, key, table, 16, True)
    for got, expected in zip(
        rotate_by_position.on_gpu(*asked), rotate_by_position.reference(*asked),
        strict=True,
    ):  # fmt: skip
        assert_near(got, expected)
    got_caches, caches = both_caches(16, 12)
    store_kv.on_gpu(key, value, *got_caches, slots)
    store_kv.reference(key, value, *caches, slots)
    assert all(map(torch.equal, got_caches, caches))
    asked = (positions, query, key, value, table, True)
    got = rotate_and_store.on_gpu(*asked, *got_caches, slots)
    assert_near(got, rotate_and_store.reference(*asked, *caches, slots))
    for got_cache, cache in zip(got_caches, caches, strict=True):
        assert_near(got_cache, cache)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_embedding_of_a_part_of_the_vocabulary(dtype: torch.dtype) -> None:
    weight = randn(10, 70, dtype=dtype)
    ids = torch.tensor([3, 12, 9, 22, 4, 13], device=DEVICE)
    got = vocab_embedding.on_gpu(ids, weight, 4, 9)
    assert torch.equal(got, vocab_embedding.reference(ids, weight, 4, 9))
    assert torch.equal(got[1], weight[8]) and not got[0].any() and not got[5].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), [(9, 48), (5, 2100)])
@pytest.mark.parametrize("biased", [True, False])
def test_one_row_times_a_matrix(
    dtype: torch.dtype, outputs: int, inputs: int, biased: bool
) -> None:
    x, weight = randn(1, inputs, dtype=dtype), randn(outputs, inputs, dtype=dtype)
    bias = randn(outputs, dtype=dtype) if biased else None
    wide = [None if t is None else t.float() for t in (x, weight, bias)]
    assert_near(matvec.on_gpu(x, weight, bias), matvec.reference(*wide))
