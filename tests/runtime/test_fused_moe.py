"""The mixture of experts as one layer: its sum, its shards, its ways of being loaded."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from porter.gap import CannotRun
from porter.runtime.layers.fused_moe import FusedMoEFactory
from tests.runtime.conftest import as_rank, current_config

EXPERTS, TOP_K, HIDDEN, WIDTH, TOKENS = 6, 2, 16, 24, 11
SIZES: dict[str, Any] = {
    "num_experts": EXPERTS,
    "top_k": TOP_K,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
}
Weights = list[tuple[str, torch.Tensor]]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return 0.2 * values


GATE, UP = draw(EXPERTS, WIDTH, HIDDEN), draw(EXPERTS, WIDTH, HIDDEN, seed=1)
DOWN = draw(EXPERTS, HIDDEN, WIDTH, seed=2)
BIASES = {
    "gate": draw(EXPERTS, WIDTH, seed=3),
    "up": draw(EXPERTS, WIDTH, seed=4),
    "down": draw(EXPERTS, HIDDEN, seed=5),
}
X, LOGITS = draw(TOKENS, HIDDEN, seed=6), draw(TOKENS, EXPERTS, seed=7)


def route(
    hidden_states: torch.Tensor,
    gating_output: torch.Tensor,
    topk: int,
    renormalize: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    weights, ids = gating_output.topk(topk, dim=-1)
    return weights, ids


def expected(biases: bool = False) -> torch.Tensor:
    """Token by token, slot by slot."""
    weights, ids = LOGITS.topk(TOP_K, dim=-1)
    out = torch.zeros(TOKENS, HIDDEN)
    for t in range(TOKENS):
        for w, e in zip(weights[t], ids[t].tolist(), strict=True):
            b = {k: v[e] if biases else None for k, v in BIASES.items()}
            inner = F.silu(F.linear(X[t], GATE[e], b["gate"]))
            inner = inner * F.linear(X[t], UP[e], b["up"])
            out[t] += w * F.linear(inner, DOWN[e], b["down"])
    return out


def each_expert() -> Iterator[tuple[str, torch.Tensor]]:
    for i in range(EXPERTS):
        yield f"{i}.gate_proj.weight", GATE[i]
        yield f"{i}.up_proj.weight", UP[i]
        yield f"{i}.down_proj.weight", DOWN[i]


MERGED = [("gate_up_proj", torch.cat((GATE, UP), 1)), ("down_proj", DOWN)]
TRANSPOSED = [(name, weight.transpose(1, 2)) for name, weight in MERGED]


def build(weights: Weights, ep: bool = False, **options: Any) -> Any:
    with current_config() as config:
        config.parallel_config.enable_expert_parallel = ep
        layer = FusedMoEFactory(
            **SIZES, custom_routing_function=route, prefix="experts", **options
        )
    layer.loaded = set(layer.load_weights(weights))
    return layer


@pytest.mark.parametrize(
    ("weights", "options"),
    [
        (list(each_expert()), {}),
        (MERGED, {}),
        (TRANSPOSED, {"is_fused_checkpoint_transposed": True}),
    ],
    ids=["each", "merged", "transposed"],
)
def test_every_layout_computes_the_sum(
    weights: Weights, options: dict[str, Any]
) -> None:
    layer = build(weights, **options)
    assert layer.loaded == {"routed_experts.w13_weight", "routed_experts.w2_weight"}
    torch.testing.assert_close(layer(X, LOGITS), expected())


def with_biases() -> Weights:
    named = [
        (f"{i}.{kind}_proj.bias", bias[i])
        for kind, bias in BIASES.items()
        for i in range(EXPERTS)
    ]
    return [*each_expert(), *named]


def test_biases() -> None:
    layer = build(with_biases(), has_bias=True)
    torch.testing.assert_close(layer(X, LOGITS), expected(biases=True))


@pytest.mark.parametrize("ep", [False, True], ids=["tp", "ep"])
@pytest.mark.parametrize("size", [2, 4])
def test_the_ranks_parts_add_up(size: int, ep: bool) -> None:
    total = torch.zeros(TOKENS, HIDDEN)
    for rank in range(size):
        with as_rank(rank, size):
            layer = build(with_biases(), ep, has_bias=True, reduce_results=False)
            total += layer(X, LOGITS)
    torch.testing.assert_close(total, expected(biases=True))


def test_expert_parallel_spreads_every_expert_once() -> None:
    spread = []
    for rank in range(4):
        with as_rank(rank, 4):
            spread += list(build(MERGED, ep=True).routed_experts.mine)
    assert spread == list(range(EXPERTS))


def test_a_token_without_experts_here_gets_nothing() -> None:
    with as_rank(3, 4):
        layer = build(MERGED, ep=True, reduce_results=False)
        far = torch.zeros(TOKENS, EXPERTS)
        far[:, 0] = 1.0
        assert layer.routed_experts.mine == range(5, 6)
        far[:, 1] = 0.5
        assert not layer(X, far).any()


def test_clamped_gate() -> None:
    options: dict[str, Any] = {
        "swiglu_limit": 0.5,
        "swiglu_alpha": 1.7,
        "swiglu_beta": 1.0,
    }
    layer = build(MERGED, activation="swigluoai_uninterleave", **options)
    out = torch.zeros(TOKENS, HIDDEN)
    weights, ids = LOGITS.topk(TOP_K, dim=-1)
    for t in range(TOKENS):
        for w, e in zip(weights[t], ids[t].tolist(), strict=True):
            gate = F.linear(X[t], GATE[e]).clamp(max=0.5)
            up = F.linear(X[t], UP[e]).clamp(min=-0.5, max=0.5)
            inner = gate * torch.sigmoid(1.7 * gate) * (up + 1)
            out[t] += w * F.linear(inner, DOWN[e])
    torch.testing.assert_close(layer(X, LOGITS), out)


@pytest.mark.parametrize(
    "name", ["7.gate_proj.weight", "0.gate.weight", "bias", "0.up_proj.bias"]
)
def test_an_unknown_tensor_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="has no"):
        build([(name, GATE[0])])


def test_a_wrong_number_of_experts_is_an_error() -> None:
    with pytest.raises(ValueError, match="experts for"):
        build([("down_proj", DOWN[:-1])])


def test_what_only_vllm_has_is_said() -> None:
    with pytest.raises(CannotRun, match="enable_eplb"):
        build(MERGED, enable_eplb=True)
    with pytest.raises(ValueError, match="activation"):
        build(MERGED, activation="relu6")


def test_packed_experts_compute_the_same() -> None:
    layer = build(with_biases(), has_bias=True)
    experts = layer.routed_experts
    experts.quant_method.process_weights_after_loading(experts)
    torch.testing.assert_close(layer(X, LOGITS), expected(biases=True))
