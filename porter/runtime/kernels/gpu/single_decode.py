"""Attention of one query token over a single sequence's paged cache.

Every line of the sequence (its keys, as one kv head's queries read them) is cut into as
many parts, one a program. So all programs finish at about the same time, and what comes
after the last key counts: no program is elected to put the parts together, which would
take one trip to memory to count them and others to read them. Instead a line's last
programs take a piece of a row each and read its parts until all are there. A part's own
bits tell: its place holds what no part is until it is written, and whoever reads it puts
that back (as TensorRT-LLM's Lamport all-reduce does).

Programs that wait are fewer than the GPU's SMs, so those they wait for find a place.
"""

import torch
import triton
import triton.language as tl

from porter.runtime.kernels.gpu.attention_tiles import (
    attend_line,
    finish_rows,
    store_rows,
)
from porter.runtime.kernels.gpu.device import interpreting, let_next_come

PARTS_AT_ONCE = 32  # that a program reads together
_LEAST_COLUMNS, _MOST_COLUMNS = 16, 64  # of them, 32 registers a thread at most
_ABSENT = tl.constexpr(-1)  # what no part is: its peak or total would be this NaN
_NAN, _LOWEST = tl.constexpr(0x7FFFFFFF), tl.constexpr(-0x80000000)


@triton.jit
def _leave(places, output, peak, total, columns, mask):
    """Store rows' state, output [rows, columns], for programs that may wait for it.

    A column is one element of 64 bits, which is seen whole or not at all: the output in
    the lower half, and in the upper half the peak (even columns) or the total (odd ones).
    """
    state = tl.where(columns[None, :] % 2 == 0, peak[:, None], total[:, None])
    state = state.to(tl.int32, bitcast=True)
    state = tl.where(state == _ABSENT, _NAN, state).to(tl.int64) << 32
    output = output.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    tl.store(places, state | output, mask=mask)


@triton.jit
def _put_together(
    row_ptr, parts, stride_part, COLUMNS: tl.constexpr, AT_ONCE: tl.constexpr
):
    """Output [COLUMNS], peak and total [1] of a row from its parts, as they come.

    All comes out of the one tile whose elements were seen to be there: another load of
    a peak may be served before that one.
    """
    columns = tl.arange(0, COLUMNS)
    output = tl.zeros([COLUMNS], tl.float32)
    peak, total = tl.full([1], float("-inf"), tl.float32), tl.zeros([1], tl.float32)
    even = (columns % 2 == 0)[None, :]
    for first in range(0, parts, AT_ONCE):
        part = first + tl.arange(0, AT_ONCE)
        places = row_ptr + part[:, None] * stride_part + columns[None, :]
        wanted = part < parts
        found = tl.load(places, mask=wanted[:, None], other=0, volatile=True)
        while tl.max((found == _ABSENT).to(tl.int32)) > 0:
            found = tl.load(places, mask=wanted[:, None], other=0, volatile=True)
        outputs = found.to(tl.int32).to(tl.float32, bitcast=True)
        states = (found >> 32).to(tl.int32)
        peaks = tl.max(tl.where(even, states, _LOWEST), 1).to(tl.float32, bitcast=True)
        totals = tl.max(tl.where(even, _LOWEST, states), 1).to(tl.float32, bitcast=True)
        peaks = tl.where(wanted, peaks, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(peaks, 0))
        fade, fades = tl.exp2(peak - new_peak), tl.exp2(peaks - new_peak)
        total = total * fade + tl.sum(totals * fades, 0)
        output = output * fade + tl.sum(outputs * fades[:, None], 0)
        peak = new_peak
        # For the next launch.
        tl.store(places, found * 0 + _ABSENT, mask=wanted[:, None])
    return output, peak, total


