"""Write a step's keys and values into the paged cache."""

import torch
import triton
import triton.language as tl

from porter.runtime.kernels.gpu.device import early_launch, take_turn
from porter.runtime.kernels.gpu.strides import adjacent


@triton.jit
def store_heads(
    x_ptr, cache_ptr, slot, row, first_head, heads,
    x_stride_row, x_stride_head, stride_block, stride_slot, stride_head,
    PAGE: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Copy one token's heads first_head and on, HEADS of them at most, to its slot."""
    which = first_head + tl.arange(0, HEADS)
    columns = tl.arange(0, BLOCK)
    inside = (which < heads)[:, None] & (columns < SIZE)[None, :]
    x = tl.load(
        x_ptr + row * x_stride_row + which[:, None] * x_stride_head + columns[None, :],
        mask=inside,
    )
    place = cache_ptr + slot // PAGE * stride_block + slot % PAGE * stride_slot
    pointers = place + which[:, None] * stride_head + columns[None, :]
    tl.store(pointers, x.to(cache_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["heads"])
def _store_kv(
    key_ptr, value_ptr, key_cache_ptr, value_cache_ptr, slots_ptr, heads,
    key_stride_row, key_stride_head, value_stride_row, value_stride_head,
    kc_stride_block, kc_stride_slot, kc_stride_head,
    vc_stride_block, vc_stride_slot, vc_stride_head,
    PAGE: tl.constexpr, SIZE: tl.constexpr, SIZE_V: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_V: tl.constexpr, HEADS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    take_turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    first_head = tl.program_id(1) * HEADS
    slot = tl.load(slots_ptr + row).to(tl.int64)
    if slot >= 0:
        store_heads(
            key_ptr, key_cache_ptr, slot, row, first_head, heads,
            key_stride_row, key_stride_head,
            kc_stride_block, kc_stride_slot, kc_stride_head, PAGE, SIZE, BLOCK, HEADS,
        )  # fmt: skip
        store_heads(
            value_ptr, value_cache_ptr, slot, row, first_head, heads,
            value_stride_row, value_stride_head,
            vc_stride_block, vc_stride_slot, vc_stride_head,
            PAGE, SIZE_V, BLOCK_V, HEADS,
        )  # fmt: skip


def store_kv(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    """As the reference; caches may have any strides but the last."""
    key, value = adjacent(key), adjacent(value)
    tokens, heads, size = key.shape
    size_v = value.shape[-1]
    if not tokens:
        return
    block, block_v = triton.next_power_of_2(size), triton.next_power_of_2(size_v)
    at_once = max(1, min(2048 // max(block, block_v), triton.next_power_of_2(heads)))
    _store_kv[(tokens, triton.cdiv(heads, at_once))](
        key, value, key_cache, value_cache, slot_mapping, heads,
        *key.stride()[:2], *value.stride()[:2],
        *key_cache.stride()[:3], *value_cache.stride()[:3],
        PAGE=key_cache.shape[1], SIZE=size, SIZE_V=size_v, BLOCK=block,
        BLOCK_V=block_v, HEADS=at_once, num_warps=4, **early_launch(),
    )  # fmt: skip
