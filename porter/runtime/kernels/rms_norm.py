"""Root mean square normalisation, plain and with the residual added first."""

import torch

from porter.runtime.kernels.dispatch import gpu_version


def _normalise(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    variance_size: int | None,
    unit_offset: bool,
) -> torch.Tensor:
    """x: fp32. The product with the weight is in the weight's dtype."""
    if weight is not None and unit_offset:
        weight = weight.float() + 1.0
    counted = x if variance_size is None else x[..., :variance_size]
    x = x * torch.rsqrt(counted.pow(2).mean(dim=-1, keepdim=True) + eps)
    return x if weight is None else x.to(weight.dtype) * weight


@gpu_version("rms_norm:rms_norm")
def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    variance_size: int | None = None,
    unit_offset: bool = False,
) -> torch.Tensor:
    """x / sqrt(mean(x[..., :variance_size]^2) + eps) * weight, in x's dtype.

    x: [..., hidden]. weight: [hidden] or None. The mean is over the whole axis
    unless variance_size is given. unit_offset: 1 + weight is the factor, in fp32.
    Zhang and Sennrich, arXiv 1910.07467.
    """
    return _normalise(x.float(), weight, eps, variance_size, unit_offset).to(x.dtype)


@gpu_version("rms_norm:fused_add_rms_norm")
def fused_add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    variance_size: int | None = None,
    unit_offset: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rms_norm(x + residual), x + residual), written over x and residual.

    x, residual: [..., hidden] of one dtype, each in memory of its own; the sum is made in
    fp32.
    """
    total = x.float() + residual.float()
    x.copy_(_normalise(total, weight, eps, variance_size, unit_offset))
    residual.copy_(total)
    return x, residual
