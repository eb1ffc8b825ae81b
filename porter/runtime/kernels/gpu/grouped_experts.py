"""The experts' products on a GPU: one launch multiplies all experts' rows, each with its
expert's matrix. Nothing waits for the host, so decode steps can be captured."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from porter.runtime.kernels.gpu.device import (
    compute_capability,
    early_launch,
    interpreting,
    shared_memory,
    take_turn,
)
from porter.runtime.kernels.gpu.expert_order import add_up, order_pairs
from porter.runtime.kernels.gpu.strides import adjacent, rows_aligned

Activation = Callable[[torch.Tensor], torch.Tensor]
# So many blocks of rows go through the same columns of weights one after another.
_GROUP = 4


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
    LONE: tl.constexpr, EVEN: tl.constexpr, GROUP: tl.constexpr, WIDE: tl.constexpr,
    BULK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """BY_TOKEN: x has a row for each token, otherwise for each place in order. SCALE: each
    row is multiplied by its pair's scale and goes to its pair's place. LONE: the rows are
    one token's, whose experts order_ptr has as they are: a block each. BULK: weight_ptr,
    and unless BY_TOKEN x_ptr, are tensor descriptors, and the copy engine brings tiles."""
    take_turn(EARLY)
    columns = tl.cdiv(outer, BLOCK_N)
    group = tl.program_id(0) // (GROUP * columns)
    inside = tl.program_id(0) % (GROUP * columns)
    height = min(num_blocks - group * GROUP, GROUP)
    block = group * GROUP + inside % height
    if LONE:
        expert, first, end = tl.load(order_ptr + block).to(tl.int32), block, block + 1
    else:
        expert, first, end = _place(ends_ptr, block, EXPERTS, BLOCK_EXPERTS, BLOCK_M)
    if (expert >= 0) & (expert < EXPERTS):
        rows = first + tl.arange(0, BLOCK_M)
        held = rows < end
        pairs = rows.to(tl.int64)
        if not LONE:
            pairs = tl.load(order_ptr + rows, mask=held, other=0).to(tl.int64)
        column = inside // height * BLOCK_N
        out = column + tl.arange(0, BLOCK_N)
        ks = tl.arange(0, BLOCK_K)
        source = pairs // TOP_K if BY_TOKEN else rows.to(tl.int64)
        if not BULK or BY_TOKEN:
            x_ptrs = x_ptr + source[:, None] * stride_x + ks[None, :]
        if not BULK:
            w_ptrs = weight_ptr + expert.to(tl.int64) * stride_expert
            w_ptrs += out[None, :].to(tl.int64) * stride_row + ks[:, None]
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, inner, BLOCK_K):
            left = ks < inner - start
            if BULK and not BY_TOKEN:
                # The next expert's rows come along; nobody stores what they make.
                x = x_ptr.load([first, start])
            elif EVEN:
                x = tl.load(x_ptrs + start, mask=held[:, None], other=0.0)
            else:
                there = held[:, None] & left[None, :]
                x = tl.load(x_ptrs + start, mask=there, other=0.0)
            if BULK:
                box = weight_ptr.load([expert, column, start])
                w = box.reshape(BLOCK_N, BLOCK_K).T
            elif EVEN:
                w = tl.load(w_ptrs + start)
            else:
                there = left[:, None] & (out < outer)[None, :]
                w = tl.load(w_ptrs + start, mask=there, other=0.0)
            if WIDE:
                x, w = x.to(tl.float32), w.to(tl.float32)
            total = tl.dot(x, w, total, input_precision="ieee")
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
    if rows <= 8:  # the weights' bytes are what takes time: many of them under way
        return _Shape(16, 64, 128, 2, 4)
    if rows <= 32:
        return _Shape(32, 128, 128, 4, 3) if rows <= 16 else _Shape(64, 128, 64, 4, 3)
    return _Shape(128, 256, 64, 8, 4)


def _loads_under_way(shape: _Shape, x: torch.Tensor) -> int:
    """As many as the shape asks for, or as a smaller GPU's shared memory takes."""
    tile = (shape.block_m + shape.block_n) * shape.block_k * x.element_size()
    return max(1, min(shape.num_stages, (shared_memory(x.device) - 2048) // tile))


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
    if len(ids) == 1:  # nothing to share: each pair has an expert to itself
        order, ends = ids[0], None
    else:
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
    ends: torch.Tensor | None,
    top_k: int,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """[len(order), outer] of weight [experts, outer, inner], row by row of order; with a
    scale, at each pair's own place. ends: where each expert's rows end; None where order is
    each row's expert. top_k: of x [tokens, inner], 0 for rows in order."""
    experts, outer, inner = weight.shape
    wide = x.dtype == torch.float32 or interpreting()
    shape = _shape(len(order), experts, wide)
    blocks = len(order)
    if ends is not None:
        blocks = len(order) // shape.block_m + min(experts, len(order))
    output = x.new_empty(len(order), outer)
    bulk = not wide and compute_capability() >= 90 and rows_aligned(weight, x)
    rows, columns = x, weight
    if bulk:
        columns = TensorDescriptor.from_tensor(
            weight, [1, shape.block_n, shape.block_k]
        )
        if not top_k:
            rows = TensorDescriptor.from_tensor(x, [shape.block_m, shape.block_k])
    _grouped_product[(blocks * triton.cdiv(outer, shape.block_n),)](
        rows, columns, bias, output, order, scale, ends, blocks, inner, outer,
        x.stride(0), weight.stride(0), weight.stride(1),
        EXPERTS=experts, BLOCK_EXPERTS=triton.next_power_of_2(experts),
        TOP_K=max(top_k, 1), BY_TOKEN=top_k > 0, BIAS=bias is not None,
        SCALE=scale is not None, BLOCK_M=shape.block_m, BLOCK_N=shape.block_n,
        BLOCK_K=shape.block_k, LONE=ends is None,
        EVEN=inner % shape.block_k == 0 and outer % shape.block_n == 0, GROUP=_GROUP,
        WIDE=wide, BULK=bulk, num_warps=shape.num_warps,
        num_stages=_loads_under_way(shape, x),
        **early_launch(),
    )  # fmt: skip
    return output
