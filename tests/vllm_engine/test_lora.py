"""LoRA in vLLM: an adapter beside the port gives what the merged model gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from porter.convert import convert
from porter.runtime.llm import SamplingParams
from porter.verify.trace import make_prompts
from porter.vllm_engine import VllmLLM
from tests.vllm_engine.marks import WITH_VLLM

PROMPTS = make_prompts(320, (5, 33))
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, logprobs=5, ignore_eos=True)
RANK, ALPHA = 8, 16
FUSED = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
LINEARS = (*FUSED, "o_proj", "down_proj")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("port") / "llama.py"
    path.write_text(convert("llama").text)
    return path


def checkpoint(folder: Path, tied: bool) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        max_position_embeddings=128, initializer_range=0.1, tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def adapter(base: Path, folder: Path, targets: tuple[str, ...]) -> dict[str, Any]:
    """Write an adapter in PEFT's format; returns module -> what it adds to the weight."""
    folder.mkdir()
    torch.manual_seed(1)
    stored, added = {}, {}
    for key, weight in load_file(base / "model.safetensors").items():
        module = key.removesuffix(".weight")
        if module.rpartition(".")[2] not in targets:
            continue
        a = torch.randn(RANK, weight.shape[1]) * 0.1
        b = torch.randn(weight.shape[0], RANK) * 0.1
        stored[f"base_model.model.{module}.lora_A.weight"] = a
        stored[f"base_model.model.{module}.lora_B.weight"] = b
        added[key] = ALPHA / RANK * b @ a
    save_file(stored, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA,
              "target_modules": list(targets), "bias": "none"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return added


def merged_tokens(base: Path, added: dict[str, Any]) -> list[list[int]]:
    """Greedy tokens of the model with the adapter added to its weights."""
    model: Any = LlamaForCausalLM.from_pretrained(base, attn_implementation="eager")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key, delta in added.items():
            parameters[key] += delta
        return [
            model.generate(
                torch.tensor([prompt]), do_sample=False, max_new_tokens=12,
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                min_new_tokens=12, pad_token_id=0,
            )[0, len(prompt) :].tolist()
            for prompt in PROMPTS
        ]  # fmt: skip


@WITH_VLLM[0]
@WITH_VLLM[1]
@pytest.mark.parametrize(
    ("tied", "targets"), [(True, FUSED), (False, LINEARS)], ids=["tied fused", "all"]
)
def test_an_adapter_is_as_the_merged_model(
    tied: bool, targets: tuple[str, ...], port: Path, tmp_path: Path
) -> None:
    from vllm.lora.request import LoRARequest

    base = checkpoint(tmp_path / "base", tied)
    added = adapter(base, tmp_path / "adapter", targets)
    assert len(added) == 2 * len(targets)
    plain, merged = merged_tokens(base, {}), merged_tokens(base, added)
    assert plain != merged
    request = LoRARequest("birds", 1, str(tmp_path / "adapter"))
    with VllmLLM(
        port, base, max_model_len=64, enable_lora=True, max_lora_rank=RANK, max_loras=1
    ) as llm:
        with_it = llm.generate(PROMPTS, GREEDY, lora_request=request)
        without = llm.generate(PROMPTS, GREEDY)
        kinds = {
            name.rpartition(".")[2]: type(module).__name__
            for name, module in llm.model.named_modules()
            if "WithLoRA" in type(module).__name__
        }
    assert [out.token_ids for out in with_it] == merged
    assert [out.token_ids for out in without] == plain
    assert kinds["qkv_proj"] == "MergedQKVParallelLinearWithLoRA"
    assert kinds["gate_up_proj"] == "MergedColumnParallelLinearWithLoRA"
    assert {"o_proj", "down_proj", "embed_tokens"} <= set(kinds)
