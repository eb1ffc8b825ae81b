"""Normalisation layers."""

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from porter.runtime.kernels.rms_norm import fused_add_rms_norm, rms_norm

Normed: TypeAlias = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class RMSNorm(nn.Module):
    """weight * x / sqrt(mean(x^2) + eps), normalised in fp32.

    With a residual the sum x + residual is normalised and returned beside the result, in
    the memory of x and residual: as vLLM's kernel does, this writes over both.
    var_hidden_size: how many leading elements the mean takes.
    has_weight: False leaves the product out. Raises ValueError on another size.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-6,
        var_hidden_size: int | None = None,
        has_weight: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.variance_epsilon = eps
        self.variance_size_override = (
            None if var_hidden_size == hidden_size else var_hidden_size
        )
        self.has_weight = has_weight
        weight = torch.ones(hidden_size, dtype=dtype or torch.get_default_dtype())
        self.weight = nn.Parameter(weight) if has_weight else weight

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Normed:
        if x.shape[-1] != self.hidden_size:
            found = f"but found: {x.shape[-1]}"
            raise ValueError(f"Expected hidden_size to be {self.hidden_size}, {found}")
        weight = self.weight.data if self.has_weight else None
        options = (weight, self.variance_epsilon, self.variance_size_override)
        if residual is None:
            return rms_norm(x, *options)
        return fused_add_rms_norm(x, residual, *options)

    def extra_repr(self) -> str:
        return f"hidden_size={self.hidden_size}, eps={self.variance_epsilon}"


class GemmaRMSNorm(nn.Module):
    """RMSNorm with weight 1 + w; the product is made in fp32 before the cast.

    With a residual it writes over both operands, as RMSNorm does.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden_size))
        self.variance_epsilon = eps

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Normed:
        options = (self.weight.data, self.variance_epsilon, None, True)
        if residual is None:
            return rms_norm(x, *options)
        return fused_add_rms_norm(x, residual, *options)

    def extra_repr(self) -> str:
        return f"hidden_size={len(self.weight)}, eps={self.variance_epsilon}"


class LayerNorm(nn.Module):
    """Mean-centred normalisation, in the wider of the input's and weight's dtypes."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = (hidden_size,)
        self.eps = eps
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        dtype = dtype or torch.get_default_dtype()
        if elementwise_affine:
            self.weight = nn.Parameter(torch.ones(hidden_size, dtype=dtype))
            if bias:
                self.bias = nn.Parameter(torch.zeros(hidden_size, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x
        if self.weight is not None:
            wide = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        normed = F.layer_norm(
            wide, self.normalized_shape, self.weight, self.bias, self.eps
        )
        return normed.to(x.dtype)

    def extra_repr(self) -> str:
        return f"hidden_size={self.normalized_shape[0]}, eps={self.eps}"
