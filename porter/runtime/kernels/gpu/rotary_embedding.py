"""Rotate query and key heads by position in one launch."""

import torch
import triton
import triton.language as tl

from porter.runtime.kernels.gpu.device import early_launch, take_turn
from porter.runtime.kernels.gpu.rms_norm import weighed
from porter.runtime.kernels.gpu.strides import adjacent


@triton.jit
def load_angles(
    positions_ptr, table_ptr, table_stride, row, dtype,
    HALF: tl.constexpr, BLOCK_HALF: tl.constexpr,
):  # fmt: skip
    """Cosines and sines of a token, [1, BLOCK_HALF] each; as the reference, in the dtype
    of what they turn."""
    position = tl.load(positions_ptr + row).to(tl.int64)
    pairs = tl.arange(0, BLOCK_HALF)
    angles = table_ptr + position * table_stride + pairs
    cos = tl.load(angles, mask=pairs < HALF, other=0.0).to(dtype).to(tl.float32)
    sin = tl.load(angles + HALF, mask=pairs < HALF, other=0.0).to(dtype).to(tl.float32)
    return cos[None, :], sin[None, :]


@triton.jit
def _normed(
    x, scale, weight_ptr, columns, inside, dtype, WEIGHT: tl.constexpr
):  # fmt: skip
    x = x * scale
    if WEIGHT:
        weight = tl.load(weight_ptr + columns, mask=inside, other=0.0)
        x = weighed(x, weight)
    return x.to(dtype).to(tl.float32)


@triton.jit
def turn_heads(
    x_ptr, output_ptr, first_head, heads, stride_head, output_stride_head,
    cos, sin, weight_ptr, eps,
    SIZE: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_HALF: tl.constexpr, NEOX: tl.constexpr, HEADS: tl.constexpr,
    NORM: tl.constexpr, WEIGHT: tl.constexpr,
):  # fmt: skip
    """Norm and rotate one token's heads first_head and on, HEADS of them at most."""
    dtype = x_ptr.dtype.element_ty
    which = first_head + tl.arange(0, HEADS)
    present = (which < heads)[:, None]
    pairs = tl.arange(0, BLOCK_HALF)
    turning = pairs < HALF
    inside = present & turning[None, :]
    if NEOX:
        first, second = pairs, pairs + HALF
    else:
        first, second = 2 * pairs, 2 * pairs + 1
    rows = x_ptr + which[:, None] * stride_head
    x1 = tl.load(rows + first[None, :], mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(rows + second[None, :], mask=inside, other=0.0).to(tl.float32)
    columns = tl.arange(0, BLOCK)
    still = (columns >= 2 * HALF) & (columns < SIZE)
    if 2 * HALF < SIZE:
        kept = present & still[None, :]
        rest = tl.load(rows + columns[None, :], mask=kept, other=0.0).to(tl.float32)
    if NORM:
        squares = tl.sum(x1 * x1, 1) + tl.sum(x2 * x2, 1)
        if 2 * HALF < SIZE:
            squares += tl.sum(rest * rest, 1)
        scale = tl.rsqrt(squares / SIZE + eps)[:, None]
        x1 = _normed(x1, scale, weight_ptr, first, turning, dtype, WEIGHT)
        x2 = _normed(x2, scale, weight_ptr, second, turning, dtype, WEIGHT)
        if 2 * HALF < SIZE:
            rest = _normed(rest, scale, weight_ptr, columns, still, dtype, WEIGHT)
    outputs = output_ptr + which[:, None] * output_stride_head
    tl.store(outputs + first[None, :], (x1 * cos - x2 * sin).to(dtype), mask=inside)
    tl.store(outputs + second[None, :], (x2 * cos + x1 * sin).to(dtype), mask=inside)
    if 2 * HALF < SIZE:
        tl.store(outputs + columns[None, :], rest.to(dtype), mask=kept)


@triton.jit(do_not_specialize=["query_heads", "key_heads"])
def _rotate(
    positions_ptr, query_ptr, key_ptr, table_ptr, query_out_ptr, key_out_ptr,
    query_heads, key_heads, query_stride_row, query_stride_head,
    key_stride_row, key_stride_head, table_stride,
    SIZE: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_HALF: tl.constexpr, NEOX: tl.constexpr, QUERY_PROGRAMS: tl.constexpr,
    HEADS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    take_turn(EARLY)
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    cos, sin = load_angles(
        positions_ptr, table_ptr, table_stride, row, query_ptr.dtype.element_ty,
        HALF, BLOCK_HALF,
    )  # fmt: skip
    if part < QUERY_PROGRAMS:
        turn_heads(
            query_ptr + row * query_stride_row, query_out_ptr + row * query_heads * SIZE,
            part * HEADS, query_heads, query_stride_head, SIZE, cos, sin, None, 0.0,
            SIZE, HALF, BLOCK, BLOCK_HALF, NEOX, HEADS, False, False,
        )  # fmt: skip
    else:
        turn_heads(
            key_ptr + row * key_stride_row, key_out_ptr + row * key_heads * SIZE,
            (part - QUERY_PROGRAMS) * HEADS, key_heads, key_stride_head, SIZE,
            cos, sin, None, 0.0,
            SIZE, HALF, BLOCK, BLOCK_HALF, NEOX, HEADS, False, False,
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
    positions = positions.flatten()
    tokens = len(positions)
    if not tokens:
        return rotated, rotated_key
    queries = adjacent(query.view(tokens, -1, head_size))
    keys = queries[:, :0]
    if key is not None:
        keys = adjacent(key.view(tokens, -1, head_size))
    shape = launch_shape(head_size, cos_sin_cache.shape[-1] // 2)
    programs = [triton.cdiv(x.shape[1], shape["HEADS"]) for x in (queries, keys)]
    _rotate[(tokens, sum(programs))](
        positions, queries, keys, cos_sin_cache, rotated,
        rotated if rotated_key is None else rotated_key,  # not written then
        queries.shape[1], keys.shape[1], *queries.stride()[:2], *keys.stride()[:2],
        cos_sin_cache.stride(0), NEOX=is_neox_style, QUERY_PROGRAMS=programs[0], **shape,
        num_warps=2, **early_launch(),
    )  # fmt: skip
    return rotated, rotated_key


def launch_shape(head_size: int, half: int) -> dict[str, int]:
    """Sizes that kernels around `turn_heads` are compiled for."""
    block = triton.next_power_of_2(head_size)
    return {
        "SIZE": head_size,
        "HALF": half,
        "BLOCK": block,
        "BLOCK_HALF": triton.next_power_of_2(half),
        "HEADS": max(1, 1024 // block),
    }
