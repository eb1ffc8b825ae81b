"""The installed vLLM on a port: the bundled runtime's answers, however it is split."""

from pathlib import Path
from typing import Any

import pytest
import torch

from porter.gap import CannotRun
from porter.runtime.llm import LLM, SamplingParams
from porter.verify.comparison import rel_rmse
from porter.verify.trace import make_prompts
from porter.vllm_engine import VllmLLM
from porter.vllm_engine.ports import digest
from tests.runtime.reference import ROPE_CONFIG, rope_weights, write_checkpoint
from tests.vllm_engine.marks import WITH_VLLM

pytestmark = WITH_VLLM

PROMPTS = make_prompts(199, (5, 33, 61))
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, logprobs=5, ignore_eos=True)

SETUPS: dict[str, dict[str, Any]] = {
    "eager": {},
    "compiled": {"compiled": True},
    "chunked": {"max_num_batched_tokens": 13},
    "pp2": {"pipeline_parallel_size": 2},
    "tp2 pp2 compiled": {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 2,
        "compiled": True,
    },
}


@pytest.fixture(scope="module")
def expected(rope_port: Path, rope_folder: Path) -> tuple[list[Any], list[Any]]:
    with LLM(rope_port, rope_folder) as llm:
        return llm.prefill_logits(PROMPTS), llm.generate(PROMPTS, GREEDY)


@pytest.mark.parametrize("setup", SETUPS)
def test_vllm_computes_what_the_runtime_computes(
    setup: str, expected: Any, rope_port: Path, rope_folder: Path
) -> None:
    logits, outputs = expected
    options = SETUPS[setup]
    with VllmLLM(rope_port, rope_folder, max_model_len=128, **options) as llm:
        for ours, theirs in zip(logits, llm.prefill_logits(PROMPTS), strict=True):
            assert rel_rmse(ours, theirs) < 1e-5
        for one, other in zip(outputs, llm.generate(PROMPTS, GREEDY), strict=True):
            assert list(one.token_ids) == other.token_ids
            for step, token in zip(other.logprobs, other.token_ids, strict=True):
                assert len(step) >= 5 and max(step, key=lambda t: step[t]) == token
        check_ranks(llm, rope_port, **options)


def test_a_graph_is_of_its_own_config(tmp_path: Path, rope_port: Path) -> None:
    """The same classes compiled twice in one process, with other constants."""
    for eps in (1e-5, 0.3):
        config = {**ROPE_CONFIG, "rms_norm_eps": eps}
        folder = write_checkpoint(tmp_path / str(eps), config, rope_weights(config))
        with LLM(rope_port, folder) as llm:
            expected = llm.prefill_logits(PROMPTS[1:2])[0]
        with VllmLLM(rope_port, folder, max_model_len=128, compiled=True) as llm:
            assert rel_rmse(expected, llm.prefill_logits(PROMPTS[1:2])[0]) < 1e-5


def check_ranks(
    llm: VllmLLM,
    port: Path,
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    **_: Any,
) -> None:
    places = [(rank.pp_rank, rank.tp_rank) for rank in llm.ranks]
    assert sorted(places) == [
        (pp, tp)
        for pp in range(pipeline_parallel_size)
        for tp in range(tensor_parallel_size)
    ]
    assert {rank.digest for rank in llm.ranks} == {digest(port)}
    assert not llm.weight_report.unused and not llm.weight_report.uninitialised
    assert llm.fused_modules()["qkv"] == 3
    layers = [{layer_of(name) for name in rank.weights.loaded} for rank in llm.ranks]
    for rank, own in zip(llm.ranks, layers, strict=True):
        for other, theirs in zip(llm.ranks, layers, strict=True):
            same_stage = rank.pp_rank == other.pp_rank
            assert own == theirs if same_stage else not own & theirs


def layer_of(name: str) -> str:
    return ".".join(name.split(".")[:3])


def test_a_partly_filled_parameter_is_told(
    tmp_path: Path, rope_port: Path, rope_folder: Path
) -> None:
    port = tmp_path / "port.py"
    text = rope_port.read_text()
    dropping = 'WeightsMapper(\n        orig_to_new_substr={".up_proj": None},'
    port.write_text(text.replace("WeightsMapper(\n", dropping + "\n"))
    with VllmLLM(port, rope_folder, max_model_len=128) as llm:
        report = llm.weight_report
        assert len(report.dropped) == 3
        assert sorted(report.uninitialised) == [
            f"model.layers.{n}.mlp.gate_up_proj.weight" for n in range(3)
        ]


def test_vllms_own_error_is_told(
    tmp_path: Path, rope_port: Path, rope_folder: Path
) -> None:
    port = tmp_path / "port.py"
    text = rope_port.read_text()
    port.write_text(text.replace('".up_proj"', '".upper_proj"'))
    with pytest.raises(CannotRun, match="vLLM can't run .*: ValueError: There is no"):
        VllmLLM(port, rope_folder, max_model_len=128)
    with pytest.raises(CannotRun, match="vLLM can't run .*: ValueError: There is no"):
        VllmLLM(port, rope_folder, max_model_len=128, tensor_parallel_size=2)
    # The process is fit for the next engine.
    with VllmLLM(rope_port, rope_folder, max_model_len=128) as llm:
        assert torch.isfinite(llm.prefill_logits(PROMPTS[:1])[0]).all()
