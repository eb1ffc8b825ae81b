"""Checkpoints: every layout that is read, every tensor accounted for, every mistake."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from porter.gap import CannotRun, UsageError
from porter.runtime.accounting import WeightReport
from porter.runtime.llm import LLM
from tests.runtime.reference import (
    LEARNED_CONFIG,
    PORTS,
    ROPE_CONFIG,
    Weights,
    default_cos_sin,
    rel_rmse,
    rope_logits,
    rope_weights,
    write_checkpoint,
)

ROPE, LEARNED = PORTS / "rope_decoder.py", PORTS / "learned_decoder.py"
PROMPT = [3, 1, 4, 1, 5]
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def weights() -> Weights:
    return rope_weights(ROPE_CONFIG)


def report(
    folder: Path, weights: Weights, config: dict[str, Any] = ROPE_CONFIG
) -> WeightReport:
    write_checkpoint(folder, config, weights)
    return LLM(ROPE, folder, strict=False).weight_report


@pytest.mark.parametrize("files", [1, 2, 7])
def test_all_layouts_of_safetensors(
    files: int, weights: Weights, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, ROPE_CONFIG, weights, files)
    llm = LLM(ROPE, tmp_path)
    assert llm.weight_report == WeightReport(loaded=sorted(weights))
    expected = rope_logits(ROPE_CONFIG, weights, PROMPT, default_cos_sin(ROPE_CONFIG))
    assert rel_rmse(llm.prefill_logits([PROMPT])[0], expected) < 1e-5


def test_files_outside_the_index_are_left_alone(
    weights: Weights, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, ROPE_CONFIG, weights, 2)
    save_file({"stray": torch.zeros(1)}, tmp_path / "consolidated.safetensors")
    assert LLM(ROPE, tmp_path).weight_report.loaded == sorted(weights)


def test_pickles_only_where_allowed(weights: Weights, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, ROPE_CONFIG, weights)
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="--allow-pickle"):
        LLM(ROPE, tmp_path)
    assert LLM(ROPE, tmp_path, allow_pickle=True).weight_report.loaded


class Hostile:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code ran')",))


def test_an_allowed_pickle_still_runs_no_code(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, ROPE_CONFIG, {})
    (tmp_path / "model.safetensors").unlink()
    torch.save({"a": Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="not a readable checkpoint"):
        LLM(ROPE, tmp_path, allow_pickle=True)


def test_missing_tensors(weights: Weights, tmp_path: Path) -> None:
    del weights[UP], weights["model.norm.weight"]
    expected = ["model.layers.1.mlp.gate_up_proj.weight", "model.norm.weight"]
    assert report(tmp_path, weights).uninitialised == expected
    with pytest.raises(UsageError, match="lacks tensors for " + ", ".join(expected)):
        LLM(ROPE, tmp_path)


def test_unknown_tensors(weights: Weights, tmp_path: Path) -> None:
    weights["model.layers.0.mystery.weight"] = torch.zeros(2)
    got = report(tmp_path, weights)
    assert got.unused == ["model.layers.0.mystery.weight"]
    assert got.uninitialised == [] and len(got.loaded) == len(weights) - 1
    with pytest.raises(UsageError, match=r"no module or parameter .*\.mystery\.weight"):
        LLM(ROPE, tmp_path)


def test_a_bias_that_vllm_passes_over_is_unused(
    weights: Weights, tmp_path: Path
) -> None:
    bias = "model.layers.0.self_attn.q_proj.bias"
    weights[bias] = torch.ones(128)
    weights["model.norm.bias"] = torch.ones(64)
    assert report(tmp_path, weights).unused == [bias, "model.norm.bias"]


def test_rules_that_drop_tensors(weights: Weights, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    weights[name] = torch.ones(16)
    got = report(tmp_path, weights)
    assert got.dropped == {name: "weights mapper"} and got.unused == []


@pytest.mark.parametrize("extra", [-1, 1, 96])
def test_wrong_shapes(extra: int, weights: Weights, tmp_path: Path) -> None:
    weights[UP] = torch.zeros(96 + extra, 64)
    write_checkpoint(tmp_path, ROPE_CONFIG, weights)
    with pytest.raises(UsageError, match=rf"{UP}: .*shape \({96 + extra}, 64\)"):
        LLM(ROPE, tmp_path)


def test_wrong_shape_of_a_plain_parameter(weights: Weights, tmp_path: Path) -> None:
    weights["model.norm.weight"] = torch.zeros(63)
    write_checkpoint(tmp_path, ROPE_CONFIG, weights)
    with pytest.raises(UsageError, match=r"model\.norm\.weight: .*\(63,\)"):
        LLM(ROPE, tmp_path)


def test_tied_head_stored_twice(weights: Weights, tmp_path: Path) -> None:
    """The checkpoint has a head of its own: it is loaded, then shared if equal."""
    config = {**ROPE_CONFIG, "tie_word_embeddings": True}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    write_checkpoint(tmp_path, config, weights)
    llm = LLM(ROPE, tmp_path)
    assert "lm_head.weight" in llm.weight_report.loaded
    head: Any = llm.model.get_submodule("lm_head")
    assert head.weight is llm.model.get_submodule("model.embed_tokens").weight


def test_tied_head_that_differs_is_used(weights: Weights, tmp_path: Path) -> None:
    config = {**ROPE_CONFIG, "tie_word_embeddings": True}
    write_checkpoint(tmp_path, config, weights)
    logits = LLM(ROPE, tmp_path).prefill_logits([PROMPT])[0]
    expected = rope_logits(config, weights, PROMPT, default_cos_sin(config))
    assert rel_rmse(logits, expected) < 1e-5


def test_fused_tensors_on_disk(weights: Weights, tmp_path: Path) -> None:
    """Names that are the port's own already: q, k, v and gate, up in one tensor."""
    for n in range(3):
        for fused, parts in (
            ("self_attn.qkv_proj", ("q_proj", "k_proj", "v_proj")),
            ("mlp.gate_up_proj", ("gate_proj", "up_proj")),
        ):
            parent = f"model.layers.{n}.{fused.partition('.')[0]}."
            joined = [weights.pop(f"{parent}{part}.weight") for part in parts]
            weights[f"model.layers.{n}.{fused}.weight"] = torch.cat(joined)
    got = report(tmp_path, weights)
    assert got == WeightReport(loaded=sorted(weights))
    logits = LLM(ROPE, tmp_path).prefill_logits([PROMPT])[0]
    original = rope_weights(ROPE_CONFIG)
    expected = rope_logits(ROPE_CONFIG, original, PROMPT, default_cos_sin(ROPE_CONFIG))
    assert rel_rmse(logits, expected) < 1e-5


