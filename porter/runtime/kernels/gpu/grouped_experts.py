"""The experts' products on a GPU: torch's grouped GEMM over rows sorted by expert."""

from collections.abc import Callable

import torch

from porter.runtime.kernels import grouped_experts as kernel

Activation = Callable[[torch.Tensor], torch.Tensor]


def grouped_mlp(
    x: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    b13: torch.Tensor | None,
    b2: torch.Tensor | None,
    activation: Activation,
    packed: kernel.Packed | None = None,
) -> torch.Tensor:
    """As the reference; bf16 without biases goes through torch's grouped GEMM."""
    grouped = getattr(torch, "_grouped_mm", None)
    aligned = x.shape[1] % 16 == 0 == w2.shape[2] % 16
    if grouped is None or x.dtype != torch.bfloat16 or b13 is not None or not aligned:
        return kernel.grouped_mlp.reference(
            x, weights, ids, w13, w2, b13, b2, activation
        )
    num_experts, top_k = w13.shape[0], ids.shape[1]
    order, counts = kernel.sort_by_expert(ids, num_experts)
    ends = counts.cumsum(0).to(torch.int32)
    token = order // top_k
    hidden = activation(grouped(x[token], w13.transpose(1, 2), offs=ends))
    made = grouped(hidden, w2.transpose(1, 2), offs=ends)
    inside = torch.arange(order.numel(), device=x.device) < ends[-1]
    scale = weights.flatten()[order, None].to(made.dtype)
    made = torch.where(inside[:, None], made * scale, 0)  # rows beyond hold anything
    return torch.zeros_like(x).index_add_(0, token, made)
