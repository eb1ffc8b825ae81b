"""Tiny configs that make every piece of the six models count, and seeded weights.

Epsilons are large, caps small and windows short, so that a change to any of them moves
the logits; norm weights and biases are random, because ones and zeros hide mistakes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from tests.reference.sources import SOURCES

VOCAB = 160
PROMPT_LENGTHS = (5, 33, 97)

_ROPE = {"rope_type": "default", "rope_theta": 500.0}
_GQA = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 0.05,
    "rope_parameters": _ROPE,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_DENSE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_GPT = {
    "vocab_size": VOCAB,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "layer_norm_epsilon": 0.05,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

TINY: dict[str, dict[str, Any]] = {
    "opt": {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "word_embed_proj_dim": 48,
        "ffn_dim": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
    },
    "llama": {**_GQA},
    "qwen3": {
        **_GQA,
        "head_dim": 32,
        "use_sliding_window": True,
        "sliding_window": 12,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "gemma2": {
        **_GQA,
        "head_dim": 32,
        "query_pre_attn_scalar": 20,
        "sliding_window": 12,
        "attn_logit_softcapping": 4.0,
        "final_logit_softcapping": 3.0,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": True,
        "pad_token_id": 0,
    },
    "gpt_neox": {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "layer_norm_eps": 0.05,
        "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5},
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "olmo2": {**_GQA, "attention_bias": False},
    "gemma3": {
        **_GQA,
        "head_dim": 32,
        "query_pre_attn_scalar": 20,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": _ROPE,
            "full_attention": {**_ROPE, "rope_theta": 40.0},
        },
        "pad_token_id": 0,
    },
    "granite_swa": {
        **_GQA,
        "num_hidden_layers": 3,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "layer_rope_theta": [500.0, 0.0, 40.0],
        "attention_bias": False,
        "pad_token_id": 0,
    },
    "gpt2": {**_GPT, "n_inner": 96, "scale_attn_by_inverse_layer_idx": True},
    "bloom": {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "n_layer": 2,
        "n_head": 6,  # no power of two
        "layer_norm_epsilon": 0.05,
        "tie_word_embeddings": False,
    },
    "mpt": {
        "vocab_size": VOCAB,
        "d_model": 48,
        "n_layers": 2,
        "n_heads": 6,
        "max_seq_len": 256,
        "layer_norm_epsilon": 0.05,
        "tie_word_embeddings": False,
    },
    "codegen": {**_GPT, "n_ctx": 256, "rotary_dim": 8, "n_inner": 96},
    "gpt_neo": {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 12,
        "max_position_embeddings": 256,
        "layer_norm_epsilon": 0.05,
        "tie_word_embeddings": False,
    },
    "ctrl": {**_GPT, "dff": 96},
    "xglm": {
        "vocab_size": VOCAB,
        "d_model": 64,
        "num_layers": 2,
        "attention_heads": 4,
        "ffn_dim": 96,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
    },
    "openai": {**_GPT, "afn": "relu"},
    "mixtral": {
        **{k: v for k, v in _GQA.items() if k != "attention_bias"},
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "sliding_window": 12,
    },
    "glm4_moe": {
        **_GQA,
        "head_dim": 32,
        "use_qk_norm": True,
        "moe_intermediate_size": 48,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "first_k_dense_replace": 1,
        "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5},
    },
    "youtu": {
        **_GQA,
        "num_key_value_heads": 4,
        "q_lora_rank": 24,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "v_head_dim": 24,
        "attention_bias": False,
    },
    "deepseek_v32": {
        **_DENSE,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 48,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "q_lora_rank": 24,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "v_head_dim": 24,
        "index_head_dim": 32,
        "index_n_heads": 2,
        "index_topk": 256,
        "mlp_layer_types": ["dense", "sparse"],
    },
    "bitnet": {**_DENSE},
    "cohere": {**_DENSE, "use_qk_norm": True, "logit_scale": 0.5},
    "ernie4_5": {**_DENSE, "head_dim": 32},
    "helium": {**_DENSE, "head_dim": 16},
    "hyperclovax": {**_DENSE, "residual_multiplier": 0.5, "logits_scaling": 0.25},
    "ministral3": {**_DENSE, "head_dim": 32, "sliding_window": None},
    "moshi": {
        **{k: v for k, v in _DENSE.items() if k != "intermediate_size"},
        "ffn_dim": 96,
        "head_dim": 16,
        "sliding_window": 256,
    },
    "nemotron": {**_DENSE, "norm_eps": 0.05},
    "olmo": {**_DENSE},
    "seed_oss": {**_DENSE, "head_dim": 32},
}


def tiny_config(model_type: str, overrides: Mapping[str, Any] | None = None) -> Any:
    """The tiny config of a model, in fp32 eager mode."""
    import transformers

    cls = getattr(transformers, SOURCES[model_type].config)
    config = cls(**{**TINY[model_type], **(overrides or {})})
    config.architectures = [SOURCES[model_type].causal_lm]
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"  # the file's own loop
    config.dtype = torch.float32
    return config


def seeded(name: str, like: torch.Tensor) -> torch.Tensor:
    """Random weight of `like`'s shape that depends on its name and shape alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
    noise = torch.randn(
        like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32
    )
    if like.dim() == 1:
        return noise * 0.3 if name.endswith("bias") else 1.0 + 0.3 * noise
    # Wide enough that attention is far from uniform and caps are reached.
    return noise * (1.5 / like.shape[-1] ** 0.5)


