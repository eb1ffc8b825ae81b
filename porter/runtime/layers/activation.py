"""Activations by the names that config files use, plain and gated.

A gated activation takes [..., 2d], the gate in the first half unless said otherwise,
and returns [..., d].
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from porter.runtime.kernels.act_and_mul import gelu_and_mul, silu_and_mul


class GELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x)


class GELUTanh(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate="tanh")


class NewGELU(nn.Module):
    """The tanh approximation as GPT-2 wrote it out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c = math.sqrt(2.0 / math.pi)
        return 0.5 * x * (1.0 + torch.tanh(c * (x + 0.044715 * torch.pow(x, 3.0))))


class FastGELU(nn.Module):
    """The tanh approximation with sqrt(2 / pi) rounded to ten digits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


class QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class ReLUSquaredActivation(nn.Module):
    """relu(x)^2, arXiv 2109.08668."""

    def __init__(self, *, compile_native: bool = True) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.square(F.relu(x))


class SiluAndMul(nn.Module):
    """silu(gate) * up."""

    def __init__(self, *, compile_native: bool = True) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return silu_and_mul(x)


class MulAndSilu(nn.Module):
    """The first half times silu of the second."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up, gate = x.chunk(2, dim=-1)
        return up * F.silu(gate)


class GeluAndMul(nn.Module):
    """gelu(gate) * up; approximate is "none" or "tanh"."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"Unknown approximate mode: {approximate}")
        self.approximate = approximate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return gelu_and_mul(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class FatreluAndMul(nn.Module):
    """The gate where it exceeds the threshold, else 0, times up."""

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.threshold(gate, self.threshold, 0.0) * up


class SiluAndMulWithClamp(nn.Module):
    """g * sigmoid(alpha * g) * (u + beta) with g at most limit and u within +-limit."""

    def __init__(
        self,
        swiglu_limit: float,
        alpha: float = 1.0,
        beta: float = 0.0,
        *,
        compile_native: bool = True,
    ) -> None:
        super().__init__()
        self.swiglu_limit = float(swiglu_limit)
        self.alpha = float(alpha)
        self.beta = float(beta)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        gate = gate.clamp(max=self.swiglu_limit)
        up = up.clamp(min=-self.swiglu_limit, max=self.swiglu_limit)
        return gate * torch.sigmoid(self.alpha * gate) * (up + self.beta)


class SwigluOAIAndMul(nn.Module):
    """Gate and up alternate along the axis; clamped, and up is shifted by one."""

    def __init__(self, alpha: float = 1.702, limit: float = 7.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.limit = limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = x[..., ::2].clamp(max=self.limit)
        up = x[..., 1::2].clamp(min=-self.limit, max=self.limit)
        return (up + 1) * (gate * torch.sigmoid(gate * self.alpha))


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": GELU,
    "gelu_fast": FastGELU,
    "gelu_new": NewGELU,
    "gelu_pytorch_tanh": lambda: nn.GELU(approximate="tanh"),
    "relu": nn.ReLU,
    "relu2": ReLUSquaredActivation,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "quick_gelu": QuickGELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}

_GATED_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": GeluAndMul,
    "gelu_pytorch_tanh": lambda: GeluAndMul(approximate="tanh"),
    "silu": SiluAndMul,
    "swish": SiluAndMul,
    "geglu": GeluAndMul,
    "swigluoai": SwigluOAIAndMul,
}


def get_act_fn(act_fn_name: str) -> nn.Module:
    """The activation of a name in a config file; ValueError when vLLM has none."""
    name = act_fn_name.lower()
    if name.startswith("torch.nn.modules."):
        name = name.rpartition(".")[2]
        if name == "identity":
            return nn.Identity()
    if name not in _ACTIVATIONS:
        raise ValueError(f"Activation function {name!r} is not supported.")
    return _ACTIVATIONS[name]()


def get_act_and_mul_fn(act_fn_name: str, *, compile_native: bool = True) -> nn.Module:
    """The gated activation of a name; ValueError when vLLM has none."""
    name = act_fn_name.lower()
    if name not in _GATED_ACTIVATIONS:
        raise ValueError(f"Activation function {name!r} is not supported.")
    return _GATED_ACTIVATIONS[name]()
