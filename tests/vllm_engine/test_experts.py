"""Experts in vLLM: spread whole over two ranks, and what its load balancer asks for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from porter.convert import convert
from porter.verify import verify
from porter.verify.origin import find_source
from porter.verify.verification import engines_for, make_subject
from tests.vllm_engine.marks import WITH_VLLM

pytestmark = WITH_VLLM
EXPERTS = 4
CRASHES = (
    "vLLM 0.32's experts for CPUs crash with a part of them: "
    "Worker proc VllmWorker-1 died unexpectedly (exit code: -11)"
)
SMALL = {"num_hidden_layers": 2, "num_local_experts": EXPERTS}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("port") / "mixtral.py"
    path.write_text(convert("mixtral").text)
    return path


def test_two_ranks_have_half_of_the_experts_each(port: Path, tmp_path: Path) -> None:
    source = find_source(port, None, trust_remote_code=False)
    subject = make_subject(
        source, None, tmp_path, config_overrides=SMALL, max_tokens=8, engine="vllm"
    )
    spread = engines_for(port, subject, "vllm", enable_expert_parallel=True)
    with spread(tensor_parallel_size=2) as llm:
        assert [rank.local_experts for rank in llm.ranks] == [EXPERTS // 2] * 2
        weights = llm.weight_report
    assert not weights.unused and not weights.uninitialised


def test_the_load_balancer_finds_the_experts(port: Path, tmp_path: Path) -> None:
    source = find_source(port, None, trust_remote_code=False)
    subject = make_subject(
        source, None, tmp_path, config_overrides=SMALL, max_tokens=2, engine="vllm"
    )
    with engines_for(port, subject, "vllm")() as llm:
        balance(llm.model)


def balance(model: Any) -> None:
    """vLLM's own steps; its balancer itself runs on GPUs alone."""
    from vllm.model_executor.models.interfaces import is_mixture_of_experts

    assert is_mixture_of_experts(model)
    assert model.num_moe_layers == len(model.moe_layers) == 2
    assert model.num_logical_experts == model.num_physical_experts == EXPERTS
    assert model.num_local_physical_experts == EXPERTS
    assert model.num_redundant_experts == 0
    load = torch.zeros(2, EXPERTS, dtype=torch.int32)
    places = torch.arange(EXPERTS).view(1, EXPERTS, 1).expand(2, -1, -1)
    model.set_eplb_state(load, places, torch.ones(2, EXPERTS, dtype=torch.long))
    assert [len(weights) > 1 for weights in model.expert_weights] == [True, True]
    assert all(len(w) == EXPERTS for layer in model.expert_weights for w in layer)
    told: list[Any] = []
    # vLLM's layers have a map to update on several ranks alone.
    model.moe_layers = [SimpleNamespace(update_expert_map=lambda: told.append(1))] * 2
    model.update_physical_experts_metadata(EXPERTS + 2, EXPERTS)
    assert model.num_physical_experts == EXPERTS + 2
    assert model.num_redundant_experts == 2 and len(told) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason=CRASHES)
def test_verify_says_that_experts_were_spread(port: Path) -> None:
    result = verify(
        port, engine="vllm", tp=2, ep=True, config_overrides=SMALL, max_tokens=8
    )
    assert result.passed, result.failures
    assert result.ep and result.fused["experts"] == 2
