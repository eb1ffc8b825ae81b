"""The six models' configs: what each of them changes in the tiny config of its class.

Between them: every ratio of query to key heads, biases on and off, tied and untied
heads, every kind of rope scaling, every place of a norm, both residual forms, windows
in several patterns, projections around the embedding, caps on and off.
"""

from typing import Any

Config = dict[str, Any]

THETA = {"rope_theta": 10000.0}
LLAMA3 = {
    **THETA,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {**THETA, "rope_type": "linear", "factor": 4.0}
DYNAMIC = {**THETA, "rope_type": "dynamic", "factor": 2.0}
YARN = {
    **THETA,
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_TUNED = {
    **YARN,
    "beta_fast": 16.0,
    "beta_slow": 2.0,
    "attention_factor": 1.3,
}


# Two lists of factors; prompts of up to `original` tokens use the first.
LONGROPE = {
    **THETA,
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.05 * i for i in range(16)],
    "long_factor": [2.0 + 0.25 * i for i in range(16)],
    "original_max_position_embeddings": 160,
}


CONFIGS: dict[str, dict[str, Config]] = {
    "opt": {
        "before, biased, tied": {},
        "after, projected": {"do_layer_norm_before": False, "word_embed_proj_dim": 64},
        "before, projected, untied": {
            "word_embed_proj_dim": 96,
            "tie_word_embeddings": False,
        },
        "no bias, no affine": {
            "enable_bias": False,
            "layer_norm_elementwise_affine": False,
        },
        "no final norm, gelu": {
            "_remove_final_layer_norm": True,
            "activation_function": "gelu",
        },
    },
    "llama": {
        "gqa 4:2, untied": {},
        "mqa 4:1, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
        "mha 4:4, biased, gelu": {
            "num_key_value_heads": 4,
            "attention_bias": True,
            "mlp_bias": True,
            "hidden_act": "gelu",
        },
        "head_dim 64, gqa 8:2": {
            "num_attention_heads": 8,
            "head_dim": 64,
            "mlp_bias": True,
        },
        "rope llama3": {"rope_parameters": LLAMA3},
        "rope linear": {"rope_parameters": LINEAR},
        "rope dynamic": {"rope_parameters": DYNAMIC},
        "rope yarn": {"rope_parameters": YARN},
        "rope longrope": {"rope_parameters": LONGROPE},
    },
    "qwen3": {
        "gqa 4:2, untied": {},
        "mqa 4:1, biased, tied": {
            "num_key_value_heads": 1,
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
        "mha 4:4, head_dim 64": {"num_key_value_heads": 4, "head_dim": 64},
        "windows from layer 2": {
            "use_sliding_window": True,
            "sliding_window": 24,
            "max_window_layers": 2,
        },
        "rope yarn": {"rope_parameters": YARN_TUNED},
    },
    "gemma2": {
        "alternating windows": {},
        "no caps": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        "mqa 4:1, biased, untied": {
            "num_key_value_heads": 1,
            "attention_bias": True,
            "tie_word_embeddings": False,
        },
        "full first, head_dim 64": {
            "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2,
            "head_dim": 64,
        },
        "mha 4:4, gelu, linear": {
            "num_key_value_heads": 4,
            "hidden_activation": "gelu",
            "rope_parameters": LINEAR,
        },
    },
    "gpt_neox": {
        "parallel residual": {},
        "serial residual": {"use_parallel_residual": False},
        "no bias, tied": {"attention_bias": False, "tie_word_embeddings": True},
        "whole head rotated": {
            "rope_parameters": {**THETA, "partial_rotary_factor": 1.0}
        },
        "half rotated, linear": {
            "rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5},
            "use_parallel_residual": False,
            "hidden_act": "relu",
        },
    },
    "olmo2": {
        "gqa 4:2, untied": {},
        "mqa 4:1, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
        "mha 4:4, biased": {"num_key_value_heads": 4, "attention_bias": True},
        "rope yarn, gelu": {"rope_parameters": YARN, "hidden_act": "gelu"},
        "rope llama3, gqa 8:2": {
            "rope_parameters": LLAMA3,
            "num_attention_heads": 8,
        },
    },
}
