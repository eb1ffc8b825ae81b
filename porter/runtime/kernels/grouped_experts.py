"""The experts' products, grouped: each expert once, over all of its tokens.

`grouped_mlp` is the reference and what a CPU runs. A GPU has one grouped GEMM for all
experts, on rows in the order of their experts.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from porter.runtime.kernels.dispatch import gpu_version
from porter.runtime.kernels.packed_linear import packed_linear

Activation = Callable[[torch.Tensor], torch.Tensor]
Packed = list[tuple[torch.Tensor, torch.Tensor]]


def sort_by_expert(
    ids: torch.Tensor, num_experts: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(order, counts): pairs of token and slot, expert by expert, and how many each has.

    ids: [tokens, k] integers; those outside [0, num_experts) come last, uncounted.
    """
    flat = ids.flatten().long()
    flat = torch.where((flat < 0) | (flat >= num_experts), num_experts, flat)
    order = torch.argsort(flat, stable=True)
    return order, torch.bincount(flat, minlength=num_experts + 1)[:num_experts]


@gpu_version("grouped_experts:grouped_mlp")
def grouped_mlp(
    x: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    b13: torch.Tensor | None,
    b2: torch.Tensor | None,
    activation: Activation,
    packed: Packed | None = None,
) -> torch.Tensor:
    """sum over k of weights * (activation(x w13^T + b13) w2^T + b2), [tokens, hidden].

    x: [tokens, hidden]; weights, ids: [tokens, k], ids into the experts here, others
    count for nothing; w13: [experts, 2 * width, hidden]; w2: [experts, hidden, width].
    packed: each expert's (w13, w2) as `packed_linear` reads them, in place of both.
    """
    num_experts, top_k = len(packed or w13), ids.shape[1]
    order, held = sort_by_expert(ids, num_experts)
    counts = held.tolist()
    order = order[: sum(counts)]
    token = order // top_k
    # Gathered once and added up once: an expert's own few operations are its products.
    made = []
    for expert, rows in enumerate(x[token].split(counts)):
        if not len(rows):
            continue
        first = None if b13 is None else b13[expert]
        second = None if b2 is None else b2[expert]
        if packed is not None:
            inner = activation(packed_linear(rows, packed[expert][0], first))
            made.append(packed_linear(inner, packed[expert][1], second))
        else:
            inner = activation(F.linear(rows, w13[expert], first))
            made.append(F.linear(inner, w2[expert], second))
    out = torch.zeros_like(x)
    if not made:
        return out
    total = torch.cat(made)
    total *= weights.flatten()[order, None].to(total.dtype)
    return out.index_add_(0, token, total)
