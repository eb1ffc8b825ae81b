"""Gated activations: the first half of the axis through a function, times the other."""

import torch
import torch.nn.functional as F

from porter.runtime.kernels.dispatch import gpu_version


@gpu_version("act_and_mul:silu_and_mul")
def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, [..., d] from [..., 2d], each step rounded to x's dtype."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)  # in the memory that silu has taken


@gpu_version("act_and_mul:gelu_and_mul")
def gelu_and_mul(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    """gelu(gate) * up; approximate is "none" or "tanh"."""
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate=approximate) * up