def build(
    module: ModuleType,
    cls_name: str,
    config: Any,
    rename: Mapping[str, str] | None = None,
) -> nn.Module:
    """The model of `cls_name` in eval mode, every parameter seeded by its name.

    rename: attribute names of this module -> names that seed them, for a source whose
    attributes were renamed.
    """
    torch.manual_seed(0)
    model = getattr(module, cls_name)(config).eval()
    names = rename or {}
    with torch.no_grad():
        for name, parameter in stored_parameters(model).items():
            original = ".".join(names.get(part, part) for part in name.split("."))
            parameter.copy_(seeded(original, parameter))
    return model


def stored_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and kept buffers by the names that a checkpoint holds: of tied ones, the
    source's."""
    tied: Any = model._tied_weights_keys if model.config.tie_word_embeddings else {}
    kept = model.state_dict(keep_vars=True)
    buffers = [
        (name, buffer)
        for name, buffer in model.named_buffers()
        if name in kept and buffer.is_floating_point()
    ]
    parameters = model.named_parameters(remove_duplicate=False)
    return {
        name: tensor for name, tensor in (*parameters, *buffers) if name not in tied
    }


def checkpoint_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the weights as HF would store them: tied ones once."""
    return {
        name: parameter.detach().contiguous().clone()
        for name, parameter in stored_parameters(model).items()
    }


def save_checkpoint(
    tensors: dict[str, torch.Tensor], config: dict[str, Any], folder: Path
) -> Path:
    """Write config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def prompts() -> list[list[int]]:
    """Fixed token ids, one prompt for each of PROMPT_LENGTHS."""
    generator = torch.Generator().manual_seed(17)
    return [
        torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        for length in PROMPT_LENGTHS
    ]


@torch.no_grad()
def logits(model: nn.Module, prompt: list[int]) -> torch.Tensor:
    """All prefill logits of one prompt, [num_tokens, vocab_size], fp32."""
    out = model(input_ids=torch.tensor([prompt]), use_cache=False)
    return out.logits[0].float()


def rel_rmse(got: torch.Tensor, want: torch.Tensor) -> float:
    """RMSE over the RMS of `want`; infinite where shapes differ or got isn't finite."""
    if got.shape != want.shape or not torch.isfinite(got).all():
        return float("inf")
    scale = want.square().mean().sqrt()
    return float((got - want).square().mean().sqrt() / scale)
