"""The experts' products on a GPU: one launch multiplies all experts' rows, each with its
expert's matrix. Nothing waits for the host, so decode steps can be captured."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from porter.runtime.kernels.gpu.device import early_launch, interpreting, take_turn
from porter.runtime.kernels.gpu.expert_order import add_up, order_pairs
from porter.runtime.kernels.gpu.strides import adjacent

Activation = Callable[[torch.Tensor], torch.Tensor]
# So many blocks of rows go through the same columns of weights one after another.
_GROUP = 8


@triton.jit
def _place(
    ends_ptr, block, EXPERTS: tl.constexpr, BLOCK_EXPERTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Whose rows a block has, EXPERTS or more for nobody's; its first, and the end of the
    expert's."""
    experts = tl.arange(0, BLOCK_EXPERTS)
    real = experts < EXPERTS
    ends = tl.load(ends_ptr + experts, mask=real, other=0)
    starts = tl.load(ends_ptr + experts - 1, mask=real & (experts > 0), other=0)
    blocks = tl.where(real, (ends - starts + BLOCK_M - 1) // BLOCK_M, 0)
    last = tl.cumsum(blocks, 0)
    expert = tl.sum((last <= block).to(tl.int32))
    it = experts == expert
    first = tl.sum(tl.where(it, starts - (last - blocks) * BLOCK_M, 0))
    return expert, first + block * BLOCK_M, tl.sum(tl.where(it, ends, 0))


@triton.jit(do_not_specialize=["num_blocks"])
def _grouped_product(
    x_ptr, weight_ptr, bias_ptr, output_ptr, order_ptr, scale_ptr, ends_ptr,
    num_blocks, inner, outer, stride_x, stride_expert, stride_row,
    EXPERTS: tl.constexpr, BLOCK_EXPERTS: tl.constexpr, TOP_K: tl.constexpr,
    BY_TOKEN: tl.constexpr, BIAS: tl.constexpr, SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr, GROUP: tl.constexpr, WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """BY_TOKEN: x has a row for each token, otherwise for each place in order. SCALE: each
    row is multiplied by its pair's scale and goes to its pair's place."""
    take_turn(EARLY)
    columns = tl.cdiv(outer, BLOCK_N)
    group = tl.program_id(0) // (GROUP * columns)
    inside = tl.program_id(0) % (GROUP * columns)
    height = min(num_blocks - group * GROUP, GROUP)
    expert, first, end = _place(
        ends_ptr, group * GROUP + inside % height, EXPERTS, BLOCK_EXPERTS, BLOCK_M
    )
    if expert < EXPERTS:
        rows = first + tl.arange(0, BLOCK_M)
        held = rows < end
        pairs = tl.load(order_ptr + rows, mask=held, other=0).to(tl.int64)
        out = inside // height * BLOCK_N + tl.arange(0, BLOCK_N)
        ks = tl.arange(0, BLOCK_K)
        source = pairs // TOP_K if BY_TOKEN else rows.to(tl.int64)
        x_ptrs = x_ptr + source[:, None] * stride_x + ks[None, :]
        w_ptrs = weight_ptr + expert.to(tl.int64) * stride_expert
        w_ptrs += out[None, :].to(tl.int64) * stride_row + ks[:, None]
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, inner, BLOCK_K):
            if EVEN:
                x = tl.load(x_ptrs, mask=held[:, None], other=0.0)
                w = tl.load(w_ptrs)
            else:
                left = ks < inner - start
                x = tl.load(x_ptrs, mask=held[:, None] & left[None, :], other=0.0)
                there = left[:, None] & (out < outer)[None, :]
                w = tl.load(w_ptrs, mask=there, other=0.0)
            if WIDE:
                x, w = x.to(tl.float32), w.to(tl.float32)
            total = tl.dot(x, w, total, input_precision="ieee")
            x_ptrs += BLOCK_K
            w_ptrs += BLOCK_K
        if BIAS:
            bias_ptrs = bias_ptr + expert * outer + out
            bias = tl.load(bias_ptrs, mask=out < outer, other=0.0)
            total += bias.to(tl.float32)[None, :]
        dtype = output_ptr.dtype.element_ty
        target = rows.to(tl.int64)
        if SCALE:
            scale = tl.load(scale_ptr + pairs, mask=held, other=0.0).to(dtype)
            total = total.to(dtype).to(tl.float32) * scale.to(tl.float32)[:, None]
            target = pairs
        tl.store(
            output_ptr + target[:, None] * outer + out[None, :], total.to(dtype),
            mask=held[:, None] & (out < outer)[None, :],
        )  # fmt: skip


class _Shape(NamedTuple):
    """Of a program's tile, and how it is compiled."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


def _shape(pairs: int, experts: int, wide: bool) -> _Shape:
    """By how many rows an expert has, were they spread evenly."""
    rows = pairs // experts
    if wide:  # fp32 products have no matrix units: the tile is in registers
        return _Shape(16 if rows <= 16 else 32, 64, 32, 4, 2)
    if rows <= 32:  # the weights' bytes are what takes time: many of them under way
        return _Shape(16 if rows <= 16 else 32, 64, 128, 4, 4)
    return _Shape(64, 128, 64, 4, 4) if rows <= 64 else _Shape(128, 128, 64, 8, 4)


def grouped_mlp(
    x: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    b13: torch.Tensor | None,
    b2: torch.Tensor | None,
    activation: Activation,
    packed: object = None,
) -> torch.Tensor:
    """As the reference; packed is a CPU's."""
    if not ids.numel():
        return torch.zeros_like(x)
    ids = ids.contiguous()
    order, ends = order_pairs(ids, len(w13))
    inner = _product(adjacent(x), w13, b13, order, ends, ids.shape[1])
    made = _product(
        adjacent(activation(inner)), w2, b2, order, ends, 0, weights.contiguous()
    )
    return add_up(made, ids, len(w13))


def _product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    order: torch.Tensor,
    ends: torch.Tensor,
    top_k: int,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """[len(order), outer] of weight [experts, outer, inner], row by row of order; with a
    scale, at each pair's own place. top_k: of x [tokens, inner], 0 for rows in order."""
    experts, outer, inner = weight.shape
    wide = x.dtype == torch.float32 or interpreting()
    shape = _shape(len(order), experts, wide)
    blocks = len(order) // shape.block_m + min(experts, len(order))
    output = x.new_empty(len(order), outer)
    _grouped_product[(blocks * triton.cdiv(outer, shape.block_n),)](
        x, weight, bias, output, order, scale, ends, blocks, inner, outer,
        x.stride(0), weight.stride(0), weight.stride(1),
        EXPERTS=experts, BLOCK_EXPERTS=triton.next_power_of_2(experts),
        TOP_K=max(top_k, 1), BY_TOKEN=top_k > 0, BIAS=bias is not None,
        SCALE=scale is not None, BLOCK_M=shape.block_m, BLOCK_N=shape.block_n,
        BLOCK_K=shape.block_k,
        EVEN=inner % shape.block_k == 0 and outer % shape.block_n == 0, GROUP=_GROUP,
        WIDE=wide, num_warps=shape.num_warps, num_stages=shape.num_stages,
        **early_launch(),
    )  # fmt: skip
    return output
