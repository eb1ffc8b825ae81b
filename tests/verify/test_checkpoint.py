"""Checkpoints must be reproducible, readable by transformers, and tell faults apart."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open

from porter.gap import UsageError
from porter.verify.checkpoint import make_checkpoint
from porter.verify.reference import load_reference
from porter.verify.tiny_config import tiny_config

SIX = (
    "OPTForCausalLM",
    "LlamaForCausalLM",
    "Qwen3ForCausalLM",
    "Gemma2ForCausalLM",
    "GPTNeoXForCausalLM",
    "Olmo2ForCausalLM",
)


@pytest.mark.parametrize("name", SIX)
def test_checkpoints_of_the_six(name: str, tmp_path: Path) -> None:
    made = make_checkpoint(getattr(transformers, name), tmp_path)
    assert made.margin >= 3e-4 and made.distinct >= 8
    assert made.parameters < 2_000_000
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [name] and config["dtype"] == "float32"
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        for key in file.keys():
            tensor = file.get_tensor(key)
            assert tensor.dtype == torch.float32 and tensor.isfinite().all()
            assert tensor.unique().numel() > min(tensor.numel(), 16) // 2, key


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    cls = transformers.LlamaForCausalLM
    for name, seed in (("a", 0), ("b", 0), ("c", 7)):
        make_checkpoint(cls, tmp_path / name, seed=seed)
    read = [(tmp_path / n / "model.safetensors").read_bytes() for n in "abc"]
    assert read[0] == read[1] != read[2]


def test_shards_have_an_index(tmp_path: Path) -> None:
    cls = transformers.LlamaForCausalLM
    make_checkpoint(cls, tmp_path, shards=3)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) >= 3
    load_reference(cls, tmp_path)


def test_overrides_win_and_must_exist(tmp_path: Path) -> None:
    cls: Any = transformers.LlamaConfig
    assert tiny_config(cls, {"num_key_value_heads": 1}).num_key_value_heads == 1
    with pytest.raises(UsageError, match="num_kv_hedas"):
        tiny_config(cls, {"num_kv_hedas": 1})


def test_windows_and_patterns_are_kept() -> None:
    config = tiny_config(transformers.Gemma2Config)
    assert config.layer_types == ["sliding_attention", "full_attention"] * 2
    assert config.sliding_window == 24


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("Gemma2ForCausalLM", "attn_logit_softcapping", None),
        ("Gemma2ForCausalLM", "final_logit_softcapping", None),
        ("Gemma2ForCausalLM", "query_pre_attn_scalar", 52),
        ("Gemma2ForCausalLM", "sliding_window", 25),
        ("LlamaForCausalLM", "rms_norm_eps", 1e-5),
        ("LlamaForCausalLM", "rope_parameters", {"rope_theta": 1.1e4}),
        ("GPTNeoXForCausalLM", "layer_norm_eps", 1e-5),
        ("GPTNeoXForCausalLM", "use_parallel_residual", False),
        ("OPTForCausalLM", "do_layer_norm_before", False),
    ],
)
def test_each_field_moves_the_logits(
    name: str, field: str, value: Any, tmp_path: Path
) -> None:
    """A port that reads this field wrong can't pass: the logits tell."""
    cls = getattr(transformers, name)
    make_checkpoint(cls, tmp_path)
    ids = torch.arange(3, 100).unsqueeze(0)
    right = load_reference(cls, tmp_path)(ids).logits
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    if isinstance(value, dict):
        value = {**config[field], **value}
    path.write_text(json.dumps({**config, field: value}))
    wrong = load_reference(cls, tmp_path)(ids).logits
    assert (wrong - right).square().mean().sqrt() > 2e-4 * right.square().mean().sqrt()
