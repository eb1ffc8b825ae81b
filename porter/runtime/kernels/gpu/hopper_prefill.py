"""Attention of many query tokens a sequence, by Hopper's own instructions.

A program has three roles (FlashAttention-3, arXiv 2407.08608, section 3): one warp asks
the copy engine for tiles, two groups of four warps attend to 64 queries each. A group
starts the scores of one tile and the sum of the values of the tile before, and computes
the softmax while the matrix unit is at them. Programs stay on their SM and take one
block of queries after another: a block's first tiles arrive while the last block ends.
"""

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from porter.runtime.kernels.gpu.attention_tiles import (
    LOG2E,
    finish_rows,
    forms,
    scales,
    weigh,
)
from porter.runtime.kernels.gpu.device import sm_count
from porter.runtime.kernels.gpu.hopper_tiles import (
    LINE,
    ROWS,
    STAGES,
    TILE,
    arrived,
    load_queries,
    load_tile,
    release,
    ring,
)
from porter.runtime.kernels.gpu.paged_prefill import PrefillBatch
from porter.runtime.kernels.gpu.strides import rows_aligned
from porter.runtime.kernels.paged_attention import AttentionOptions

BLOCK_M = 2 * ROWS.value


@gluon.jit
def _block(turn, batch, WINDOWED: gl.constexpr):
    """What this program does in its turn: the queries, and the tiles they see.

    Blocks are sorted by their keys; every second round runs through the programs
    backwards, so that all get as much.
    """
    work_ptr, starts_ptr, lens_ptr, num_blocks, num_heads, window = batch
    program, programs = gl.program_id(0), gl.num_programs(0)
    index = turn * programs
    index += gl.where(turn % 2 == 0, program, programs - 1 - program)
    valid = index < num_blocks
    work = gl.where(valid, index // num_heads, 0)
    seq = gl.load(work_ptr + 2 * work)
    first_row = gl.load(work_ptr + 2 * work + 1)
    start = gl.load(starts_ptr + seq)
    num_queries = gl.load(starts_ptr + seq + 1) - start
    seq_len = gl.load(lens_ptr + seq)
    position = seq_len - num_queries + first_row
    begin = 0
    if WINDOWED:
        begin = gl.maximum(position - window + 1, 0) // TILE
    end = (gl.minimum(position + 2 * ROWS, seq_len) + TILE - 1) // TILE
    rows = (start, first_row, num_queries, position)
    return valid, index % num_heads, seq, seq_len, rows, begin, end


@gluon.jit
def _turns(batch):
    """How many blocks the program with the most of them takes."""
    num_blocks = batch[3]
    return (num_blocks + gl.num_programs(0) - 1) // gl.num_programs(0)


@gluon.jit
def _load(
    query_desc, key_desc, value_desc, queries, keys, values, batch,
    table_ptr, table_stride,
    GROUP: gl.constexpr, PAGE: gl.constexpr, WINDOWED: gl.constexpr,
):  # fmt: skip
    """The role of the warp that loads."""
    count = 0
    for turn in range(_turns(batch)):
        valid, head, seq, seq_len, rows, begin, end = _block(turn, batch, WINDOWED)
        if valid:
            start, first_row, num_queries, position = rows
            load_queries(query_desc, queries, turn, head, start + first_row)
            table = table_ptr + seq.to(gl.int64) * table_stride
            last_page = (seq_len - 1) // PAGE
            for i in range(end - begin):
                tile = end - 1 - i
                load_tile(
                    key_desc, keys, count, tile, head // GROUP, table, last_page, PAGE
                )
                load_tile(
                    value_desc, values, count, tile, head // GROUP, table, last_page,
                    PAGE,
                )  # fmt: skip
                count += 1


@gluon.jit
def _start_scores(query, keys, count, LAYOUT: gl.constexpr):
    """The products of the queries with a tile of keys, under way."""
    key = arrived(keys, count).permute([1, 0])
    nothing = gl.zeros([ROWS, TILE], gl.float32, LAYOUT)
    return warpgroup_mma(query, key, nothing, use_acc=False, is_async=True)


@gluon.jit
def _attend(
    output, peak, total, weights, count, first_tile, tiles, query, keys, values,
    query_positions, slopes, scale, cap, window,
    MASKED: gl.constexpr, WINDOWED: gl.constexpr,
    CAPPED: gl.constexpr, ALIBI: gl.constexpr,
):  # fmt: skip
    """The rows' state after `tiles` more tiles, first_tile and those before it.

    weights: of the tile before these, whose values are still to be added.
    """
    SCORES: gl.constexpr = peak.type.layout.parent
    for i in range(tiles):
        scores = _start_scores(query, keys, count, SCORES)
        value = arrived(values, count - 1)
        output = warpgroup_mma(weights, value, output, is_async=True)
        scores = warpgroup_mma_wait(1, deps=[scores])
        release(keys, count)
        positions = (first_tile - i) * TILE
        positions += gl.arange(0, TILE, gl.SliceLayout(0, SCORES))
        exact, peak, fade = weigh(
            scores, peak, query_positions, positions, slopes, scale, cap, window,
            MASKED, WINDOWED, CAPPED, ALIBI,
        )  # fmt: skip
        total = total * fade + gl.sum(exact, 1)
        output = warpgroup_mma_wait(0, deps=[output])
        release(values, count - 1)
        fade = gl.convert_layout(fade, gl.SliceLayout(1, output.type.layout))
        output = output * fade[:, None]
        weights = gl.convert_layout(exact.to(weights.dtype), weights.type.layout)
        count += 1
    return output, peak, total, weights, count


@gluon.jit
def _clear_past_end(value, first_slot, seq_len):
    """What lies past a sequence's end is another's, and zero times NaN is NaN."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    slots = first_slot + gl.arange(0, TILE, gl.SliceLayout(1, LAYOUT))
    kept = gl.where((slots < seq_len)[:, None], value.load(LAYOUT), 0.0)
    value.store(kept.to(value.dtype))
    fence_async_shared()


@gluon.jit
def _compute(
    HALF: gl.constexpr, output_ptr, queries, keys, values, batch, sinks_ptr, slopes_ptr,
    output_stride_token, output_stride_head, scale, cap,
    WINDOWED: gl.constexpr, CAPPED: gl.constexpr,
    ALIBI: gl.constexpr, SINKS: gl.constexpr,
):  # fmt: skip
    """The role of the warps that attend to one half of a block's queries."""
    DTYPE: gl.constexpr = values[0].dtype
    SIZE_V: gl.constexpr = values[0].shape[2]
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TILE, 16])
    OUTPUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SIZE_V, 16])
    BY_SCORES: gl.constexpr = gl.SliceLayout(1, SCORES)
    BY_OUTPUT: gl.constexpr = gl.SliceLayout(1, OUTPUT)
    window = batch[5]
    count = 0
    for turn in range(_turns(batch)):
        valid, head, seq, seq_len, rows, begin, end = _block(turn, batch, WINDOWED)
        if valid:
            start, first_row, num_queries, position = rows
            first_row += HALF * ROWS
            position += HALF * ROWS
            query_positions = position + gl.arange(0, ROWS, BY_SCORES)
            slopes = gl.zeros([ROWS], gl.float32, BY_SCORES)
            if ALIBI:
                slopes += gl.load(slopes_ptr + head) * LOG2E

            # From the last tile to the first: [edge, end) are cut by the diagonal,
            # [clear, edge) are seen by all rows, [begin, clear) are cut by the window.
            last = end - 1
            edge = gl.minimum(gl.maximum((position + 1) // TILE, begin), last)
            clear = begin
            if WINDOWED:
                clear = gl.maximum(position + ROWS - window, 0)
                clear = (clear + TILE - 1) // TILE
                clear = gl.minimum(gl.maximum(clear, begin), edge)

            query_tiles, query_full, query_empty = queries
            mbarrier.wait(query_full.index(HALF), turn & 1)
            query = query_tiles.index(HALF)
            scores = _start_scores(query, keys, count, SCORES)
            value = arrived(values, count)
            if seq_len < end * TILE:
                _clear_past_end(value, last * TILE, seq_len)
            scores = warpgroup_mma_wait(0, deps=[scores])
            release(keys, count)
            peak = gl.full([ROWS], float("-inf"), gl.float32, BY_SCORES)
            positions = last * TILE + gl.arange(0, TILE, gl.SliceLayout(0, SCORES))
            exact, peak, fade = weigh(
                scores, peak, query_positions, positions, slopes, scale, cap, window,
                True, WINDOWED, CAPPED, ALIBI,
            )  # fmt: skip
            total = gl.sum(exact, 1)
            weights = gl.convert_layout(
                exact.to(DTYPE), gl.DotOperandLayout(0, OUTPUT, 2)
            )
            output = gl.zeros([ROWS, SIZE_V], gl.float32, OUTPUT)
            count += 1
            output, peak, total, weights, count = _attend(
                output, peak, total, weights, count, last - 1, last - edge,
                query, keys, values, query_positions, slopes, scale, cap, window,
                True, WINDOWED, CAPPED, ALIBI,
            )  # fmt: skip
            output, peak, total, weights, count = _attend(
                output, peak, total, weights, count, edge - 1, edge - clear,
                query, keys, values, query_positions, slopes, scale, cap, window,
                False, WINDOWED, CAPPED, ALIBI,
            )  # fmt: skip
            if WINDOWED:
                output, peak, total, weights, count = _attend(
                    output, peak, total, weights, count, clear - 1, clear - begin,
                    query, keys, values, query_positions, slopes, scale, cap, window,
                    True, WINDOWED, CAPPED, ALIBI,
                )  # fmt: skip
            mbarrier.arrive(query_empty.index(HALF))
            value = arrived(values, count - 1)
            output = warpgroup_mma(weights, value, output, is_async=True)
            output = warpgroup_mma_wait(0, deps=[output])
            release(values, count - 1)

            own_rows = first_row + gl.arange(0, ROWS, BY_OUTPUT)
            heads = gl.zeros([ROWS], gl.int32, BY_OUTPUT) + head
            inside = own_rows < num_queries
            output = finish_rows(
                output,
                gl.convert_layout(peak, BY_OUTPUT), gl.convert_layout(total, BY_OUTPUT),
                sinks_ptr, heads, inside, SINKS,
            )  # fmt: skip
            tokens = (start + own_rows).to(gl.int64)
            columns = gl.arange(0, SIZE_V, gl.SliceLayout(0, OUTPUT))
            gl.store(
                output_ptr
                + tokens[:, None] * output_stride_token
                + head * output_stride_head
                + columns[None, :],
                output.to(DTYPE),
                mask=inside[:, None],
            )


@gluon.jit(do_not_specialize=["num_blocks", "num_heads", "window", "table_stride"])
def _hopper_prefill(
    query_desc, key_desc, value_desc, output_ptr, table_ptr, lens_ptr, starts_ptr,
    work_ptr, sinks_ptr, slopes_ptr, scale, cap, window, num_blocks, num_heads,
    output_stride_token, output_stride_head, table_stride,
    GROUP: gl.constexpr, PAGE: gl.constexpr, SIZE: gl.constexpr, SIZE_V: gl.constexpr,
    WINDOWED: gl.constexpr, CAPPED: gl.constexpr,
    ALIBI: gl.constexpr, SINKS: gl.constexpr,
):  # fmt: skip
    queries = ring(query_desc.dtype, [2, ROWS, SIZE], 1)
    keys = ring(key_desc.dtype, [STAGES, TILE, SIZE], 2)
    values = ring(value_desc.dtype, [STAGES, TILE, SIZE_V], 2)
    fence_async_shared()
    batch = (work_ptr, starts_ptr, lens_ptr, num_blocks, num_heads, window)
    gl.warp_specialize(
        [
            (_compute, (
                0, output_ptr, queries, keys, values, batch, sinks_ptr, slopes_ptr,
                output_stride_token, output_stride_head, scale, cap,
                WINDOWED, CAPPED, ALIBI, SINKS,
            )),
            (_compute, (
                1, output_ptr, queries, keys, values, batch, sinks_ptr, slopes_ptr,
                output_stride_token, output_stride_head, scale, cap,
                WINDOWED, CAPPED, ALIBI, SINKS,
            )),
            (_load, (
                query_desc, key_desc, value_desc, queries, keys, values, batch,
                table_ptr, table_stride, GROUP, PAGE, WINDOWED,
            )),
        ],
        [4, 1],  # warps, and registers a thread; the first group gets what is left
        [240, 24],
    )  # fmt: skip


def suits(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_m: int,
) -> bool:
    """Whether tiles of these are boxes of the copy engine that lie in shared memory as
    the matrix unit wants them: heads of 64 or 128 elements of 16 bits, at addresses that
    are multiples of 16 bytes, in blocks of at least 16 slots and a power of two."""
    block_size = key_cache.shape[1]
    return (
        block_m == BLOCK_M
        and query.element_size() == 2
        and {query.shape[-1], value_cache.shape[-1]} <= {64, 128}
        and block_size >= 16
        and block_size & (block_size - 1) == 0
        and rows_aligned(query, key_cache, value_cache)
    )


def hopper_prefill(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    batch: PrefillBatch,
    options: AttentionOptions,
    output: torch.Tensor,
) -> None:
    """As paged_prefill, for what `suits`; the work is in blocks of BLOCK_M queries."""
    num_heads, size = query.shape[1:]
    block_size, kv_heads, size_v = value_cache.shape[1:]
    tiles = [
        _boxes(query.transpose(0, 1), [1, ROWS.value]),
        _boxes(key_cache.transpose(1, 2), [1, 1, min(block_size, TILE.value)]),
        _boxes(value_cache.transpose(1, 2), [1, 1, min(block_size, TILE.value)]),
    ]
    num_blocks = num_heads * len(batch.work)
    _hopper_prefill[(min(sm_count(query.device), num_blocks),)](
        *tiles, output, batch.block_tables, batch.seq_lens, batch.query_start_loc,
        batch.work, options.sinks, options.alibi_slopes, *scales(options),
        num_blocks, num_heads,
        output.stride(0), output.stride(1), batch.block_tables.stride(0),
        GROUP=num_heads // kv_heads, PAGE=block_size, SIZE=size, SIZE_V=size_v,
        **forms(options), num_warps=4,
    )  # fmt: skip


def _boxes(tensor: torch.Tensor, box: list[int]) -> TensorDescriptor:
    box = [*box, LINE.value]
    layout = gl.NVMMASharedLayout(128, 16, rank=len(box))
    return TensorDescriptor(
        tensor, list(tensor.shape), list(tensor.stride()), box, layout
    )
