"""Launches at the sizes of real models, for `tests.kernels.compiled`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from porter.runtime.kernels.act_and_mul import silu_and_mul
from porter.runtime.kernels.gpu.grouped_experts import grouped_mlp
from porter.runtime.kernels.gpu.paged_attention import prefill as prefill_by_gpu
from porter.runtime.kernels.gpu.paged_decode import paged_decode
from porter.runtime.kernels.gpu.paged_prefill import (
    PrefillBatch,
    paged_prefill,
    prefill_shape,
)
from porter.runtime.kernels.gpu.rotate_and_store import rotate_and_store
from porter.runtime.kernels.paged_attention import AttentionOptions
from porter.runtime.kernels.rotate_and_store import HeadNorm

BF16 = torch.bfloat16


def cache(size: int, page: int) -> torch.Tensor:
    return torch.empty(2, 8, page, size, dtype=BF16).transpose(1, 2)


def decode(
    group: int,
    size: int,
    page: int = 64,
    size_v: int | None = None,
    num_seqs: int = 16,
    **options: Any,
) -> None:
    query = torch.empty(num_seqs, 8 * group, size, dtype=BF16)
    output = torch.empty(num_seqs, 8 * group, size_v or size, dtype=BF16)
    tables = torch.zeros(16, 32, dtype=torch.int32)
    lens = torch.ones(16, dtype=torch.int32)
    paged_decode(
        query, cache(size, page), cache(size_v or size, page), tables, lens,
        AttentionOptions(size**-0.5, **options), output, num_programs=264,
    )  # fmt: skip


def prefill(
    size: int,
    longest: int = 4096,
    page: int = 64,
    size_v: int | None = None,
    hopper: bool = False,
    **options: Any,
) -> None:
    """hopper: by what a Hopper GPU takes, otherwise by the kernel for any GPU."""
    query = torch.empty(64, 32, size, dtype=BF16)
    output = torch.empty(64, 32, size_v or size, dtype=BF16)
    tables = torch.zeros(16, 32, dtype=torch.int32)
    lens = torch.ones(16, dtype=torch.int32)
    batch = PrefillBatch(
        tables, lens, torch.zeros(17, dtype=torch.int32),
        torch.zeros(4, 2, dtype=torch.int32), longest,
    )  # fmt: skip
    launch = prefill_by_gpu if hopper else paged_prefill
    launch(
        query, cache(size, page), cache(size_v or size, page), batch,
        prefill_shape(longest, max(size, size_v or 0), False),
        AttentionOptions(size**-0.5, **options), output,
    )  # fmt: skip


def turn(size: int, turning: int, kv_heads: int = 8, neox: bool = True) -> None:
    """Heads of `size` normed, `turning` of it rotated, and stored."""
    width = kv_heads * size
    row = torch.empty(16, 6 * width, dtype=BF16)
    query, key, value = row.split([4 * width, width, width], dim=-1)
    norm = HeadNorm(torch.empty(size, dtype=BF16), 1e-6)
    rotate_and_store(
        torch.zeros(16, dtype=torch.int64), query, key, value,
        torch.empty(4096, turning, dtype=BF16), neox, cache(size, 64), cache(size, 64),
        torch.zeros(16, dtype=torch.int64), norm, norm,
    )  # fmt: skip


def experts(tokens: int, biased: bool = False) -> None:
    """Of Qwen3-30B-A3B's sizes, 8 of 128 experts a token."""
    w13, w2 = torch.empty(128, 1536, 2048, dtype=BF16), torch.empty(128, 2048, 768)
    b13, b2 = torch.empty(128, 1536, dtype=BF16), torch.empty(128, 2048, dtype=BF16)
    grouped_mlp(
        torch.empty(tokens, 2048, dtype=BF16), torch.empty(tokens, 8),
        torch.zeros(tokens, 8, dtype=torch.int64), w13, w2.to(BF16),
        b13 if biased else None, b2 if biased else None, silu_and_mul.on_gpu,
    )  # fmt: skip


CASES: dict[str, Callable[[], None]] = {
    "decode 128 group 4": partial(decode, 4, 128),
    "decode 128 group 4 page 16": partial(decode, 4, 128, 16),
    "decode 64 group 1": partial(decode, 1, 64),
    "decode 256 group 2": partial(decode, 2, 256),
    "decode 192/128": partial(decode, 4, 192, size_v=128),
    "decode 128 single": partial(decode, 4, 128, num_seqs=1),
    "decode 64 single group 8": partial(decode, 8, 64, num_seqs=1),
    "decode 128 window sinks": partial(
        decode, 8, 128, sliding_window=128, sinks=torch.zeros(64)
    ),
    "prefill 128": partial(prefill, 128),
    "prefill 128 page 16": partial(prefill, 128, page=16),
    "prefill 64": partial(prefill, 64),
    "prefill 256": partial(prefill, 256),
    "prefill 192/128": partial(prefill, 192, size_v=128),
    "prefill 128 short": partial(prefill, 128, 16),
    "prefill 128 window cap": partial(
        prefill, 128, sliding_window=1024, logits_soft_cap=50.0
    ),
    "prefill 128 hopper": partial(prefill, 128, hopper=True),
    "prefill 64 hopper page 16": partial(prefill, 64, page=16, hopper=True),
    "experts 1 token": partial(experts, 1),
    "experts 200 tokens": partial(experts, 200),
    "experts 500 tokens": partial(experts, 500),
    "experts 1000 tokens biased": partial(experts, 1000, biased=True),
    "experts 4096 tokens": partial(experts, 4096),
    "turn 128": partial(turn, 128, 128),
    "turn 256 partly, pairs": partial(turn, 256, 64, neox=False),
    "prefill 128/64 hopper sinks slopes": partial(
        prefill, 128, size_v=64, hopper=True,
        sinks=torch.zeros(32), alibi_slopes=torch.zeros(32),
    ),
    "prefill 128 hopper window cap": partial(
        prefill, 128, hopper=True, sliding_window=1024, logits_soft_cap=50.0
    ),
}  # fmt: skip
