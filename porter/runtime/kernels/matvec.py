"""A linear layer over one row: reading the weight is all the time it takes."""

import torch
import torch.nn.functional as F

from porter.runtime.kernels.dispatch import gpu_version


@gpu_version("matvec:matvec")
def matvec(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """x W^T + b, [1, outputs] from x [1, inputs] and weight [outputs, inputs]."""
    return F.linear(x, weight, bias)


def is_matvec(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the version for GPUs is there for this product: one row, 16 bits."""
    return (
        x.is_cuda
        and x.shape[0] == 1
        and x.dim() == 2
        and x.dtype == weight.dtype
        and x.dtype.itemsize == 2
        and weight.stride(-1) == 1
    )
