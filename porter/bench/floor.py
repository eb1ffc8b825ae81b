"""The least that one decode step of one sequence must read."""

from pathlib import Path
from typing import Any


def _config(model: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model).get_text_config()


def _meta_model(model: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(_config(model))


def parameters(model: Path) -> int:
    """Of the model of that config, shared ones counted once."""
    return sum(p.numel() for p in _meta_model(model).parameters())


def decode_bytes(model: Path, dtype: str, context: int) -> int:
    """Bytes of all weights and of the keys and values of `context` tokens.

    Of an embedding that isn't the head too, only one row is read.
    """
    import torch

    config, network = _config(model), _meta_model(model)
    count = sum(p.numel() for p in network.parameters())
    table, head = network.get_input_embeddings(), network.get_output_embeddings()
    if head is None or head.weight is not table.weight:
        count -= table.weight.numel()
    kv_heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", None)
    size = size or config.hidden_size // config.num_attention_heads
    cached = config.num_hidden_layers * 2 * kv_heads * size * context
    return (count + cached) * getattr(torch, dtype).itemsize
