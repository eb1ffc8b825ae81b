"""A sliding window that the model ignores: vLLM takes it from the config all the same."""

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from porter.convert import convert
from porter.gap import CannotRun
from porter.vllm_engine import VllmLLM
from tests.vllm_engine.marks import WITH_VLLM


@WITH_VLLM[0]
@WITH_VLLM[1]
def test_a_port_without_windows_stops(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=99, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, head_dim=32,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sliding_window": 8}))
    port = tmp_path / "llama.py"
    port.write_text(convert("llama").text)
    with pytest.raises(CannotRun, match="exact up to 8 tokens: lower max_model_len"):
        VllmLLM(port, tmp_path, max_model_len=64)
