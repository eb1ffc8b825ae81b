"""From a model folder to the configuration of an engine, with vLLM's rules."""

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from porter.gap import CannotRun, UsageError
from porter.runtime.config import (
    CacheConfig,
    CompilationConfig,
    DeviceConfig,
    LoadConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    VllmConfig,
)
from porter.runtime.loader import checkpoint_names

# Config fields that bound the length of a sequence; the smallest one holds.
_LENGTH_FIELDS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# Rope types whose max_position_embeddings is the stretched length already.
_STRETCHED = (
    "su",
    "longrope",
    "llama3",
    "yarn",
    "deepseek_yarn",
    "deepseek_llama_scaling",
)


def read_hf_config(model_dir: Path, trust_remote_code: bool) -> Any:
    """The transformers config of a folder; UsageError when there is none to read."""
    path = model_dir / "config.json"
    if not path.is_file():
        raise UsageError(f"{model_dir}: no config.json in the model folder")
    from transformers import AutoConfig  # slow to import, and only needed here

    try:
        with path.open(encoding="utf-8") as file:
            raw = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable config: {error}") from error
    if "auto_map" in raw and not trust_remote_code and not _known(raw):
        raise UsageError(
            f"{path}: the config class is code in the folder; "
            "pass --trust-remote-code to run it"
        )
    try:
        return AutoConfig.from_pretrained(
            str(model_dir), trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if "auto_map" not in raw and not _known(raw):
            raise UsageError(
                f"{path}: model_type {raw.get('model_type')!r} is none of those that the "
                f"installed transformers {metadata.version('transformers')} has"
            ) from error
        raise UsageError(f"{path}: transformers can't read it: {error}") from error


def _known(raw: dict[str, Any]) -> bool:
    from transformers import CONFIG_MAPPING

    return raw.get("model_type") in CONFIG_MAPPING


def standardize_rope(config: Any) -> None:
    """Bring old spellings of rope fields into `rope_parameters`."""
    theta = _first_attribute(config, ("rope_theta", "rotary_emb_base"))
    partial = _first_attribute(
        config, ("partial_rotary_factor", "rotary_pct", "rotary_emb_fraction")
    )
    if theta is None and not getattr(config, "rope_parameters", None):
        return
    if theta is not None:
        config.rope_theta = theta
    if partial is not None:
        config.partial_rotary_factor = partial
    for parameters in rope_parameter_sets(config):
        if "rope_type" not in parameters and "type" in parameters:
            parameters["rope_type"] = parameters["type"]
        if parameters.get("rope_type") == "su":
            parameters["rope_type"] = "longrope"
    config.standardize_rope_params()


def _first_attribute(config: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        if hasattr(config, name):
            return getattr(config, name)
    return None


def rope_parameter_sets(config: Any) -> list[dict[str, Any]]:
    """The rope parameters of a config, one for each layer type if they differ."""
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict) or not parameters:
        return []
    if all(isinstance(value, dict) or value is None for value in parameters.values()):
        return [value for value in parameters.values() if value]
    return [parameters]


def derive_max_model_len(config: Any) -> int:
    """Tokens that a sequence may have; 2048 when the config doesn't say."""
    text_config = config.get_text_config()
    lengths = [getattr(text_config, name, None) for name in _LENGTH_FIELDS]
    known = [length for length in lengths if length is not None]
    longest = getattr(text_config, "model_max_length", None) or min(known, default=2048)
    parameter_sets = rope_parameter_sets(config)
    if any(p.get("rope_type") == "longrope" for p in parameter_sets):
        longest = getattr(config, "original_max_position_embeddings", longest)
    for parameters in parameter_sets:
        if parameters.get("rope_type", "default") not in _STRETCHED:
            return int(longest * (parameters.get("factor") or 1.0))
    return int(longest)


def make_vllm_config(
    model_dir: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    tensor_parallel_size: int,
    pipeline_parallel_size: int,
    enable_expert_parallel: bool,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    block_size: int,
    max_model_len: int | None,
    enable_prefix_caching: bool,
    load_format: str,
    trust_remote_code: bool,
    allow_pickle: bool,
    use_mla: bool | None = None,
    fuse_qk_norm_rope_kvcache: bool | None = None,
) -> VllmConfig:
    """Raises UsageError on what doesn't fit together, CannotRun on what isn't here."""
    config = read_hf_config(model_dir, trust_remote_code)
    if getattr(config, "quantization_config", None):
        raise CannotRun(
            f"{model_dir}: a quantized checkpoint; the bundled runtime runs "
            "unquantized ones (--engine vllm runs it)"
        )
    standardize_rope(config)
    heads = getattr(config.get_text_config(), "num_attention_heads", None)
    if isinstance(heads, int) and heads % tensor_parallel_size:
        raise UsageError(
            f"{heads} attention heads don't divide by tensor parallel size "
            f"{tensor_parallel_size}"
        )
    model_config = ModelConfig(
        str(model_dir),
        config,
        dtype,
        max_model_len or derive_max_model_len(config),
        trust_remote_code,
        use_mla=_has_latent(config, device) if use_mla is None else use_mla,
    )
    if load_format != "dummy":
        _untie_if_stored(model_config, model_dir, allow_pickle)
    fuses = fuse_qk_norm_rope_kvcache
    if fuses is None:
        fuses = device.type == "cuda"  # launches cost nothing on a CPU
    return VllmConfig(
        model_config,
        CacheConfig(
            block_size,
            sliding_window=_model_window(config),
            enable_prefix_caching=enable_prefix_caching,
        ),
        ParallelConfig(
            tensor_parallel_size,
            pipeline_parallel_size,
            enable_expert_parallel=enable_expert_parallel,
        ),
        SchedulerConfig(max_num_batched_tokens, max_num_seqs),
        DeviceConfig(device),
        LoadConfig(load_format),
        CompilationConfig(fuse_qk_norm_rope_kvcache=fuses),
    )


def _has_latent(config: Any, device: torch.device) -> bool:
    """Whether a model gets a latent cache, if its attention is latent.

    vLLM asks for the same field, and for a model type that it lists. The kernels for
    GPUs have no heads as wide as a latent.
    """
    if os.environ.get("VLLM_MLA_DISABLE", "0") not in ("", "0") or device.type != "cpu":
        return False
    return getattr(config.get_text_config(), "kv_lora_rank", None) is not None


def _untie_if_stored(
    model_config: ModelConfig, model_dir: Path, allow_pickle: bool
) -> None:
    """A checkpoint with a head of its own has it loaded, whatever the config says."""
    config = model_config.hf_config
    if not getattr(config, "tie_word_embeddings", False):
        return
    names = checkpoint_names(model_dir, allow_pickle)
    if any(name.endswith("lm_head.weight") for name in names):
        config.tie_word_embeddings = False
        config.get_text_config().tie_word_embeddings = False
        model_config.word_embeddings_untied_by_checkpoint = True


def _model_window(config: Any) -> int | None:
    """The window of all layers; None when only some have one, or none."""
    text_config = config.get_text_config()
    if getattr(text_config, "sliding_window", None) == 0:
        text_config.sliding_window = None
    layer_types = getattr(text_config, "layer_types", None)
    if layer_types is None or set(layer_types) == {"sliding_attention"}:
        return getattr(text_config, "sliding_window", None)
    return None
