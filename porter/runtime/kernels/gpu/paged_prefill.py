"""Attention of several query tokens a sequence over the paged cache.

One program takes BLOCK_M queries of one head of one sequence and walks the keys that
any of them sees. Only the tiles at the edges, where some query doesn't see some key,
are masked: at the diagonal, and at the far end of a sliding window. Programs with the
most keys start first, so that none is left running alone at the end.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from porter.runtime.kernels.gpu.attention_tiles import (
    LOG2E,
    attend_tiles,
    finish_rows,
    forms,
    scales,
)
from porter.runtime.kernels.gpu.device import interpreting
from porter.runtime.kernels.gpu.strides import rows_aligned
from porter.runtime.kernels.paged_attention import AttentionOptions


@triton.jit(do_not_specialize=["window", "table_stride"])
def _prefill(
    output_ptr, query_ptr, key_ptr, value_ptr, table_ptr, lens_ptr, starts_ptr,
    work_ptr, sinks_ptr, slopes_ptr, scale, cap, window,
    query_stride_token, query_stride_head, output_stride_token, output_stride_head,
    key_stride_block, key_stride_slot, key_stride_head,
    value_stride_block, value_stride_slot, value_stride_head, table_stride,
    GROUP: tl.constexpr, BLOCK_M: tl.constexpr,
    SIZE: tl.constexpr, SIZE_V: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    PAGE: tl.constexpr, TILE: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    ALIBI: tl.constexpr, SINKS: tl.constexpr, WIDE: tl.constexpr, BULK: tl.constexpr,
):  # fmt: skip
    head, work = tl.program_id(0), tl.program_id(1)
    seq = tl.load(work_ptr + 2 * work).to(tl.int64)
    first_row = tl.load(work_ptr + 2 * work + 1)
    start = tl.load(starts_ptr + seq)
    num_queries = tl.load(starts_ptr + seq + 1) - start
    seq_len = tl.load(lens_ptr + seq)
    rows = first_row + tl.arange(0, BLOCK_M)
    inside = rows < num_queries
    first_position = seq_len - num_queries + first_row
    positions = first_position + tl.arange(0, BLOCK_M)

    columns, value_columns = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    tokens = (start + rows).to(tl.int64)
    query = tl.load(
        query_ptr
        + tokens[:, None] * query_stride_token
        + head * query_stride_head
        + columns[None, :],
        mask=inside[:, None] & (columns < SIZE)[None, :],
        other=0.0,
    )
    if WIDE:
        query = query.to(tl.float32)
    slopes = tl.zeros([BLOCK_M], tl.float32)
    if ALIBI:
        slopes += tl.load(slopes_ptr + head) * LOG2E

    # Tiles [begin, clear) are cut by the window, [clear, edge) are seen by all rows,
    # [edge, end) are cut by the diagonal.
    end = tl.minimum(first_position + BLOCK_M, seq_len)
    begin = 0
    clear = 0
    if WINDOWED:
        begin = tl.maximum(first_position - window + 1, 0) // TILE * TILE
        clear = tl.maximum(first_position + BLOCK_M - window, 0)
        clear = tl.minimum((clear + TILE - 1) // TILE * TILE, end)
    edge = tl.maximum((first_position + 1) // TILE * TILE, clear)

    output = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    table = table_ptr + seq * table_stride
    if WINDOWED:
        output, peak, total = attend_tiles(
            output, peak, total, query, positions, slopes,
            key_ptr, value_ptr, table, head // GROUP, begin, clear,
            seq_len, scale, cap, window,
            key_stride_block, key_stride_slot, key_stride_head,
            value_stride_block, value_stride_slot, value_stride_head,
            SIZE, SIZE_V, BLOCK_D, BLOCK_V, PAGE, TILE,
            True, WINDOWED, CAPPED, ALIBI, WIDE, BULK,
        )  # fmt: skip
    output, peak, total = attend_tiles(
        output, peak, total, query, positions, slopes,
        key_ptr, value_ptr, table, head // GROUP, clear, edge,
        seq_len, scale, cap, window,
        key_stride_block, key_stride_slot, key_stride_head,
        value_stride_block, value_stride_slot, value_stride_head,
        SIZE, SIZE_V, BLOCK_D, BLOCK_V, PAGE, TILE,
        False, WINDOWED, CAPPED, ALIBI, WIDE, BULK,
    )  # fmt: skip
    output, peak, total = attend_tiles(
        output, peak, total, query, positions, slopes,
        key_ptr, value_ptr, table, head // GROUP, edge, end,
        seq_len, scale, cap, window,
        key_stride_block, key_stride_slot, key_stride_head,
        value_stride_block, value_stride_slot, value_stride_head,
        SIZE, SIZE_V, BLOCK_D, BLOCK_V, PAGE, TILE,
        True, WINDOWED, CAPPED, ALIBI, WIDE, BULK,
    )  # fmt: skip
    heads = tl.zeros([BLOCK_M], tl.int32) + head
    output = finish_rows(output, peak, total, sinks_ptr, heads, inside, SINKS)
    tl.store(
        output_ptr
        + tokens[:, None] * output_stride_token
        + head * output_stride_head
        + value_columns[None, :],
        output.to(output_ptr.dtype.element_ty),
        mask=inside[:, None] & (value_columns < SIZE_V)[None, :],
    )


@dataclass(frozen=True)
class PrefillBatch:
    """block_tables: [num_seqs, max_blocks] int32. seq_lens: [num_seqs], query_start_loc:
    [num_seqs + 1] int32. work: [programs, 2] int32, a sequence and the first of a shape's
    block_m queries in it. most_keys: of a sequence."""

    block_tables: torch.Tensor
    seq_lens: torch.Tensor
    query_start_loc: torch.Tensor
    work: torch.Tensor
    most_keys: int


@dataclass(frozen=True)
class PrefillShape:
    """Queries and keys of a tile, warps, loads in flight."""

    block_m: int
    tile: int
    num_warps: int
    num_stages: int
    max_registers: int | None = None


def prefill_shape(longest: int, size: int, wide: bool) -> PrefillShape:
    """For sequences of at most `longest` queries and heads of `size` elements."""
    if wide:
        return PrefillShape(16, 32, 4, 2)
    if longest <= 16:
        return PrefillShape(16, 32 if size > 128 else 64, 4, 3)
    if longest <= 64:
        return PrefillShape(64, 64, 8, 2) if size > 128 else PrefillShape(64, 64, 4, 3)
    if size > 128:
        return PrefillShape(128, 32, 8, 2)
    if size == 128:  # two programs an SM: one computes while the other waits
        return PrefillShape(128, 64, 8, 2, max_registers=128)
    return PrefillShape(128, 64, 8, 3)


def paged_prefill(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    batch: PrefillBatch,
    shape: PrefillShape,
    options: AttentionOptions,
    output: torch.Tensor,
) -> None:
    """Write [num_tokens, num_heads, head_size_v] into output, for the rows in its work.

    query: [num_tokens, num_heads, head_size]. key_cache, value_cache: [num_blocks,
    block_size, num_kv_heads, size], any strides but the last.
    """
    num_heads, size = query.shape[1:]
    block_size, kv_heads, size_v = value_cache.shape[1:]
    wide = query.dtype == torch.float32 or interpreting()
    bulk = _can_load_whole(key_cache, value_cache, shape.tile) and not wide
    tiles = [
        _descriptor(cache, shape.tile) if bulk else cache
        for cache in (key_cache, value_cache)
    ]
    plain = options.plain and not options.sliding_window
    limits = {}
    if bulk and plain and options.alibi_slopes is None and shape.max_registers:
        limits["maxnreg"] = shape.max_registers
    _prefill[(num_heads, len(batch.work))](
        output, query, *tiles, batch.block_tables, batch.seq_lens,
        batch.query_start_loc, batch.work, options.sinks, options.alibi_slopes,
        *scales(options),
        query.stride(0), query.stride(1), output.stride(0), output.stride(1),
        *key_cache.stride()[:3], *value_cache.stride()[:3],
        batch.block_tables.stride(0),
        GROUP=num_heads // kv_heads, BLOCK_M=shape.block_m, SIZE=size, SIZE_V=size_v,
        BLOCK_D=max(16, triton.next_power_of_2(size)),
        BLOCK_V=max(16, triton.next_power_of_2(size_v)),
        PAGE=block_size, TILE=shape.tile,
        **forms(options), WIDE=wide, BULK=bulk,
        num_warps=shape.num_warps, num_stages=shape.num_stages, **limits,
    )  # fmt: skip


def _can_load_whole(
    key_cache: torch.Tensor, value_cache: torch.Tensor, tile: int
) -> bool:
    """Whether a tile is one box of the copy engine: inside a block, of a head whose
    size is a power of two, at addresses that are multiples of 16 bytes."""
    for cache in (key_cache, value_cache):
        size = cache.shape[-1]
        if cache.shape[1] % tile or size & (size - 1) or size > 128:
            return False
    return rows_aligned(key_cache, value_cache)


def _descriptor(cache: torch.Tensor, tile: int) -> TensorDescriptor:
    by_head = cache.transpose(1, 2)
    box = [1, 1, tile, cache.shape[-1]]
    return TensorDescriptor(by_head, list(by_head.shape), list(by_head.stride()), box)


def plan_work(
    query_lens: list[int], seq_lens: list[int], first_seq: int, block_m: int
) -> list[tuple[int, int]]:
    """(sequence, first query) of each program, those with the most keys first.

    query_lens, seq_lens: of all sequences; those before first_seq get no program.
    """
    keys: list[tuple[int, int, int]] = []
    for seq in range(first_seq, len(query_lens)):
        context = seq_lens[seq] - query_lens[seq]
        for row in range(0, query_lens[seq], block_m):
            keys.append((-(context + row), seq, row))
    return [(seq, row) for _, seq, row in sorted(keys)]
