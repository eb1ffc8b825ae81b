"""Rotate query and key heads by position in one launch, and store the keys with it."""

import torch
import triton
import triton.language as tl

from porter.runtime.kernels.gpu.device import early_launch, take_turn
from porter.runtime.kernels.gpu.store_kv import store_heads


@triton.jit
def _rotated(
    x_ptr, base, first_head, heads, stride_head, cos, sin,
    HALF: tl.constexpr, BLOCK_HALF: tl.constexpr, NEOX: tl.constexpr,
    HEADS: tl.constexpr,
):  # fmt: skip
    """Both halves of the rotation of some heads, their columns, and which exist."""
    which = first_head + tl.arange(0, HEADS)
    pairs = tl.arange(0, BLOCK_HALF)
    inside = (which < heads)[:, None] & (pairs < HALF)[None, :]
    if NEOX:
        first, second = pairs, pairs + HALF
    else:
        first, second = 2 * pairs, 2 * pairs + 1
    rows = x_ptr + base + which[:, None] * stride_head
    x1 = tl.load(rows + first[None, :], mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(rows + second[None, :], mask=inside, other=0.0).to(tl.float32)
    return x1 * cos - x2 * sin, x2 * cos + x1 * sin, which, first, second, inside


@triton.jit
def _copy_rest(
    x_ptr, base, output_ptr, output_base, which, heads, stride_head, output_stride_head,
    SIZE: tl.constexpr, ROTARY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The elements of each head that don't turn."""
    columns = tl.arange(0, BLOCK)
    turning = (columns >= ROTARY) & (columns < SIZE)
    inside = (which < heads)[:, None] & turning[None, :]
    x = tl.load(
        x_ptr + base + which[:, None] * stride_head + columns[None, :], mask=inside
    )
    pointers = output_ptr + output_base + which[:, None] * output_stride_head
    tl.store(
        pointers + columns[None, :], x.to(output_ptr.dtype.element_ty), mask=inside
    )


@triton.jit(do_not_specialize=["query_heads", "key_heads"])
def _rotate(
    positions_ptr, query_ptr, key_ptr, value_ptr, table_ptr, query_out_ptr, key_out_ptr,
    key_cache_ptr, value_cache_ptr, slots_ptr, query_heads, key_heads,
    query_stride_row, query_stride_head, key_stride_row, key_stride_head,
    value_stride_row, value_stride_head, table_stride,
    kc_stride_block, kc_stride_slot, kc_stride_head,
    vc_stride_block, vc_stride_slot, vc_stride_head,
    SIZE: tl.constexpr, SIZE_V: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_HALF: tl.constexpr,
    NEOX: tl.constexpr, QUERY_PROGRAMS: tl.constexpr, HEADS: tl.constexpr,
    STORE: tl.constexpr, PAGE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    take_turn(EARLY)
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.load(positions_ptr + row).to(tl.int64)
    pairs = tl.arange(0, BLOCK_HALF)
    angles = table_ptr + position * table_stride + pairs
    # As the reference: cosines and sines in the dtype of what they turn.
    dtype = query_ptr.dtype.element_ty
    cos = tl.load(angles, mask=pairs < HALF, other=0.0).to(dtype).to(tl.float32)
    sin = tl.load(angles + HALF, mask=pairs < HALF, other=0.0).to(dtype).to(tl.float32)
    cos, sin = cos[None, :], sin[None, :]
    if part < QUERY_PROGRAMS:
        base = row * query_stride_row
        r1, r2, which, first, second, inside = _rotated(
            query_ptr, base, part * HEADS, query_heads, query_stride_head, cos, sin,
            HALF, BLOCK_HALF, NEOX, HEADS,
        )  # fmt: skip
        output_base = row * query_heads * SIZE
        out = query_out_ptr + output_base + which[:, None] * SIZE
        tl.store(out + first[None, :], r1.to(dtype), mask=inside)
        tl.store(out + second[None, :], r2.to(dtype), mask=inside)
        if 2 * HALF < SIZE:
            _copy_rest(
                query_ptr, base, query_out_ptr, output_base, which, query_heads,
                query_stride_head, SIZE, SIZE, 2 * HALF, BLOCK,
            )  # fmt: skip
    else:
        base = row * key_stride_row
        r1, r2, which, first, second, inside = _rotated(
            key_ptr, base, (part - QUERY_PROGRAMS) * HEADS, key_heads, key_stride_head,
            cos, sin, HALF, BLOCK_HALF, NEOX, HEADS,
        )  # fmt: skip
        if STORE:
            slot = tl.load(slots_ptr + row).to(tl.int64)
            inside = inside & (slot >= 0)
            output_base = slot // PAGE * kc_stride_block + slot % PAGE * kc_stride_slot
            out = key_cache_ptr + output_base + which[:, None] * kc_stride_head
        else:
            output_base = row * key_heads * SIZE
            out = key_out_ptr + output_base + which[:, None] * SIZE
        tl.store(out + first[None, :], r1.to(dtype), mask=inside)
        tl.store(out + second[None, :], r2.to(dtype), mask=inside)
        if STORE:
            if slot >= 0:
                if 2 * HALF < SIZE:
                    _copy_rest(
                        key_ptr, base, key_cache_ptr, output_base, which, key_heads,
                        key_stride_head, kc_stride_head, SIZE, 2 * HALF, BLOCK,
                    )  # fmt: skip
                store_heads(
                    value_ptr, value_cache_ptr, slot, row,
                    (part - QUERY_PROGRAMS) * HEADS, key_heads,
                    value_stride_row, value_stride_head,
                    vc_stride_block, vc_stride_slot, vc_stride_head,
                    PAGE, SIZE_V, BLOCK_V, HEADS,
                )  # fmt: skip
        elif 2 * HALF < SIZE:
            _copy_rest(
                key_ptr, base, key_out_ptr, output_base, which, key_heads,
                key_stride_head, SIZE, SIZE, 2 * HALF, BLOCK,
            )  # fmt: skip


def rotate_by_position(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    is_neox_style: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As the reference."""
    rotated = torch.empty_like(query, memory_format=torch.contiguous_format)
    rotated_key = None
    if key is not None:
        rotated_key = torch.empty_like(key, memory_format=torch.contiguous_format)
    _launch(positions, query, key, cos_sin_cache, head_size, is_neox_style,
            rotated, rotated_key, None)  # fmt: skip
    return rotated, rotated_key


def rotate_and_store(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    is_neox_style: bool,
    caches: tuple[torch.Tensor, torch.Tensor],
    slot_mapping: torch.Tensor,
) -> torch.Tensor:
    """The rotated query; the rotated keys and the values go to their slots.

    value: [num_tokens, kv heads, head_size_v]. caches and slot_mapping as `store_kv`.
    """
    rotated = torch.empty_like(query, memory_format=torch.contiguous_format)
    _launch(positions, query, key, cos_sin_cache, head_size, is_neox_style,
            rotated, None, (value, *caches, slot_mapping))  # fmt: skip
    return rotated


def _launch(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    table: torch.Tensor,
    size: int,
    neox: bool,
    rotated: torch.Tensor,
    rotated_key: torch.Tensor | None,
    store: tuple[torch.Tensor, ...] | None,
) -> None:
    positions = positions.flatten()
    tokens, half = len(positions), table.shape[-1] // 2
    if not tokens:
        return
    query = query.view(tokens, -1, size)
    key = query[:, :0] if key is None else key.view(tokens, -1, size)
    rotated_key = rotated if rotated_key is None else rotated_key  # not written then
    value, key_cache, value_cache, slots = store or (None, None, None, None)
    heads = max(1, 1024 // triton.next_power_of_2(size))
    programs = [triton.cdiv(x.shape[1], heads) for x in (query, key)]
    size_v = size if value is None else value.shape[-1]
    strides = [(0, 0, 0) if c is None else c.stride()[:3]
               for c in (key_cache, value_cache)]  # fmt: skip
    _rotate[(tokens, sum(programs))](
        positions, query, key, value, table, rotated, rotated_key,
        key_cache, value_cache, slots, query.shape[1], key.shape[1],
        *query.stride()[:2], *key.stride()[:2],
        *((0, 0) if value is None else value.stride()[:2]), table.stride(0),
        *strides[0], *strides[1],
        SIZE=size, SIZE_V=size_v, HALF=half, BLOCK=triton.next_power_of_2(size),
        BLOCK_V=triton.next_power_of_2(size_v),
        BLOCK_HALF=triton.next_power_of_2(half), NEOX=neox,
        QUERY_PROGRAMS=programs[0], HEADS=heads, STORE=store is not None,
        PAGE=1 if key_cache is None else key_cache.shape[1], num_warps=2, **early_launch(),
    )  # fmt: skip
