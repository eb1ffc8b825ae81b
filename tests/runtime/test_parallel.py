"""Several ranks compute what one does, and say what went wrong on any of them."""

from pathlib import Path

import pytest
import torch

from porter.gap import UsageError
from porter.runtime.llm import LLM, SamplingParams
from tests.runtime.reference import (
    PORTS,
    ROPE_CONFIG,
    rel_rmse,
    rope_weights,
    write_checkpoint,
)
from tests.runtime.test_overlap import KINDS, PROMPTS

ROPE, LEARNED = PORTS / "rope_decoder.py", PORTS / "learned_decoder.py"
# 4 query and 2 kv heads: with tp 4 each kv head is on two ranks.
SIZES = [(2, 1), (4, 1), (1, 2), (2, 2)]
# The most ranks of a test; where there are fewer GPUs, they share the CPU.
DEVICE = "cuda" if torch.cuda.device_count() >= 4 else "cpu"


@pytest.mark.parametrize(("tp", "pp"), SIZES)
def test_ranks_agree_with_one(
    tp: int, pp: int, rope_model: Path, learned_model: Path
) -> None:
    for port, folder in ((ROPE, rope_model), (LEARNED, learned_model)):
        params = SamplingParams(max_tokens=12)
        one = LLM(port, folder, device=DEVICE)
        with LLM(
            port,
            folder,
            tensor_parallel_size=tp,
            pipeline_parallel_size=pp,
            device=DEVICE,
        ) as many:
            assert many.weight_report == one.weight_report
            expected, outputs = (m.generate(PROMPTS, params) for m in (one, many))
            assert [o.token_ids for o in outputs] == [o.token_ids for o in expected]
            logits = torch.cat(many.prefill_logits(PROMPTS))
            assert rel_rmse(logits, torch.cat(one.prefill_logits(PROMPTS))) < 1e-5


@pytest.mark.parametrize(("tp", "pp"), SIZES)
def test_ranks_overlap_steps(tp: int, pp: int, rope_model: Path) -> None:
    """Each begins a step with tokens that only the first rank has chosen."""
    with LLM(
        ROPE, rope_model, tensor_parallel_size=tp, pipeline_parallel_size=pp,
        device=DEVICE, overlap=True, max_num_seqs=3, max_num_batched_tokens=30,
    ) as many:  # fmt: skip
        outputs = many.generate(PROMPTS, KINDS)
    one = LLM(ROPE, rope_model, device=DEVICE, overlap=False)
    for got, expected in zip(outputs, one.generate(PROMPTS, KINDS), strict=True):
        assert got.token_ids == expected.token_ids


def test_a_rank_keeps_its_shard_only(rope_model: Path) -> None:
    whole = sum(p.numel() for p in rope_weights(ROPE_CONFIG).values())
    with LLM(ROPE, rope_model, tensor_parallel_size=2, device=DEVICE) as llm:
        layer = llm.model.get_submodule("model.layers.0.self_attn.qkv_proj")
        assert layer.output_size_per_partition == (4 + 2 + 2) * 32 // 2
        kept = sum(p.numel() for p in llm.model.parameters())
    assert kept < 0.7 * whole  # the vocabulary is padded, norms are whole


def test_a_second_parallel_engine_is_refused(rope_model: Path) -> None:
    with LLM(ROPE, rope_model, tensor_parallel_size=2, device=DEVICE):
        with pytest.raises(UsageError, match="runs a parallel engine already"):
            LLM(ROPE, rope_model, tensor_parallel_size=2, device=DEVICE)
    with LLM(ROPE, rope_model, tensor_parallel_size=2, device=DEVICE) as llm:
        assert llm.generate([[1]], SamplingParams(max_tokens=1))


def test_a_failure_of_a_rank_is_told(tmp_path: Path, rope_model: Path) -> None:
    text = ROPE.read_text()
    port = tmp_path / "breaks.py"
    port.write_text(
        text.replace(
            "    def compute_logits(",
            "    def breaks(self):\n"
            "        from vllm.distributed import get_tensor_model_parallel_rank\n"
            "        if get_tensor_model_parallel_rank():\n"
            '            raise ArithmeticError("rank one gave up")\n\n'
            "    def compute_logits(",
        ).replace(
            "        return self.logits_processor(",
            "        self.breaks()\n        return self.logits_processor(",
        )
    )
    llm = LLM(port, rope_model, tensor_parallel_size=2, device=DEVICE)
    with pytest.raises(
        Exception, match="rank 1: .*: ArithmeticError: rank one gave up"
    ):
        llm.generate([[1, 2]], SamplingParams(max_tokens=1))
    with LLM(ROPE, rope_model, tensor_parallel_size=2, device=DEVICE) as healthy:
        assert healthy.generate([[1]], SamplingParams(max_tokens=1))


def test_a_checkpoint_error_is_one_message(tmp_path: Path) -> None:
    weights = rope_weights(ROPE_CONFIG)
    del weights["model.layers.1.mlp.up_proj.weight"]
    write_checkpoint(tmp_path, ROPE_CONFIG, weights)
    with pytest.raises(UsageError, match=r"lacks tensors for model\.layers\.1\.mlp\."):
        LLM(ROPE, tmp_path, tensor_parallel_size=2, device=DEVICE)


def test_heads_of_the_mlp_must_divide(tmp_path: Path) -> None:
    config = {**ROPE_CONFIG, "intermediate_size": 97}
    write_checkpoint(tmp_path, config, rope_weights(config))
    with pytest.raises(UsageError, match="97 is not divisible by 2"):
        LLM(ROPE, tmp_path, tensor_parallel_size=2, device=DEVICE)


def test_every_rank_needs_a_gpu(
    rope_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="2 ranks on GPUs need 2 of them, .* sees 1;"):
        LLM(ROPE, rope_model, tensor_parallel_size=2, device="cuda")
