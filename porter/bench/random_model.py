"""A checkpoint where none is given: the port's architecture, random weights."""

from pathlib import Path
from typing import Any

from porter.gap import CannotRun

# About 100 million parameters in most architectures. A config takes those it declares.
SIZES: dict[str, Any] = {
    "vocab_size": 16000,
    "hidden_size": 768,
    "word_embed_proj_dim": 768,
    "intermediate_size": 2048,
    "ffn_dim": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_random_model(port: Path, folder: Path, trust_remote_code: bool) -> None:
    """Save a model of the class that `port` was made from, seeded, in float32.

    Raises UsageError where the port's source can't be found or may not be imported,
    CannotRun where a config of these sizes doesn't work.
    """
    import torch

    from porter.verify.origin import source_class
    from porter.verify.quiet import quiet_transformers

    model_class: Any = source_class(port, None, trust_remote_code=trust_remote_code)
    config_class = model_class.config_class
    defaults = config_class()
    sizes = {name: size for name, size in SIZES.items() if hasattr(defaults, name)}
    torch.manual_seed(0)
    with quiet_transformers():
        try:
            model = model_class(config_class(**sizes))
        except (ValueError, TypeError) as error:
            raise CannotRun(
                f"no random model of {model_class.__name__}: {error}; give --model"
            ) from error
        model.float().save_pretrained(folder)
