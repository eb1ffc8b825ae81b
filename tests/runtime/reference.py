"""Plain-torch models with the arithmetic of the two port fixtures, and checkpoints."""

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

PORTS = Path(__file__).parent / "ports"
Weights = dict[str, torch.Tensor]

ROPE_CONFIG: dict[str, Any] = {
    "architectures": ["RopeForCausalLM"],
    "model_type": "llama",
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}

LEARNED_CONFIG: dict[str, Any] = {
    "architectures": ["LearnedForCausalLM"],
    "model_type": "gemma2",
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "query_pre_attn_scalar": 20,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": False,
}


def rope_weights(config: dict[str, Any], seed: int = 0) -> Weights:
    """Random weights under the checkpoint names of rope_decoder."""
    h, i, d = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], h),
        "model.norm.weight": (h,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], h)
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        shapes[layer + "input_layernorm.weight"] = (h,)
        shapes[layer + "post_attention_layernorm.weight"] = (h,)
        linears = {
            "self_attn.q_proj": (heads * d, h),
            "self_attn.k_proj": (kv * d, h),
            "self_attn.v_proj": (kv * d, h),
            "self_attn.o_proj": (h, heads * d),
            "mlp.gate_proj": (i, h),
            "mlp.up_proj": (i, h),
            "mlp.down_proj": (h, i),
        }
        for name, shape in linears.items():
            shapes[layer + name + ".weight"] = shape
            bias = "attention_bias" if "self_attn" in name else "mlp_bias"
            if config[bias]:
                shapes[layer + name + ".bias"] = shape[:1]
    return _random(shapes, seed)


def learned_weights(config: dict[str, Any], seed: int = 0) -> Weights:
    """Random weights under the checkpoint names of learned_decoder."""
    h, i, d = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    vocab = config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "decoder.tokens.weight": (vocab, h),
        "decoder.places.weight": (config["max_position_embeddings"], h),
        "decoder.mix.weight": (h, h),
        "decoder.mix.bias": (h,),
        "decoder.norm.weight": (h,),
        "decoder.norm.bias": (h,),
        "lm_head.weight": (vocab, h),
        "lm_head.bias": (vocab,),
    }
    for n in range(config["num_hidden_layers"]):
        linears = {
            "query": (heads * d, h),
            "key": (kv * d, h),
            "value": (kv * d, h),
            "out": (h, heads * d),
            "up": (i, h),
            "down": (h, i),
            "norm_1": (h,),
            "norm_2": (h,),
        }
        for name, shape in linears.items():
            shapes[f"decoder.blocks.{n}.{name}.weight"] = shape
            shapes[f"decoder.blocks.{n}.{name}.bias"] = shape[:1]
    return _random(shapes, seed)


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        vector = len(shape) == 1
        weights[name] = (
            noise * 0.2 + ("norm" in name)
            if vector
            else (
                noise
                if "embed" in name or "tokens" in name
                else noise / shape[-1] ** 0.5
            )
        )
    return weights


def write_checkpoint(
    folder: Path, config: dict[str, Any], weights: Weights, files: int = 1
) -> Path:
    """config.json and safetensors, in one file or in several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if files == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    weight_map = {}
    names = list(weights)
    for n in range(files):
        file_name = f"model-{n + 1:05}-of-{files:05}.safetensors"
        part = {name: weights[name] for name in names[n::files]}
        save_file(part, folder / file_name)
        weight_map.update(dict.fromkeys(part, file_name))
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


def rope_logits(
    config: dict[str, Any], weights: Weights, ids: list[int], cos_sin: torch.Tensor
) -> torch.Tensor:
    """[tokens, vocab]; cos_sin: [positions, head_dim], cosines then sines."""

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, weights[name + ".weight"], weights.get(name + ".bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]).rsqrt()
        return x * scale * weights[name + ".weight"]

    def turn(x: torch.Tensor) -> torch.Tensor:
        cos, sin = cos_sin[: len(ids), None].chunk(2, -1)
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    d = config["head_dim"]
    x = weights["model.embed_tokens.weight"][ids]
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        y = norm(x, layer + "input_layernorm")
        q, k, v = (
            linear(y, f"{layer}self_attn.{p}_proj").unflatten(-1, (-1, d))
            for p in "qkv"
        )
        y = attention(turn(q), turn(k), v, d**-0.5).flatten(1)
        x = x + linear(y, layer + "self_attn.o_proj")
        y = norm(x, layer + "post_attention_layernorm")
        y = F.silu(linear(y, layer + "mlp.gate_proj")) * linear(
            y, layer + "mlp.up_proj"
        )
        x = x + linear(y, layer + "mlp.down_proj")
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return F.linear(norm(x, "model.norm"), head)


def learned_logits(
    config: dict[str, Any], weights: Weights, ids: list[int]
) -> torch.Tensor:
    """[tokens, vocab]."""

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, weights[name + ".weight"], weights[name + ".bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(
            x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"],
            config["rms_norm_eps"],
        )  # fmt: skip

    d = config["head_dim"]
    x = weights["decoder.tokens.weight"][ids]
    x = linear(x + weights["decoder.places.weight"][: len(ids)], "decoder.mix")
    for n, layer_type in enumerate(config["layer_types"]):
        block = f"decoder.blocks.{n}."
        y = norm(x, block + "norm_1")
        q, k, v = (
            linear(y, block + p).unflatten(-1, (-1, d))
            for p in ("query", "key", "value")
        )
        sliding = layer_type == "sliding_attention"
        y = attention(
            q,
            k,
            v,
            config["query_pre_attn_scalar"] ** -0.5,
            window=config["sliding_window"] if sliding else None,
            cap=config["attn_logit_softcapping"],
        )
        x = x + linear(y.flatten(1), block + "out")
        y = F.gelu(linear(norm(x, block + "norm_2"), block + "up"), approximate="tanh")
        x = x + linear(y, block + "down")
    logits = linear(norm(x, "decoder.norm"), "lm_head")
    cap = config["final_logit_softcapping"]
    return torch.tanh(logits / cap) * cap


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    slopes: list[float] | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal attention over one sequence, [tokens, heads, head_size], head by head."""
    tokens, heads = q.shape[:2]
    group = heads // k.shape[1]
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    output = []
    for h in range(heads):
        scores = q[:, h] @ k[:, h // group].T * scale
        if cap:
            scores = cap * torch.tanh(scores / cap)
        if slopes is not None:
            scores = scores - slopes[h] * distance
        scores = scores.masked_fill(hidden, -math.inf)
        if sinks is not None:
            scores = torch.cat((scores, sinks[h].expand(tokens, 1)), -1)
        output.append(scores.softmax(-1)[:, :tokens] @ v[:, h // group])
    return torch.stack(output, 1)


def default_cos_sin(config: dict[str, Any]) -> torch.Tensor:
    """[positions, head_dim] of unscaled rope."""
    d = config["head_dim"]
    theta = config["rope_parameters"]["rope_theta"]
    frequencies = torch.tensor([theta ** (-2 * i / d) for i in range(d // 2)])
    angles = torch.outer(torch.arange(256.0), frequencies)
    return torch.cat((angles.cos(), angles.sin()), -1)


def rel_rmse(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())