def test_permuted_tensors_keep_their_names(weights: Weights, tmp_path: Path) -> None:
    """A port that splits and permutes tensors itself is accounted for all the same."""
    for n in range(3):
        layer = f"model.layers.{n}.self_attn."
        joined = [weights.pop(f"{layer}{p}_proj.weight") for p in "qkv"]
        weights[f"{layer}packed.weight"] = torch.cat(joined).flip(0)
    port = tmp_path / "permutes.py"
    port.write_text(
        ROPE.read_text().replace(
            "        loader = AutoWeightsLoader(self)\n",
            "        def unpacked(weights):\n"
            "            for name, w in weights:\n"
            "                if '.packed.' in name:\n"
            "                    parts = w.flip(0).split([128, 64, 64])\n"
            "                    for p, part in zip('qkv', parts):\n"
            "                        yield name.replace('packed', p + '_proj'), part\n"
            "                else:\n"
            "                    yield name, w\n\n"
            "        weights = unpacked(weights)\n"
            "        loader = AutoWeightsLoader(self)\n",
        )
    )
    write_checkpoint(tmp_path, ROPE_CONFIG, weights)
    assert LLM(port, tmp_path).weight_report == WeightReport(loaded=sorted(weights))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not a readable config"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "none-such"}'),
            "model_type .none-such. is none of those that the installed",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"12345678"),
            "not a readable safetensors file",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text("{}"),
            "not a readable index",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "other.safetensors"}})
            ),
            "names other.safetensors, which is missing",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "../other.safetensors"}})
            ),
            "a file elsewhere",
        ),
    ],
)
def test_broken_folders(
    spoil: Any, message: str, weights: Weights, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, ROPE_CONFIG, weights)
    spoil(tmp_path)
    with pytest.raises(UsageError, match=message):
        LLM(ROPE, tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such model folder"):
        LLM(ROPE, tmp_path / "nothing")


def test_config_code_needs_trust(weights: Weights, tmp_path: Path) -> None:
    config = {
        **ROPE_CONFIG,
        "model_type": "own-type",
        "auto_map": {"AutoConfig": "configuration_own.OwnConfig"},
    }
    write_checkpoint(tmp_path, config, weights)
    (tmp_path / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\n"
        "class OwnConfig(LlamaConfig):\n"
        "    model_type = 'own-type'\n"
    )
    with pytest.raises(UsageError, match="--trust-remote-code"):
        LLM(ROPE, tmp_path)
    assert LLM(ROPE, tmp_path, trust_remote_code=True).weight_report.unused == []


def test_quantized_checkpoints_cannot_run(weights: Weights, tmp_path: Path) -> None:
    quantization = {"quant_method": "fp8"}
    config = {**ROPE_CONFIG, "quantization_config": quantization}
    write_checkpoint(tmp_path, config, weights)
    with pytest.raises(CannotRun, match="quantized"):
        LLM(ROPE, tmp_path)


def test_names_with_a_prefix_and_buffers_in_the_file(
    learned_model: Path, tmp_path: Path
) -> None:
    stored: Weights = {}
    for path in learned_model.glob("*.safetensors"):
        stored |= load_file(path)
    stored["decoder.blocks.0.attention_mask"] = torch.ones(4)
    write_checkpoint(tmp_path, LEARNED_CONFIG, stored)
    got = LLM(LEARNED, tmp_path).weight_report
    assert got.dropped == {"decoder.blocks.0.attention_mask": "weights mapper"}
    assert got.unused == got.uninitialised == []
