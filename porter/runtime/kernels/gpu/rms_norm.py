"""Root mean square normalisation, one pass over memory, several short rows a program."""

import torch
import triton
import triton.language as tl

from porter.runtime.kernels.gpu.device import early_launch, take_turn


@triton.jit
def weighed(x, weight):
    """The product, rounded as the reference rounds it: in the weight's dtype."""
    product = x.to(weight.dtype).to(tl.float32) * weight.to(tl.float32)[None, :]
    return product.to(weight.dtype)


@triton.jit(do_not_specialize=["num_rows", "inner_rows", "variance_size"])
def _rms_norm(
    x_ptr, residual_ptr, weight_ptr, output_ptr, total_ptr, num_rows, inner_rows,
    stride_outer, stride_inner, eps, variance_size,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    ADD: tl.constexpr, WEIGHT: tl.constexpr, UNIT_OFFSET: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    take_turn(EARLY)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (rows < num_rows)[:, None] & (columns < SIZE)[None, :]
    starts = (rows // inner_rows).to(tl.int64) * stride_outer
    starts += (rows % inner_rows) * stride_inner
    flat = rows.to(tl.int64)[:, None] * SIZE + columns[None, :]
    x = tl.load(x_ptr + starts[:, None] + columns[None, :], mask=inside, other=0.0)
    x = x.to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + flat, mask=inside, other=0.0).to(tl.float32)
        tl.store(total_ptr + flat, x.to(total_ptr.dtype.element_ty), mask=inside)
    counted = tl.where((columns < variance_size)[None, :], x * x, 0.0)
    x = x * tl.rsqrt(tl.sum(counted, 1) / variance_size + eps)[:, None]
    if WEIGHT:
        weight = tl.load(weight_ptr + columns, mask=columns < SIZE, other=0.0)
        if UNIT_OFFSET:
            weight = weight.to(tl.float32) + 1.0
        x = weighed(x, weight)
    tl.store(output_ptr + flat, x.to(output_ptr.dtype.element_ty), mask=inside)


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    variance_size: int | None = None,
    unit_offset: bool = False,
) -> torch.Tensor:
    """As the reference."""
    output = torch.empty_like(x, memory_format=torch.contiguous_format)
    _launch(x, None, weight, output, None, eps, variance_size, unit_offset)
    return output


def fused_add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    variance_size: int | None = None,
    unit_offset: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference."""
    output = x if x.is_contiguous() else x.contiguous()
    total = residual if residual.is_contiguous() else residual.contiguous()
    _launch(output, total, weight, output, total, eps, variance_size, unit_offset)
    for operand, made in ((x, output), (residual, total)):
        if made is not operand:
            operand.copy_(made)
    return x, residual


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
    output: torch.Tensor,
    total: torch.Tensor | None,
    eps: float,
    variance_size: int | None,
    unit_offset: bool,
) -> None:
    size = x.shape[-1]
    rows = x.numel() // max(size, 1)
    if not rows:
        return
    if x.stride(-1) != 1 or x.dim() > 3:
        x = x.contiguous()
    if x.dim() > 3:
        x = x.view(-1, size)
    inner = x.shape[-2] if x.dim() == 3 else 1
    block = triton.next_power_of_2(size)
    at_once = max(1, min(1024 // block, triton.next_power_of_2(rows)))
    _rms_norm[(triton.cdiv(rows, at_once),)](
        x, residual, weight, output, total, rows, inner,
        x.stride(0) if x.dim() > 1 else size, x.stride(1) if x.dim() == 3 else 0, eps,
        size if variance_size is None else variance_size,
        SIZE=size, BLOCK=block, ROWS=at_once, ADD=residual is not None,
        WEIGHT=weight is not None, UNIT_OFFSET=unit_offset,
        num_warps=_warps(block * at_once), **early_launch(),
    )  # fmt: skip


def _warps(elements: int) -> int:
    return min(16, max(1, elements // 512))
