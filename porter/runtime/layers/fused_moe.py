"""The mixture of experts as one layer, under vLLM's name and signature.

Experts are sharded over the tensor parallel ranks as an MLP is, gate and up by columns
and down by rows; with `enable_expert_parallel` each rank has some of the experts whole.
Either way every rank makes a part of the sum, which is all-reduced once.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from porter.gap import CannotRun
from porter.runtime.config import get_current_vllm_config
from porter.runtime.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_reduce,
)
from porter.runtime.kernels.grouped_experts import grouped_mlp
from porter.runtime.layers.activation import GeluAndMul, SiluAndMul, SiluAndMulWithClamp
from porter.runtime.layers.quantization import (
    QuantizationConfig,
    refuse_quantization,
)
from porter.runtime.layers.routed_experts import RoutedExperts

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": SiluAndMul,
    "gelu": GeluAndMul,
    "gelu_tanh": lambda: GeluAndMul("tanh"),
    "gelu_pytorch_tanh": lambda: GeluAndMul("tanh"),
}
# What the bundled runtime has no use for; only the values that change nothing are taken.
_NEUTRAL: dict[str, Any] = {
    "intermediate_pad": None, "use_grouped_topk": False, "num_expert_group": None,
    "topk_group": None, "tp_size": None, "dp_size": None, "pcp_size": None,
    "router": None, "routed_scaling_factor": 1.0, "activation_situ_beta": None,
    "activation_situ_linear_beta": None, "e_score_correction_bias": None,
    "enable_eplb": False, "num_redundant_experts": 0, "is_sequence_parallel": False,
    "n_shared_experts": None, "fuse_shared_experts": False, "gate": None,
    "shared_experts": None, "shared_expert_gate": None, "routed_input_transform": None,
    "routed_output_transform": None, "apply_routed_scale_to_output": False,
    "zero_expert_type": None, "hash_indices_table": None, "bias_vl": None,
    "runner_cls": None, "runner_args": None, "routed_experts_cls": None,
    "routed_experts_args": None,
}  # fmt: skip


@dataclass(frozen=True)
class MoEConfig:
    """num_local_experts: those of which this rank has weights."""

    num_experts: int
    num_local_experts: int


class MoERunner(nn.Module):
    """Routes each token to its experts and sums up what they make.

    forward(hidden_states [tokens, hidden], router_logits [tokens, ...]) -> [tokens,
    hidden], reduced over the ranks unless `reduce_results` is False.
    """

    def __init__(
        self,
        routed_experts: RoutedExperts,
        top_k: int,
        renormalize: bool,
        routing: Callable[..., tuple[torch.Tensor, torch.Tensor]],
        activation: nn.Module,
        weight_on_input: bool,
        reduce_results: bool,
    ) -> None:
        super().__init__()
        self.routed_experts = routed_experts
        self.moe_config = MoEConfig(
            routed_experts.num_experts, len(routed_experts.mine)
        )
        self.top_k, self.renormalize, self.routing = top_k, renormalize, routing
        self.activation = activation
        self.weight_on_input = weight_on_input
        self.reduce_results = reduce_results

    def load_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterator[str]:
        for name in self.routed_experts.load_weights(weights):
            yield f"routed_experts.{name}"

    def forward(
        self, hidden_states: torch.Tensor, router_logits: torch.Tensor
    ) -> torch.Tensor:
        weights, ids = self.routing(
            hidden_states=hidden_states,
            gating_output=router_logits,
            topk=self.top_k,
            renormalize=self.renormalize,
        )
        experts = self.routed_experts
        if self.weight_on_input:
            hidden_states = hidden_states * weights.to(hidden_states.dtype)
            weights = torch.ones_like(weights)
        made = grouped_mlp(
            hidden_states,
            weights,
            ids.long() - experts.first,
            experts.w13_weight,
            experts.w2_weight,
            experts.w13_bias,
            experts.local_w2_bias(),
            self.activation,
            experts.packed if experts.packs(hidden_states) else None,
        )
        if self.reduce_results and get_tensor_model_parallel_world_size() > 1:
            made = tensor_model_parallel_all_reduce(made)
        return made


def softmax_topk(
    hidden_states: torch.Tensor,
    gating_output: torch.Tensor,
    topk: int,
    renormalize: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """vLLM's default routing: softmax over all experts, the best k of them."""
    weights, ids = gating_output.float().softmax(dim=-1).topk(topk, dim=-1)
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, ids


