"""The inner loop that decode and prefill attention share: keys, tile by tile.

Scores are kept in units of log2, so that the softmax is one exp2. The running state
of each query row is its peak score, the sum of exp2(score - peak) and the weighted
sum of values (Milakov and Gimelshein, arXiv 1805.02867).
"""

import triton
import triton.language as tl

from porter.runtime.kernels.gpu.device import wait_for_turn
from porter.runtime.kernels.paged_attention import AttentionOptions

LOG2E = tl.constexpr(1.4426950408889634)


def scales(options: AttentionOptions) -> tuple[float, float, int]:
    """scale, cap and window of a launch; the scale has log2(e) in it where no cap is."""
    scale = options.scale if options.logits_soft_cap else options.scale * LOG2E.value
    return scale, options.logits_soft_cap or 0.0, options.sliding_window or 0


def forms(options: AttentionOptions) -> dict[str, bool]:
    """What a kernel is compiled for."""
    return {
        "WINDOWED": options.sliding_window is not None,
        "CAPPED": bool(options.logits_soft_cap),
        "ALIBI": options.alibi_slopes is not None,
        "SINKS": options.sinks is not None,
    }


@triton.jit
def tile_pointers(
    cache_ptr, table_ptr, page, head, start, end, columns,
    stride_block, stride_slot, stride_head,
    PAGE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """[TILE, columns] pointers to a head's slots of positions start, start + 1, ...

    A tile inside one page takes one page number, otherwise each row looks up its own.
    """
    rows = tl.arange(0, TILE)
    if PAGE % TILE == 0:
        base = (
            cache_ptr + page.to(tl.int64) * stride_block + (start % PAGE) * stride_slot
        )
        offsets = rows[:, None] * stride_slot + columns[None, :]
        return base + head * stride_head + offsets
    else:
        positions = start + rows
        pages = tl.load(table_ptr + positions // PAGE, mask=positions < end, other=0)
        slots = pages.to(tl.int64) * stride_block + (positions % PAGE) * stride_slot
        return cache_ptr + head * stride_head + slots[:, None] + columns[None, :]


@triton.jit
def load_tile(
    pointers, start, end, columns,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The tile, zero past the sequence's end and past the head's size.

    What lies past the end is another sequence's, and zero times NaN is NaN.
    """
    inside = (start + tl.arange(0, TILE) < end)[:, None]
    if MASKED and SIZE < BLOCK:
        return tl.load(pointers, mask=inside & (columns < SIZE)[None, :], other=0.0)
    elif MASKED:
        return tl.load(pointers, mask=inside, other=0.0)
    elif SIZE < BLOCK:
        return tl.load(pointers, mask=(columns < SIZE)[None, :], other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def weigh(
    scores, peak, query_positions, positions, slopes, scale, cap, window,
    MASKED: tl.constexpr, WINDOWED: tl.constexpr,
    CAPPED: tl.constexpr, ALIBI: tl.constexpr,
):  # fmt: skip
    """Weights of keys from their products with queries, the rows' new peak, and what
    is left of weights that were taken from the old one.

    scores: [rows, keys] fp32. query_positions: [rows]. positions: [keys].
    """
    if CAPPED:
        # cap * tanh(x / cap), tanh(x) = 2 sigmoid(2 x) - 1; scale has no log2(e).
        scores = cap * (2.0 * tl.sigmoid(scores * (2.0 * scale / cap)) - 1.0)
        scores = scores * LOG2E
    if ALIBI:
        if not CAPPED:
            scores = scores * scale
        distance = (query_positions[:, None] - positions[None, :]).to(tl.float32)
        scores = scores - slopes[:, None] * distance
    if MASKED:
        visible = positions[None, :] <= query_positions[:, None]
        if WINDOWED:
            visible &= positions[None, :] > query_positions[:, None] - window
        scores = tl.where(visible, scores, float("-inf"))
    factor = 1.0 if CAPPED or ALIBI else scale
    new_peak = tl.maximum(peak, tl.max(scores, 1) * factor)
    # A row that has seen nothing yet has no peak to subtract.
    level = tl.where(new_peak == float("-inf"), 0.0, new_peak) if MASKED else new_peak
    return tl.exp2(scores * factor - level[:, None]), new_peak, tl.exp2(peak - level)


@triton.jit
def attend_tiles(
    output, peak, total, query, query_positions, slopes,
    key_ptr, value_ptr, table_ptr, head, begin, end, seq_len, scale, cap, window,
    key_stride_block, key_stride_slot, key_stride_head,
    value_stride_block, value_stride_slot, value_stride_head,
    SIZE: tl.constexpr, SIZE_V: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    PAGE: tl.constexpr, TILE: tl.constexpr,
    MASKED: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    ALIBI: tl.constexpr, WIDE: tl.constexpr, BULK: tl.constexpr = False,
    WAITS: tl.constexpr = False, query_ptrs=None, query_mask=None,
):  # fmt: skip
    """The state of each query row after the keys of positions begin to end.

    output: [rows, BLOCK_V] fp32; peak, total, query_positions, slopes: [rows].
    query: [rows, BLOCK_D]. begin is a multiple of TILE. MASKED: whether some row may
    not see some key of these tiles. WIDE: products of fp32 operands. BULK: key_ptr and
    value_ptr are tensor descriptors of [blocks, heads, slots, size], and the copy engine
    loads tiles whole. WAITS: the kernel waits for its turn only when the first tiles are
    under way, and reads the queries from query_ptrs then; `query` gives their type.
    """
    columns = tl.arange(0, BLOCK_D)
    value_columns = tl.arange(0, BLOCK_V)
    last_page = (end - 1) // PAGE
    page = tl.load(table_ptr + begin // PAGE, mask=begin < end, other=0)
    for start in range(begin, end, TILE):
        start = tl.multiple_of(start, TILE)
        if BULK:
            key = key_ptr.load([page, head, start % PAGE, 0]).reshape(TILE, BLOCK_D)
        else:
            pointers = tile_pointers(
                key_ptr, table_ptr, page, head, start, seq_len, columns,
                key_stride_block, key_stride_slot, key_stride_head, PAGE, TILE,
            )  # fmt: skip
            key = load_tile(
                pointers, start, seq_len, columns, SIZE, BLOCK_D, TILE, MASKED
            )
        if WAITS:
            if start == begin:
                wait_for_turn(True)
                query = tl.load(query_ptrs, mask=query_mask, other=0.0)
        if WIDE:
            key = key.to(tl.float32)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee")
        weights, new_peak, fade = weigh(
            scores, peak, query_positions, start + tl.arange(0, TILE), slopes,
            scale, cap, window, MASKED, WINDOWED, CAPPED, ALIBI,
        )  # fmt: skip
        total = total * fade + tl.sum(weights, 1)
        output = output * fade[:, None]
        if BULK:
            value = value_ptr.load([page, head, start % PAGE, 0])
            value = value.reshape(TILE, BLOCK_V)
            if MASKED:  # past the end lies what another sequence left
                inside = (start + tl.arange(0, TILE) < seq_len)[:, None]
                value = tl.where(inside, value, 0.0)
        else:
            pointers = tile_pointers(
                value_ptr, table_ptr, page, head, start, seq_len, value_columns,
                value_stride_block, value_stride_slot, value_stride_head, PAGE, TILE,
            )  # fmt: skip
            value = load_tile(
                pointers, start, seq_len, value_columns, SIZE_V, BLOCK_V, TILE, MASKED
            )
        if WIDE:
            value = value.to(tl.float32)
        output = tl.dot(weights.to(value.dtype), value, output, input_precision="ieee")
        peak = new_peak
        # A tile ahead: a load that waits for a load can't be started early enough.
        page = tl.load(table_ptr + tl.minimum((start + TILE) // PAGE, last_page))
    return output, peak, total


@triton.jit
def attend_line(
    query_ptr, query_stride_head, heads, inside, slopes_ptr,
    key_ptr, value_ptr, table_ptr, kv_head, tile, end_tile, holds_newest,
    seq_len, scale, cap, window,
    key_stride_block, key_stride_slot, key_stride_head,
    value_stride_block, value_stride_slot, value_stride_head,
    ROWS: tl.constexpr, SIZE: tl.constexpr, SIZE_V: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    PAGE: tl.constexpr, TILE: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, ALIBI: tl.constexpr,
    WIDE: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The state of a sequence's newest queries, [ROWS] heads, after tile to end_tile.

    holds_newest: whether its newest key is in the last of these tiles. Its turn comes
    inside; a program with no tiles at all has to wait for it itself.
    """
    columns = tl.arange(0, BLOCK_D)
    query_ptrs = query_ptr + heads[:, None] * query_stride_head + columns[None, :]
    query_mask = inside[:, None] & (columns < SIZE)[None, :]
    LATE: tl.constexpr = EARLY and not WIDE
    if LATE:
        query = tl.zeros([ROWS, BLOCK_D], query_ptr.dtype.element_ty)
        if holds_newest & (end_tile - tile < STAGES):  # it is among the first loads
            wait_for_turn(EARLY)
    else:
        wait_for_turn(EARLY)
        query = tl.load(query_ptrs, mask=query_mask, other=0.0)
    if WIDE:
        query = query.to(tl.float32)
    slopes = tl.zeros([ROWS], tl.float32)
    if ALIBI:
        slopes = tl.load(slopes_ptr + heads, mask=inside, other=0.0) * LOG2E
    return attend_tiles(
        tl.zeros([ROWS, BLOCK_V], tl.float32),
        tl.full([ROWS], float("-inf"), tl.float32),
        tl.zeros([ROWS], tl.float32),
        query,
        tl.zeros([ROWS], tl.int32) + (seq_len - 1),
        slopes, key_ptr, value_ptr, table_ptr, kv_head,
        tile * TILE, tl.minimum(end_tile * TILE, seq_len), seq_len, scale, cap, window,
        key_stride_block, key_stride_slot, key_stride_head,
        value_stride_block, value_stride_slot, value_stride_head,
        SIZE, SIZE_V, BLOCK_D, BLOCK_V, PAGE, TILE,
        True, WINDOWED, CAPPED, ALIBI, WIDE, False, LATE, query_ptrs, query_mask,
    )  # fmt: skip


@triton.jit
def finish_rows(output, peak, total, sinks_ptr, heads, inside, SINKS: tl.constexpr):
    """[rows, BLOCK_V]: the weighted mean of values, after each head's sink if any."""
    if SINKS:
        sinks = tl.load(sinks_ptr + heads, mask=inside, other=0.0).to(tl.float32)
        sinks = sinks * LOG2E
        level = tl.maximum(peak, sinks)
        fade = tl.exp2(peak - level)
        total = total * fade + tl.exp2(sinks - level)
        output = output * fade[:, None]
    return output / total[:, None]


@triton.jit
def store_rows(
    output_ptr, output, peak, total, sinks_ptr, heads, inside, stride_head,
    SIZE_V: tl.constexpr, BLOCK_V: tl.constexpr, SINKS: tl.constexpr,
):  # fmt: skip
    """Rows that have seen all keys, to the heads that they are."""
    output = finish_rows(output, peak, total, sinks_ptr, heads, inside, SINKS)
    columns = tl.arange(0, BLOCK_V)
    tl.store(
        output_ptr + heads[:, None] * stride_head + columns[None, :],
        output.to(output_ptr.dtype.element_ty),
        mask=inside[:, None] & (columns < SIZE_V)[None, :],
    )
