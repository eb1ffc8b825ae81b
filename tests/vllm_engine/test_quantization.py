"""Quantized checkpoints in vLLM: each layer by its prefix, some in full precision."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from porter.convert import convert
from porter.gap import CannotRun
from porter.verify.comparison import rel_rmse
from porter.verify.trace import make_prompts
from porter.vllm_engine import VllmLLM
from tests.vllm_engine.marks import WITH_VLLM
from tests.vllm_engine.quantizer import (
    W8_MAX,
    by_token,
    quantize,
    restored,
    round_inputs,
    w4a16,
    w8a8,
)

PROMPTS = make_prompts(320, (5, 33))
# Whole fusions are left out, or none of their parts: a fused layer has one format.
IGNORED = [
    "lm_head",
    "model.layers.0.self_attn.o_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.1.self_attn.k_proj",
    "model.layers.1.self_attn.v_proj",
    "model.layers.1.mlp.down_proj",
]
SCALES = {
    "model.layers.0.self_attn.k_scale": torch.tensor([0.25]),
    "model.layers.0.self_attn.v_scale": torch.tensor([0.5]),
    "model.layers.1.self_attn.k_scale": torch.tensor([2.0]),
    "model.layers.1.self_attn.v_scale": torch.tensor([4.0]),
}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("port") / "llama.py"
    path.write_text(convert("llama").text)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=128,
            initializer_range=0.1,
            tie_word_embeddings=False,
        )  # fmt: skip
    )
    model.save_pretrained(folder)
    return folder


def reference(checkpoint: Path, weights: Any, rounds: bool) -> list[torch.Tensor]:
    model = LlamaForCausalLM.from_pretrained(checkpoint, attn_implementation="eager")
    model.load_state_dict(weights)
    if rounds:
        round_inputs(model, IGNORED)
    with torch.no_grad():
        return [model(torch.tensor([prompt])).logits[0] for prompt in PROMPTS]


@pytest.mark.parametrize("make", [w8a8, w4a16])
def test_the_quantizer(make: Any) -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    bound = {w8a8: 1 / (2 * W8_MAX), w4a16: 1 / 14}[make] * weight.abs().max()
    error = (restored(make(weight)) - weight).abs().max()
    assert 0 < error <= bound * 1.001


# Which of vLLM's schemes each layer must have got, by its place in the model.
FULL = {
    "model.embed_tokens", "lm_head", "model.layers.0.self_attn.o_proj",
    "model.layers.1.self_attn.qkv_proj", "model.layers.1.mlp.down_proj",
}  # fmt: skip
SCHEMES = {"w8a8": "CompressedTensorsW8A8Int8", "w4a16": "CompressedTensorsWNA16"}


@WITH_VLLM[0]
@WITH_VLLM[1]
@pytest.mark.parametrize("form", SCHEMES)
def test_a_quantized_checkpoint(
    form: str,
    port: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Layers on the ignore list stay as they are; the others compute what is stored."""
    give_kernels(monkeypatch)
    folder = tmp_path / form
    weights = quantize(checkpoint, folder, form, IGNORED, {})
    expected = reference(checkpoint, weights, rounds=form == "w8a8")
    with VllmLLM(port, folder, max_model_len=64) as llm:
        quantized = check_prefixes(llm.model)
        assert {n for n, scheme in quantized.items() if scheme is None} == FULL
        assert set(quantized.values()) - {None} == {SCHEMES[form]}
        for ours, theirs in zip(llm.prefill_logits(PROMPTS), expected, strict=True):
            assert rel_rmse(theirs, ours) < 1e-5
        assert not llm.weight_report.unused
        everything = load_file(folder / "model.safetensors")
        assert set(llm.weight_report.loaded) == set(everything)


def check_prefixes(model: torch.nn.Module) -> dict[str, str | None]:
    """Each layer was told its own path; returns the scheme that it got by it."""
    told = prefixes(model)
    assert len(told) == 2 * 5 + 2  # a layer's linears and attention; embedding, head
    assert not wrong_prefixes(model)
    schemes = {}
    for name in told:
        module: Any = model.get_submodule(name)
        if hasattr(module, "quant_method") and not name.endswith(".attn"):
            scheme = getattr(module, "scheme", None)
            schemes[name] = None if scheme is None else type(scheme).__name__
    return schemes


