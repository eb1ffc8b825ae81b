"""The experts' products by name: ours, and the peers that are installed.

Each takes a problem and returns a call that computes it again and again.
"""

from collections.abc import Callable

import torch

from porter.bench.expert_cases import EXPERTS, TOP_K, WIDTH, ExpertsProblem

Call = Callable[[], torch.Tensor]


def ours(problem: ExpertsProblem) -> Call:
    from porter.runtime.kernels.act_and_mul import silu_and_mul
    from porter.runtime.kernels.gpu.grouped_experts import grouped_mlp

    return lambda: grouped_mlp(
        problem.x, problem.weights, problem.ids, problem.w13, problem.w2,
        None, None, silu_and_mul.on_gpu,
    )  # fmt: skip


def by_torch(problem: ExpertsProblem) -> Call:
    """torch's grouped product, on rows that torch has sorted."""
    grouped = torch._grouped_mm
    beyond = torch.arange(1, EXPERTS + 1, device=problem.ids.device)

    def call() -> torch.Tensor:
        held, order = problem.ids.flatten().sort()
        ends = torch.searchsorted(held, beyond, out_int32=True)
        token = order // TOP_K
        rows = grouped(problem.x[token], problem.w13.transpose(1, 2), offs=ends)
        inner = torch.nn.functional.silu(rows[:, :WIDTH]) * rows[:, WIDTH:]
        made = grouped(inner, problem.w2.transpose(1, 2), offs=ends)
        made *= problem.weights.flatten()[order, None].to(made.dtype)
        return torch.zeros_like(problem.x).index_add_(0, token, made)

    return call


def by_vllm(problem: ExpertsProblem) -> Call:
    """vLLM's Triton kernels, with the tiles that it has for the GPU."""
    from vllm.model_executor.layers.fused_moe import fused_experts

    ids = problem.ids.to(torch.int32)
    return lambda: fused_experts(
        problem.x, problem.w13, problem.w2, problem.weights, ids
    )


ENGINES: dict[str, Callable[[ExpertsProblem], Call]] = {
    "porter": ours,
    "torch": by_torch,
    "vllm": by_vllm,
}
