"""Norm and rotate heads and store keys and values, in one launch."""

import torch
import triton
import triton.language as tl

from porter.runtime.kernels.gpu.device import early_launch, take_turn
from porter.runtime.kernels.gpu.rotary_embedding import (
    launch_shape,
    load_angles,
    turn_heads,
)
from porter.runtime.kernels.gpu.store_kv import store_heads
from porter.runtime.kernels.gpu.strides import adjacent
from porter.runtime.kernels.rotate_and_store import HeadNorm


@triton.jit(do_not_specialize=["query_heads", "key_heads"])
def _rotate_and_store(
    positions_ptr, query_ptr, key_ptr, value_ptr, table_ptr, output_ptr,
    key_cache_ptr, value_cache_ptr, slots_ptr,
    query_weight_ptr, key_weight_ptr, query_eps, key_eps, query_heads, key_heads,
    query_stride_row, query_stride_head, key_stride_row, key_stride_head,
    value_stride_row, value_stride_head, table_stride,
    kc_stride_block, kc_stride_slot, kc_stride_head,
    vc_stride_block, vc_stride_slot, vc_stride_head,
    SIZE: tl.constexpr, SIZE_V: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_HALF: tl.constexpr,
    NEOX: tl.constexpr, QUERY_PROGRAMS: tl.constexpr, HEADS: tl.constexpr,
    QUERY_NORM: tl.constexpr, QUERY_WEIGHT: tl.constexpr,
    KEY_NORM: tl.constexpr, KEY_WEIGHT: tl.constexpr, PAGE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    take_turn(EARLY)
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    cos, sin = load_angles(
        positions_ptr, table_ptr, table_stride, row, query_ptr.dtype.element_ty,
        HALF, BLOCK_HALF,
    )  # fmt: skip
    if part < QUERY_PROGRAMS:
        turn_heads(
            query_ptr + row * query_stride_row, output_ptr + row * query_heads * SIZE,
            part * HEADS, query_heads, query_stride_head, SIZE, cos, sin,
            query_weight_ptr, query_eps,
            SIZE, HALF, BLOCK, BLOCK_HALF, NEOX, HEADS, QUERY_NORM, QUERY_WEIGHT,
        )  # fmt: skip
    else:
        first_head = (part - QUERY_PROGRAMS) * HEADS
        slot = tl.load(slots_ptr + row).to(tl.int64)
        if slot >= 0:
            place = slot // PAGE * kc_stride_block + slot % PAGE * kc_stride_slot
            turn_heads(
                key_ptr + row * key_stride_row, key_cache_ptr + place,
                first_head, key_heads, key_stride_head, kc_stride_head, cos, sin,
                key_weight_ptr, key_eps,
                SIZE, HALF, BLOCK, BLOCK_HALF, NEOX, HEADS, KEY_NORM, KEY_WEIGHT,
            )  # fmt: skip
            store_heads(
                value_ptr, value_cache_ptr, slot, row, first_head, key_heads,
                value_stride_row, value_stride_head,
                vc_stride_block, vc_stride_slot, vc_stride_head,
                PAGE, SIZE_V, BLOCK_V, HEADS,
            )  # fmt: skip


def rotate_and_store(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    is_neox_style: bool,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    query_norm: HeadNorm | None = None,
    key_norm: HeadNorm | None = None,
) -> torch.Tensor:
    """As the reference; a token of slot -1 is not stored. Caches may have any strides but
    the last."""
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    tokens = len(slot_mapping)
    if not tokens:
        return output
    size, size_v = key_cache.shape[-1], value_cache.shape[-1]
    queries = adjacent(query.reshape(tokens, -1, size))
    keys = adjacent(key.reshape(tokens, -1, size))
    values = adjacent(value.reshape(tokens, -1, size_v))
    query_weight, query_eps = query_norm or (None, 0.0)
    key_weight, key_eps = key_norm or (None, 0.0)
    shape = launch_shape(size, cos_sin_cache.shape[-1] // 2)
    programs = [triton.cdiv(x.shape[1], shape["HEADS"]) for x in (queries, keys)]
    _rotate_and_store[(tokens, sum(programs))](
        positions.flatten(), queries, keys, values, cos_sin_cache, output,
        key_cache, value_cache, slot_mapping,
        query_weight, key_weight, query_eps, key_eps, queries.shape[1], keys.shape[1],
        *queries.stride()[:2], *keys.stride()[:2], *values.stride()[:2],
        cos_sin_cache.stride(0), *key_cache.stride()[:3], *value_cache.stride()[:3],
        SIZE_V=size_v, BLOCK_V=triton.next_power_of_2(size_v), NEOX=is_neox_style,
        QUERY_PROGRAMS=programs[0],
        QUERY_NORM=query_norm is not None, QUERY_WEIGHT=query_weight is not None,
        KEY_NORM=key_norm is not None, KEY_WEIGHT=key_weight is not None,
        PAGE=key_cache.shape[1], **shape, num_warps=2, **early_launch(),
    )  # fmt: skip
    return output