def FusedMoEFactory(
    num_experts: int,
    top_k: int,
    hidden_size: int,
    intermediate_size: int,
    intermediate_pad: int | None = None,
    params_dtype: torch.dtype | None = None,
    renormalize: bool = True,
    use_grouped_topk: bool = False,
    num_expert_group: int | None = None,
    topk_group: int | None = None,
    quant_config: QuantizationConfig | None = None,
    tp_size: int | None = None,
    dp_size: int | None = None,
    pcp_size: int | None = None,
    prefix: str = "",
    custom_routing_function: Callable | None = None,
    router: Any = None,
    scoring_func: str = "softmax",
    routed_scaling_factor: float = 1.0,
    swiglu_limit: float | None = None,
    swiglu_alpha: float | None = None,
    swiglu_beta: float | None = None,
    activation_situ_beta: float | None = None,
    activation_situ_linear_beta: float | None = None,
    e_score_correction_bias: torch.Tensor | None = None,
    apply_router_weight_on_input: bool = False,
    activation: str = "silu",
    enable_eplb: bool = False,
    num_redundant_experts: int = 0,
    has_bias: bool = False,
    is_sequence_parallel: bool = False,
    reduce_results: bool = True,
    ckpt_names: tuple[str, str, str | None] = ("gate_proj", "down_proj", "up_proj"),
    is_fused_checkpoint_transposed: bool = False,
    n_shared_experts: int | None = None,
    fuse_shared_experts: bool = False,
    shared_expert_prefix: str | None = None,
    router_logits_dtype: torch.dtype | None = None,
    gate: nn.Module | None = None,
    shared_experts: nn.Module | None = None,
    shared_expert_gate: nn.Module | None = None,
    routed_input_transform: nn.Module | None = None,
    routed_output_transform: nn.Module | None = None,
    apply_routed_scale_to_output: bool = False,
    zero_expert_type: str | None = None,
    hash_indices_table: torch.Tensor | None = None,
    bias_vl: torch.Tensor | None = None,
    image_sentinel_lo: int = 0,
    runner_cls: Any = None,
    runner_args: dict[str, Any] | None = None,
    routed_experts_cls: Any = None,
    routed_experts_args: dict[str, Any] | None = None,
    skip_padding: bool = False,
) -> MoERunner:
    """Experts of hidden_size -> intermediate_size -> hidden_size, top_k of them a token.

    custom_routing_function: (hidden_states, gating_output, topk, renormalize) -> (weights,
    ids), both [tokens, top_k]; without one softmax over all experts. activation: silu,
    gelu, gelu_pytorch_tanh, swigluoai_uninterleave (with swiglu_limit, _alpha, _beta).
    Raises ValueError on an unknown activation, CannotRun on what only vLLM has.
    """
    given = locals()
    for name, neutral in _NEUTRAL.items():
        if given[name] is not neutral and given[name] != neutral:
            raise CannotRun(f"{prefix}: the bundled runtime's experts have no {name}")
    refuse_quantization(quant_config, prefix)
    if custom_routing_function is None and scoring_func != "softmax":
        raise CannotRun(f"{prefix}: the bundled runtime routes by softmax only")
    if apply_router_weight_on_input and top_k != 1:
        raise ValueError("apply_router_weight_on_input needs top_k of one")
    experts = RoutedExperts(
        num_experts,
        hidden_size,
        intermediate_size,
        params_dtype or torch.get_default_dtype(),
        *_spread(num_experts),
        has_bias=has_bias,
        ckpt_names=ckpt_names,
        transposed=is_fused_checkpoint_transposed,
        layer_name=prefix,
    )
    return MoERunner(
        experts,
        top_k,
        renormalize,
        custom_routing_function or softmax_topk,
        _activation(activation, swiglu_limit, swiglu_alpha, swiglu_beta),
        apply_router_weight_on_input,
        reduce_results,
    )


def _spread(num_experts: int) -> tuple[range, int, int]:
    """(this rank's experts, its shard of each, how many shards): by expert or by width."""
    rank = get_tensor_model_parallel_rank()
    size = get_tensor_model_parallel_world_size()
    if (
        not get_current_vllm_config().parallel_config.enable_expert_parallel
        or size == 1
    ):
        return range(num_experts), rank, size
    share, extra = divmod(num_experts, size)  # the first ranks take one more
    first = rank * share + min(rank, extra)
    return range(first, first + share + (rank < extra)), 0, 1


def _activation(
    name: str, limit: float | None, alpha: float | None, beta: float | None
) -> nn.Module:
    if name == "swigluoai_uninterleave":
        if limit is None:
            raise ValueError("swigluoai_uninterleave needs swiglu_limit")
        return SiluAndMulWithClamp(
            limit, 1.0 if alpha is None else alpha, 0.0 if beta is None else beta
        )
    if limit is not None or alpha is not None or beta is not None:
        raise CannotRun(f"the bundled runtime clamps no experts with {name}")
    if name not in _ACTIVATIONS:
        raise ValueError(f"Unknown MoE activation: {name!r}")
    return _ACTIVATIONS[name]()