def prefixes(model: torch.nn.Module) -> dict[str, str]:
    """Path -> prefix of every layer that was told one."""
    told = {
        name: getattr(module, "prefix", getattr(module, "layer_name", None))
        for name, module in model.named_modules()
    }
    return {name: prefix for name, prefix in told.items() if prefix is not None}


def wrong_prefixes(model: torch.nn.Module) -> list[str]:
    return [name for name, prefix in prefixes(model).items() if name != prefix]


def give_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's quantized products on the CPU, in torch: which there are, which dtypes they
    take and how they round activations depends on the CPU."""
    from vllm.model_executor.kernels.linear.mixed_precision.cpu import (
        CPUWNA16LinearKernel,
    )
    from vllm.model_executor.kernels.linear.scaled_mm.cpu import (
        CPUInt8ScaledMMLinearKernel,
    )

    def product_of_int4(self: Any, layer: Any, x: Any, bias: Any = None) -> Any:
        weight = restored(
            {"weight_packed": layer.weight_packed, "weight_scale": layer.weight_scale}
        )
        return torch.nn.functional.linear(x, weight.to(x.dtype), bias)

    def product_of_int8(self: Any, layer: Any, x: Any, bias: Any = None) -> Any:
        weight = restored({"weight": layer.weight, "weight_scale": layer.weight_scale})
        return torch.nn.functional.linear(by_token(x), weight, bias)

    for kernel, product in (
        (CPUWNA16LinearKernel, product_of_int4),
        (CPUInt8ScaledMMLinearKernel, product_of_int8),
    ):
        monkeypatch.setattr(kernel, "process_weights_after_loading", lambda *_: None)
        monkeypatch.setattr(kernel, "apply_weights", product)


@WITH_VLLM[0]
@WITH_VLLM[1]
def test_a_wrong_prefix_would_be_seen(
    port: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """The ignore list works by prefix: with another, vLLM quantizes without a word."""
    folder = tmp_path / "w8a8"
    quantize(checkpoint, folder, "w8a8", IGNORED, {})
    wrong = tmp_path / "llama.py"
    text = port.read_text()
    assert text.count('prefix=f"{prefix}.o_proj"') == 1
    wrong.write_text(text.replace('prefix=f"{prefix}.o_proj"', 'prefix="o_proj"'))
    with VllmLLM(wrong, folder, max_model_len=64) as llm:
        (name,) = wrong_prefixes(llm.model)[:1]
        assert name == "model.layers.0.self_attn.o_proj"
        assert llm.model.get_submodule(name).scheme is not None


@WITH_VLLM[0]
@WITH_VLLM[1]
def test_scales_of_the_cache_load(
    port: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What attention will scale its cache by is what the checkpoint says."""
    from vllm.model_executor.layers.quantization.compressed_tensors import (
        compressed_tensors,
    )

    method = compressed_tensors.CompressedTensorsKVCacheMethod
    found = {}
    process = method.process_weights_after_loading

    def note(self: Any, layer: Any) -> None:
        process(self, layer)
        found[layer.layer_name] = (layer._k_scale.item(), layer._v_scale.item())

    monkeypatch.setattr(method, "process_weights_after_loading", note)
    folder = tmp_path / "scales"
    quantize(checkpoint, folder, "w8a8", IGNORED, SCALES)
    if not torch.cpu._is_avx512_supported():
        with pytest.raises(
            CannotRun, match="FP8 KV cache on CPU requires x86 with AVX"
        ):
            VllmLLM(port, folder, max_model_len=64)
        # It would build and load it elsewhere; nothing is generated here.
        monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: True)
    with VllmLLM(port, folder, max_model_len=64) as llm:
        assert set(SCALES) <= set(llm.weight_report.loaded)
        assert not llm.weight_report.unused
    assert found == {
        "model.layers.0.self_attn.attn": (0.25, 0.5),
        "model.layers.1.self_attn.attn": (2.0, 4.0),
    }