@triton.jit(do_not_specialize=["window"])
def decode_single(
    output_ptr, query_ptr, key_ptr, value_ptr, table_ptr, lens_ptr,
    sinks_ptr, slopes_ptr, parts_ptr, scale, cap, window,
    query_stride_head, output_stride_head,
    key_stride_block, key_stride_slot, key_stride_head,
    value_stride_block, value_stride_slot, value_stride_head,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, REAL: tl.constexpr,
    SIZE: tl.constexpr, SIZE_V: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    PAGE: tl.constexpr, TILE: tl.constexpr,
    MOST_PARTS: tl.constexpr, READERS: tl.constexpr,
    COLUMNS: tl.constexpr, AT_ONCE: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, ALIBI: tl.constexpr,
    SINKS: tl.constexpr, WIDE: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    GROUPS: tl.constexpr = (GROUP + ROWS - 1) // ROWS
    LINES: tl.constexpr = KV_HEADS * GROUPS
    let_next_come(EARLY)
    # Lengths and tables are there already: what writes them isn't launched early.
    seq_len = tl.load(lens_ptr)
    first_tile = 0
    if WINDOWED:
        first_tile = tl.maximum(seq_len - window, 0) // TILE
    tiles = (seq_len + TILE - 1) // TILE - first_tile
    parts = tl.maximum(tl.minimum(tiles, MOST_PARTS), 1)
    line, part = tl.program_id(0) % LINES, tl.program_id(0) // LINES
    if part >= parts:
        return
    kv_head = line // GROUPS
    tile = first_tile + part * tiles // parts
    end_tile = first_tile + (part + 1) * tiles // parts
    rows, value_columns = tl.arange(0, ROWS), tl.arange(0, BLOCK_V)
    row_of_group = (line % GROUPS) * ROWS + rows
    inside = row_of_group < GROUP
    heads = kv_head * GROUP + row_of_group
    output, peak, total = attend_line(
        query_ptr, query_stride_head, heads, inside, slopes_ptr,
        key_ptr, value_ptr, table_ptr, kv_head, tile, end_tile, part == parts - 1,
        seq_len, scale, cap, window,
        key_stride_block, key_stride_slot, key_stride_head,
        value_stride_block, value_stride_slot, value_stride_head,
        ROWS, SIZE, SIZE_V, BLOCK_D, BLOCK_V, PAGE, TILE,
        WINDOWED, CAPPED, ALIBI, WIDE, STAGES, EARLY,
    )  # fmt: skip
    if parts == 1:
        # A row that only fills a batch up has no keys, and zeros for its output.
        total = tl.where(seq_len > 0, total, 1.0)
        store_rows(
            output_ptr, output, peak, total, sinks_ptr, heads, inside,
            output_stride_head, SIZE_V, BLOCK_V, SINKS,
        )  # fmt: skip
        return
    stride_part: tl.constexpr = REAL * BLOCK_V
    line_ptr = parts_ptr + line * MOST_PARTS * stride_part
    _leave(
        line_ptr + part * stride_part + rows[:, None] * BLOCK_V + value_columns[None, :],
        output, peak, total, value_columns, (rows < REAL)[:, None],
    )  # fmt: skip
    readers = tl.minimum(parts, READERS)
    if part < parts - readers:
        return
    PIECES: tl.constexpr = BLOCK_V // COLUMNS
    for piece in range(parts - 1 - part, REAL * PIECES, readers):
        row, column = piece // PIECES, piece % PIECES * COLUMNS
        whole, whole_peak, whole_total = _put_together(
            line_ptr + row * BLOCK_V + column, parts, stride_part, COLUMNS, AT_ONCE
        )
        row_here = (line % GROUPS) * ROWS + row + tl.arange(0, 1)
        head, here = kv_head * GROUP + row_here, row_here < GROUP
        whole = finish_rows(
            whole[None, :], whole_peak, whole_total, sinks_ptr, head, here, SINKS
        )
        columns_here = column + tl.arange(0, COLUMNS)
        tl.store(
            output_ptr + head[:, None] * output_stride_head + columns_here[None, :],
            whole.to(output_ptr.dtype.element_ty),
            mask=here[:, None] & (columns_here < SIZE_V)[None, :],
        )


def most_parts(programs: int, lines: int) -> int:
    """Into how many parts each line is cut at most."""
    parts = programs // lines
    return parts // PARTS_AT_ONCE * PARTS_AT_ONCE if parts > PARTS_AT_ONCE else parts


def readers_and_columns(
    real: int, block_v: int, lines: int, sms: int
) -> tuple[int, int]:
    """How many programs of a line put its rows together, and columns that each reads.

    The more, the sooner, but fewer than SMs in all. One in the interpreter, where
    programs run one after another: the last finds all parts there.
    """
    most = max(1, (sms - 1) // lines)
    columns = triton.next_power_of_2(-(-real * block_v // most))
    columns = min(max(columns, _LEAST_COLUMNS), _MOST_COLUMNS, block_v)
    pieces = real * block_v // columns
    return 1 if interpreting() else min(pieces, most), columns


_workspaces: dict[torch.device, torch.Tensor] = {}
_outgrown: list[torch.Tensor] = []


def workspace(device: torch.device, places: int) -> torch.Tensor:
    """Where parts wait to be put together, int64 [at least places].

    Every launch leaves all of it absent. A tensor that was outgrown stays alive: a
    captured graph may still write to it.
    """
    kept = _workspaces.get(device)
    if kept is None or kept.numel() < places:
        if kept is not None:
            _outgrown.append(kept)
        kept = torch.full((places,), _ABSENT.value, dtype=torch.int64, device=device)
        _workspaces[device] = kept
    return kept
