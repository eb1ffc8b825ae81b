"""The attention kernel over a paged cache against attention head by head."""

import itertools
import random
from typing import Any

import pytest
import torch

from porter.runtime.forward_context import AttentionMetadata
from porter.runtime.kernels import paged_attention as kernel
from porter.runtime.kernels.paged_attention import AttentionOptions, paged_attention
from porter.runtime.kernels.store_kv import store_kv
from tests.runtime.reference import attention

BLOCK = 4
HEADS, SIZE, SIZE_V = 4, 8, 8


def run(
    lengths: list[tuple[int, int]],
    kv_heads: int,
    options: dict[str, Any],
    in_order: bool,
    size_v: int = SIZE_V,
    dtype: torch.dtype = torch.float32,
    cache_dims: tuple[int, ...] = (0, 1, 2, 3),
) -> None:
    """lengths: (queries, tokens in all) of each sequence, one-query ones first.

    cache_dims: the dimensions of the caches in the order in which they lie in memory.
    """
    torch.manual_seed(0)
    rng = random.Random(0)
    free = list(range(sum(-(-n // BLOCK) for _, n in lengths) + 3))
    if not in_order:
        rng.shuffle(free)
    key_cache, value_cache = (
        torch.zeros(len(free), BLOCK, kv_heads, size, dtype=dtype)
        .permute(cache_dims)
        .contiguous()
        .permute([cache_dims.index(i) for i in range(4)])
        for size in (SIZE, size_v)
    )
    tables, first_slots, sequences, slots = [], [], [], []
    for _, n in lengths:
        blocks = [free.pop(0) for _ in range(-(-n // BLOCK))]
        tables.append(blocks)
        row = blocks == list(range(blocks[0], blocks[0] + len(blocks)))
        first_slots.append(blocks[0] * BLOCK if row else -1)
        sizes = (HEADS, SIZE), (kv_heads, SIZE), (kv_heads, size_v)
        q, k, v = (torch.randn(n, *size).to(dtype) for size in sizes)
        sequences.append((q, k, v))
        slots += [blocks[i // BLOCK] * BLOCK + i % BLOCK for i in range(n)]
    keys, values = (torch.cat([s[i] for s in sequences]) for i in (1, 2))
    store_kv(keys, values, key_cache, value_cache, torch.tensor(slots))
    starts = [0, *itertools.accumulate(count for count, _ in lengths)]
    width = max(map(len, tables))
    metadata = AttentionMetadata(
        query_start=starts,
        seq_lens=[n for _, n in lengths],
        num_decodes=sum(count == 1 for count, _ in lengths),
        block_tables=torch.tensor([t + [0] * (width - len(t)) for t in tables]),
        first_slots=first_slots,
        slot_mapping=torch.tensor(slots),
    )
    queries = [
        q[-count:] for (count, _), (q, _, _) in zip(lengths, sequences, strict=True)
    ]
    asked = AttentionOptions(0.3, **options)
    output = paged_attention(
        torch.cat(queries), key_cache, value_cache, metadata, asked
    )
    slopes = options.get("alibi_slopes")
    for i, (count, _) in enumerate(lengths):
        q, k, v = (x.float() for x in sequences[i])
        expected = attention(
            q,
            k,
            v,
            0.3,
            window=options.get("sliding_window"),
            cap=options.get("logits_soft_cap"),
            slopes=None if slopes is None else slopes.tolist(),
            sinks=options.get("sinks"),
        )[-count:]
        got = output[starts[i] : starts[i + 1]]
        assert got.dtype == dtype
        if dtype == torch.float32:
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        else:  # one rounding of what is added up in fp32
            error = (got.float() - expected).norm() / expected.norm()
            assert error < 3e-3


MIXED = [(1, 1), (1, 9), (1, 23), (5, 5), (17, 17), (3, 20)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"sliding_window": 1},
    {"sliding_window": 6},
    {"sliding_window": 100},
    {"logits_soft_cap": 2.0},
    {"alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625])},
    {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    {"sliding_window": 6, "logits_soft_cap": 2.0, "sinks": torch.zeros(4)},
]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
def test_mixed_batch(
    options: dict[str, Any],
    together: bool,
    in_order: bool,
    kv_heads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel, "_GATHER_LIMIT", 1 << 20 if together else 0)
    monkeypatch.setattr(kernel, "_ROWS", 4)
    run(MIXED, kv_heads, options, in_order)


@pytest.mark.parametrize("lengths", [[(1, 7)], [(1, 7), (1, 4)], [(6, 6)], [(2, 40)]])
def test_values_of_another_size(lengths: list[tuple[int, int]]) -> None:
    run(lengths, 2, {}, in_order=False, size_v=12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cache_dims", [(0, 1, 2, 3), (2, 0, 1, 3)])
@pytest.mark.parametrize("kv_heads", [4, 1])
def test_decodes_in_place(
    dtype: torch.dtype,
    cache_dims: tuple[int, ...],
    kv_heads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel, "_GATHER_LIMIT", 0)
    decodes = [(1, 1), (1, 9), (1, 23), (1, 40)]
    run(decodes, kv_heads, {}, True, dtype=dtype, cache_dims=cache_dims)
