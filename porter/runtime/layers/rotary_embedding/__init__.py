"""Rotary position embeddings, chosen by the rope parameters of a config.

Each kind precomputes cosines and sines for all positions it serves. What a kind
computes is vLLM's reading of the parameters, which for some of them is not
transformers' reading: `dynamic` never rescales, `longrope` picks its factors once.
"""

from typing import Any

import torch

from porter.gap import CannotRun
from porter.runtime.config import get_current_vllm_config
from porter.runtime.layers.rotary_embedding.base import (
    ProportionalRotaryEmbedding,
    RotaryEmbedding,
)
from porter.runtime.layers.rotary_embedding.longrope import LongRotaryEmbedding
from porter.runtime.layers.rotary_embedding.scaled import (
    DynamicNTKAlphaRotaryEmbedding,
    DynamicNTKScalingRotaryEmbedding,
    LinearScalingRotaryEmbedding,
    Llama3RotaryEmbedding,
    NTKScalingRotaryEmbedding,
)
from porter.runtime.layers.rotary_embedding.yarn import (
    DeepseekScalingRotaryEmbedding,
    YaRNScalingRotaryEmbedding,
)

Rotary = RotaryEmbedding | LongRotaryEmbedding

_cache: dict[tuple[Any, ...], Rotary] = {}

_YARN_OPTIONS = (
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "attention_factor",
    "truncate",
)


def get_rope(
    head_size: int,
    max_position: int,
    is_neox_style: bool = True,
    rope_parameters: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    dual_chunk_attention_config: dict[str, Any] | None = None,
    mrope_positions_factor: int = 4,
) -> Rotary:
    """The rotary embedding of these parameters; equal calls share one module.

    rope_parameters: `rope_type`, `rope_theta`, `partial_rotary_factor` (or
    `rope_dim`) and what the type needs. Raises ValueError on an unknown type, and
    CannotRun on one that only vLLM has.
    """
    if dual_chunk_attention_config is not None:
        raise CannotRun("the bundled runtime has no dual chunk rotary embedding")
    parameters = rope_parameters or {}
    rotary_dim = parameters.get("rope_dim")
    if not rotary_dim:
        factor = parameters.get("partial_rotary_factor", 1.0)
        if factor <= 0.0 or factor > 1.0:
            raise ValueError(
                f"partial_rotary_factor={factor} must be between 0.0 and 1.0"
            )
        rotary_dim = int(head_size * factor)
    dtype = dtype or torch.get_default_dtype()
    hashable = tuple(
        (name, tuple(value) if isinstance(value, list) else value)
        for name, value in parameters.items()
    )
    # The window of longrope depends on the engine's longest sequence as well.
    max_model_len = get_current_vllm_config().model_config.max_model_len
    key = (head_size, rotary_dim, max_position, is_neox_style, hashable, dtype,
           max_model_len)  # fmt: skip
    if key not in _cache:
        _cache[key] = _make(
            (head_size, rotary_dim), max_position, is_neox_style, parameters, dtype
        )
    return _cache[key]


def forget_ropes() -> None:
    """Drop the shared modules, so that the next model makes its own."""
    _cache.clear()


def _make(
    sizes: tuple[int, int],
    max_position: int,
    is_neox_style: bool,
    parameters: dict[str, Any],
    dtype: torch.dtype,
) -> Rotary:
    base = parameters.get("rope_theta", 10000)
    rope_type = parameters.get("rope_type", "default")
    common = (max_position, base, is_neox_style)
    if "mrope_section" in parameters or parameters.get("use_fope"):
        raise CannotRun("the bundled runtime has no multi-axis or Fourier rope")
    if rope_type == "default":
        return RotaryEmbedding(*sizes, *common, dtype)
    if rope_type == "proportional":
        return ProportionalRotaryEmbedding(*sizes, *common, dtype)
    if rope_type == "llama3":
        return Llama3RotaryEmbedding(
            *sizes,
            *common,
            dtype,
            parameters["factor"],
            parameters["low_freq_factor"],
            parameters["high_freq_factor"],
            parameters["original_max_position_embeddings"],
        )
    if rope_type == "linear":
        return LinearScalingRotaryEmbedding(
            *sizes, *common, parameters["factor"], dtype
        )
    if rope_type == "ntk":
        return NTKScalingRotaryEmbedding(
            *sizes, *common, parameters["factor"], dtype, parameters.get("mixed_b")
        )
    if rope_type == "dynamic":
        return _make_dynamic(sizes, common, parameters, dtype)
    if rope_type in ("yarn", "deepseek_yarn", "deepseek_llama_scaling"):
        return _make_yarn(sizes, base, is_neox_style, parameters, dtype)
    if rope_type == "longrope":
        mscales = {n: parameters[n] for n in ("short_mscale", "long_mscale")
                   if n in parameters}  # fmt: skip
        return LongRotaryEmbedding(
            *sizes,
            max_position,
            parameters["original_max_position_embeddings"],
            base,
            is_neox_style,
            dtype,
            parameters["short_factor"],
            parameters["long_factor"],
            **mscales,
        )
    if rope_type in ("bailing_mrope", "mllama4", "openpangu"):
        raise CannotRun(f"the bundled runtime has no rope type {rope_type!r}")
    raise ValueError(f"Unknown RoPE scaling type {rope_type}")


def _make_dynamic(
    sizes: tuple[int, int],
    common: tuple[int, float, bool],
    parameters: dict[str, Any],
    dtype: torch.dtype,
) -> RotaryEmbedding:
    max_position, base, is_neox_style = common
    if "alpha" in parameters:
        return DynamicNTKAlphaRotaryEmbedding(
            *sizes, max_position, base, is_neox_style, parameters["alpha"], dtype
        )
    if "factor" not in parameters:
        raise ValueError(
            "Dynamic rope scaling must contain either 'alpha' or 'factor' field"
        )
    trained = parameters.get("max_trained_positions", max_position)
    return DynamicNTKScalingRotaryEmbedding(
        *sizes, max_position, trained, base, is_neox_style, parameters["factor"], dtype
    )


def _make_yarn(
    sizes: tuple[int, int],
    base: float,
    is_neox_style: bool,
    parameters: dict[str, Any],
    dtype: torch.dtype,
) -> RotaryEmbedding:
    deepseek = parameters["rope_type"] != "yarn"
    cls = DeepseekScalingRotaryEmbedding if deepseek else YaRNScalingRotaryEmbedding
    names = _YARN_OPTIONS[:4] if deepseek else _YARN_OPTIONS
    return cls(
        *sizes,
        parameters["original_max_position_embeddings"],
        base,
        is_neox_style,
        parameters["factor"],
        dtype,
        **{name: parameters[name] for name in names if name in parameters},
    )
