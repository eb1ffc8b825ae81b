"""A matrix times one vector, as fast as the matrix comes from memory.

A program takes a few rows of the matrix and sums in fp32. Programs are many and small,
so that enough loads are on their way at any time.
"""

import torch
import triton
import triton.language as tl

from porter.runtime.kernels.gpu.device import (
    early_launch,
    let_next_come,
    wait_for_turn,
)

_TILE = 2048  # elements of the matrix that a program reads at once


@triton.jit
def _load_tile(starts, at, inside, INPUTS: tl.constexpr, BLOCK: tl.constexpr):
    if INPUTS % BLOCK:
        inside = inside & (at < INPUTS)[None, :]
    return tl.load(starts + at[None, :], mask=inside, other=0.0)


@triton.jit
def _matvec(
    x_ptr, weight_ptr, bias_ptr, output_ptr, outputs, stride,
    INPUTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    let_next_come(EARLY)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (rows < outputs)[:, None]
    starts = weight_ptr + rows.to(tl.int64)[:, None] * stride
    # No kernel writes weights: the first of them can come while the vector is made.
    w = _load_tile(starts, columns, inside, INPUTS, BLOCK)
    wait_for_turn(EARLY)
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, INPUTS, BLOCK):
        at = start + columns
        if INPUTS % BLOCK == 0:
            x = tl.load(x_ptr + at)
        else:
            x = tl.load(x_ptr + at, mask=at < INPUTS, other=0.0)
        sums += w.to(tl.float32) * x.to(tl.float32)[None, :]
        more = inside & (start + BLOCK < INPUTS)
        w = _load_tile(starts, at + BLOCK, more, INPUTS, BLOCK)
    y = tl.sum(sums, 1)
    if BIAS:
        y += tl.load(bias_ptr + rows, mask=rows < outputs, other=0.0).to(tl.float32)
    tl.store(output_ptr + rows, y.to(output_ptr.dtype.element_ty), mask=rows < outputs)


def matvec(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """As the reference."""
    outputs, inputs = weight.shape
    output = x.new_empty(1, outputs)
    block = min(1024, triton.next_power_of_2(inputs))
    rows = max(1, _TILE // block)
    _matvec[(triton.cdiv(outputs, rows),)](
        x.contiguous(), weight, bias, output, outputs, weight.stride(0),
        INPUTS=inputs, ROWS=rows, BLOCK=block, BIAS=bias is not None, num_warps=4,
        **early_launch(),
    )  # fmt: skip
    return output
