"""Attention of one query token a sequence over the paged cache.

Every program takes an equal share of all work: the tiles of all sequences and kv heads
stand in one row, and program i of n takes the i-th n-th of it. So long and short
sequences, one or hundreds, fill the GPU alike, and the grid is the same for any lengths,
which is what a CUDA graph needs. A share can end inside a sequence: its parts are kept
aside, and whoever finishes the last part puts them together. A batch of one has a kernel
of its own (`single_decode`).

The query heads of one kv head are the rows of one matrix product.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from porter.runtime.kernels.gpu import single_decode
from porter.runtime.kernels.gpu.attention_tiles import (
    attend_line,
    forms,
    scales,
    store_rows,
)
from porter.runtime.kernels.gpu.device import (
    early_launch,
    interpreting,
    let_next_come,
    shared_memory,
    sm_count,
    wait_for_turn,
)
from porter.runtime.kernels.paged_attention import AttentionOptions

# How many parts are put together in the time that a tile is read, inverted.
_TILES_A_PART = 0.25
# Beginning a line (a sequence's keys, as one kv head's queries read them) takes as long
# as reading so many tiles: its first loads wait for each other.
_TILES_A_LINE = 1
_MAX_ROWS = 64
_OTHER_SHARED = 8 << 10  # bytes that a program needs beside its tiles
_IN_FLIGHT = 8  # parts on their way while they are put together


@dataclass(frozen=True)
class DecodeShape:
    """How one launch is cut: keys a tile, warps, loads in flight, programs an SM.

    The shared memory that tiles in flight take should leave room for no more programs
    than that: where more of the next launch fit, they gather on some SMs, and others
    idle (one sequence of 32k tokens, 3 of 2: 43 us instead of 37 on an H200).
    """

    tile: int = 64
    num_warps: int = 4
    num_stages: int = 3
    programs_per_sm: int = 2


@triton.jit
def _put_together(
    parts_ptr, state_ptr, first, last,
    REAL: tl.constexpr, BLOCK_V: tl.constexpr, IN_FLIGHT: tl.constexpr,
):  # fmt: skip
    """The state of a line's REAL rows from its parts, of programs first to last.

    The first part is the one its program began with, of the others the one that its
    program ended with. They are read past the first level of cache, which may hold
    what an earlier launch left there, and many ahead: each trip takes long.
    """
    rows, columns = tl.arange(0, REAL), tl.arange(0, BLOCK_V)
    offsets = rows[:, None] * BLOCK_V + columns[None, :]
    output = tl.zeros([REAL, BLOCK_V], tl.float32)
    peak = tl.full([REAL], float("-inf"), tl.float32)
    total = tl.zeros([REAL], tl.float32)
    for program in tl.range(first, last + 1, num_stages=IN_FLIGHT):
        part = 2 * program + (program == first).to(tl.int32)
        state = state_ptr + part * 2 * REAL + rows
        part_peak = tl.load(state, cache_modifier=".cg")
        part_total = tl.load(state + REAL, cache_modifier=".cg")
        part_output = tl.load(
            parts_ptr + part * REAL * BLOCK_V + offsets, cache_modifier=".cg"
        )
        new_peak = tl.maximum(peak, part_peak)
        fade = tl.exp2(peak - new_peak)
        part_fade = tl.exp2(part_peak - new_peak)
        total = total * fade + part_total * part_fade
        output = output * fade[:, None] + part_output * part_fade[:, None]
        peak = new_peak
    return output, peak, total


@triton.jit
def _store_line(
    output_ptr, output, peak, total, sinks_ptr, line, stride_head,
    HERE: tl.constexpr, ROWS: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
    SIZE_V: tl.constexpr, BLOCK_V: tl.constexpr, SINKS: tl.constexpr,
):  # fmt: skip
    """The first HERE rows of a line, to the heads that they are."""
    row_of_group = (line % GROUPS) * ROWS + tl.arange(0, HERE)
    store_rows(
        output_ptr, output, peak, total, sinks_ptr,
        line // GROUPS * GROUP + row_of_group, row_of_group < GROUP,
        stride_head, SIZE_V, BLOCK_V, SINKS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_seqs", "window", "table_stride"])
def _decode(
    output_ptr, query_ptr, key_ptr, value_ptr, table_ptr, lens_ptr,
    sinks_ptr, slopes_ptr, parts_ptr, parts_state_ptr, arrived_ptr,
    num_seqs, scale, cap, window,
    query_stride_token, query_stride_head, output_stride_token, output_stride_head,
    key_stride_block, key_stride_slot, key_stride_head,
    value_stride_block, value_stride_slot, value_stride_head, table_stride,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
    REAL: tl.constexpr, IN_FLIGHT: tl.constexpr, SIZE: tl.constexpr, SIZE_V: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    PAGE: tl.constexpr, TILE: tl.constexpr, BLOCK_SEQS: tl.constexpr,
    TILES_A_PART: tl.constexpr, TILES_A_LINE: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, ALIBI: tl.constexpr,
    SINKS: tl.constexpr, WIDE: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    GROUPS: tl.constexpr = (GROUP + ROWS - 1) // ROWS
    LINES: tl.constexpr = KV_HEADS * GROUPS  # reads of a sequence's keys
    let_next_come(EARLY)
    # Lengths and tables are there already: what writes them isn't launched early.
    seqs = tl.arange(0, BLOCK_SEQS)
    lens = tl.load(lens_ptr + seqs, mask=seqs < num_seqs, other=0)
    tiles = (lens + TILE - 1) // TILE
    if WINDOWED:
        tiles -= tl.maximum(lens - window, 0) // TILE
    pid, programs = tl.program_id(0), tl.num_programs(0)
    # A line in n parts is read n times as fast, and takes n times as long to put
    # together: for few tiles, fewer parts than programs are the quickest.
    longest = tl.max(tiles, 0)
    least = tl.sqrt(longest.to(tl.float32) * TILES_A_PART).to(tl.int32)
    least = tl.maximum(least, 1)
    weights = tl.where(tiles > 0, tiles + TILES_A_LINE, 0)
    all_weights = tl.sum(weights, 0) * LINES
    share = tl.maximum((all_weights + programs - 1) // programs, least)
    ends = tl.cumsum(weights, 0) * LINES
    at = pid * share
    stop = tl.minimum(at + share, all_weights)
    seq = tl.sum((ends <= at).to(tl.int32), 0)
    seq_begin = tl.sum(tl.where(seqs < seq, weights, 0), 0) * LINES

    rows, value_columns = tl.arange(0, ROWS), tl.arange(0, BLOCK_V)
    part_offsets = rows[:, None] * BLOCK_V + value_columns[None, :]
    in_part = rows < REAL
    while at < stop:
        seq_len = tl.load(lens_ptr + seq)
        first_tile = 0
        if WINDOWED:
            first_tile = tl.maximum(seq_len - window, 0) // TILE
        count = (seq_len + TILE - 1) // TILE - first_tile + TILES_A_LINE
        line = (at - seq_begin) // count
        line_begin = seq_begin + line * count
        line_end = line_begin + count
        until = tl.minimum(stop, line_end)
        # Where the line's tiles begin in the row of all work, and which are this part's.
        tiles_begin = line_begin + TILES_A_LINE
        begins, ends_line = at <= tiles_begin, until == line_end
        tile = first_tile + tl.maximum(at - tiles_begin, 0)
        end_tile = first_tile + tl.maximum(until - tiles_begin, 0)
        kv_head = line // GROUPS
        row_of_group = (line % GROUPS) * ROWS + rows
        inside = row_of_group < GROUP
        heads = kv_head * GROUP + row_of_group
        output, peak, total = attend_line(
            query_ptr + seq.to(tl.int64) * query_stride_token, query_stride_head,
            heads, inside, slopes_ptr, key_ptr, value_ptr,
            table_ptr + seq.to(tl.int64) * table_stride,
            kv_head, tile, end_tile, ends_line,
            seq_len, scale, cap, window,
            key_stride_block, key_stride_slot, key_stride_head,
            value_stride_block, value_stride_slot, value_stride_head,
            ROWS, SIZE, SIZE_V, BLOCK_D, BLOCK_V, PAGE, TILE,
            WINDOWED, CAPPED, ALIBI, WIDE, STAGES, EARLY,
        )  # fmt: skip
        complete = begins & ends_line
        if (not complete) & (end_tile > tile):
            # A program has at most one line that it ends and one that it begins.
            part = 2 * pid + begins.to(tl.int32)
            tl.store(
                parts_ptr + part * REAL * BLOCK_V + part_offsets,
                output,
                mask=in_part[:, None],
            )
            state = parts_state_ptr + part * 2 * REAL + rows
            tl.store(state, peak, mask=in_part)
            tl.store(state + REAL, total, mask=in_part)
            tl.debug_barrier()
            first, last = tiles_begin // share, (line_end - 1) // share
            counter = arrived_ptr + seq * LINES + line
            before = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
            if before == last - first:
                tl.store(counter, 0)  # for the next launch
                whole, whole_peak, whole_total = _put_together(
                    parts_ptr, parts_state_ptr, first, last, REAL, BLOCK_V, IN_FLIGHT
                )  # fmt: skip
                _store_line(
                    output_ptr + seq.to(tl.int64) * output_stride_token,
                    whole, whole_peak, whole_total, sinks_ptr, line,
                    output_stride_head, REAL, ROWS, GROUP, GROUPS, SIZE_V, BLOCK_V, SINKS,
                )  # fmt: skip
        if complete:
            _store_line(
                output_ptr + seq.to(tl.int64) * output_stride_token,
                output, peak, total, sinks_ptr, line,
                output_stride_head, ROWS, ROWS, GROUP, GROUPS, SIZE_V, BLOCK_V, SINKS,
            )  # fmt: skip
        at = until
        if at == seq_begin + count * LINES:
            seq_begin = at
            seq += 1
    wait_for_turn(EARLY)
    for filler in range(pid, num_seqs, programs):
        if tl.load(lens_ptr + filler) == 0:  # it only fills the batch up
            for head in range(0, KV_HEADS * GROUP, ROWS):
                some = head + rows
                tl.store(
                    output_ptr + filler * output_stride_token
                    + some[:, None] * output_stride_head + value_columns[None, :],
                    tl.zeros([ROWS, BLOCK_V], output_ptr.dtype.element_ty),
                    mask=(some < KV_HEADS * GROUP)[:, None]
                    & (value_columns < SIZE_V)[None, :],
                )  # fmt: skip


def paged_decode(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
    options: AttentionOptions,
    output: torch.Tensor,
    shape: DecodeShape | None = None,
    num_programs: int | None = None,
) -> None:
    """Write [num_seqs, num_heads, head_size_v] into output.

    query: [num_seqs, num_heads, head_size]. key_cache, value_cache: [num_blocks,
    block_size, num_kv_heads, size], any strides but the last. block_tables: [num_seqs,
    max_blocks] int32. seq_lens: [num_seqs] int32, the query's own key included; 0 for rows
    that only fill a batch up, which come last and get zeros. One launch at a time may
    run on a device.
    """
    num_seqs, num_heads, size = query.shape
    block_size, kv_heads, size_v = value_cache.shape[1:]
    group = num_heads // kv_heads
    rows = min(max(16, triton.next_power_of_2(group)), _MAX_ROWS)
    real = min(triton.next_power_of_2(group), rows)
    block_d, block_v = (max(16, triton.next_power_of_2(n)) for n in (size, size_v))
    lines = num_seqs * kv_heads * -(-group // rows)
    shape = shape or _shape_for(
        query.device, (block_d, block_v), query.dtype, num_seqs == 1
    )
    programs = num_programs or sm_count(query.device) * shape.programs_per_sm
    tensors = (output, query, key_cache, value_cache, block_tables, seq_lens)
    cache_strides = (*key_cache.stride()[:3], *value_cache.stride()[:3])
    constants = dict(
        KV_HEADS=kv_heads, GROUP=group, ROWS=rows, REAL=real,
        SIZE=size, SIZE_V=size_v,
        BLOCK_D=block_d, BLOCK_V=block_v, PAGE=block_size, TILE=shape.tile,
        **forms(options),
        WIDE=query.dtype == torch.float32 or interpreting(), STAGES=shape.num_stages,
        num_warps=shape.num_warps, num_stages=shape.num_stages, **early_launch(),
    )  # fmt: skip
    if num_seqs == 1 and programs >= lines:
        # Every line in as many parts, so that no program has two to begin.
        parts = single_decode.most_parts(programs, lines)
        readers, columns = single_decode.readers_and_columns(
            real, block_v, lines, sm_count(query.device)
        )
        places = single_decode.workspace(query.device, lines * parts * real * block_v)
        single_decode.decode_single[(lines * parts,)](
            *tensors, options.sinks, options.alibi_slopes, places, *scales(options),
            query.stride(1), output.stride(1), *cache_strides,
            MOST_PARTS=parts, AT_ONCE=single_decode.PARTS_AT_ONCE,
            READERS=readers, COLUMNS=columns,
            **constants,
        )  # fmt: skip
        return
    workspace = _workspace(query.device, programs, real, block_v, lines)
    _decode[(programs,)](
        *tensors, options.sinks, options.alibi_slopes, *workspace, num_seqs,
        *scales(options),
        query.stride(0), query.stride(1), output.stride(0), output.stride(1),
        *cache_strides, block_tables.stride(0),
        IN_FLIGHT=_IN_FLIGHT, BLOCK_SEQS=triton.next_power_of_2(num_seqs),
        TILES_A_PART=_TILES_A_PART, TILES_A_LINE=_TILES_A_LINE,
        **constants,
    )  # fmt: skip


def _shape_for(
    device: torch.device, sizes: tuple[int, int], dtype: torch.dtype, alone: bool
) -> DecodeShape:
    """sizes: of a key and a value, in memory. alone: whether the batch is one sequence."""
    if dtype == torch.float32 or interpreting():
        return DecodeShape(tile=32, num_stages=2)
    tile = 32 if max(sizes) > 128 else 64
    stage = tile * sum(sizes) * dtype.itemsize
    # As many tiles in flight as leave room for two programs an SM, and no third.
    fit = (shared_memory(device) // 2 - _OTHER_SHARED) // stage + 1
    most = 8 if alone else 4 if max(sizes) > 128 else 3
    return DecodeShape(tile=tile, num_stages=max(2, min(fit, most)))


_workspaces: dict[torch.device, list[torch.Tensor]] = {}


def _workspace(
    device: torch.device, programs: int, rows: int, block_v: int, lines: int
) -> list[torch.Tensor]:
    """Where parts wait to be put together, as large as any launch so far wanted.

    Every launch leaves the counters zero. A tensor that was outgrown stays alive: a
    captured graph may still write to it.
    """
    wanted = (2 * programs * rows * block_v, 4 * programs * rows, lines)
    dtypes = (torch.float32, torch.float32, torch.int32)
    kept = _workspaces.get(device)
    if kept is None or any(t.numel() < n for t, n in zip(kept, wanted, strict=True)):
        _outgrown.extend(kept or ())
        kept = [
            torch.zeros(n, dtype=dtype, device=device)
            for n, dtype in zip(wanted, dtypes, strict=True)
        ]
        _workspaces[device] = kept
    return kept


_outgrown: list[torch.Tensor] = []
