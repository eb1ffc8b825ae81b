"""A variant as a live HF model: its logits, and its checkpoint under its own names."""

from pathlib import Path

import torch

from tests.metamorphic.rename import Names
from tests.reference.sources import SIX, exec_source, release
from tests.reference.tiny import (
    build,
    checkpoint_tensors,
    logits,
    save_checkpoint,
    tiny_config,
)


def variant_logits(
    model: str,
    text: str,
    names: Names,
    ids: list[list[int]],
    folder: Path | None = None,
) -> list[torch.Tensor]:
    """HF's logits of the variant, weights seeded by their original names.

    folder: where its checkpoint is saved, with the variant's names in it.
    """
    causal_lm = names.globals.get(SIX[model].causal_lm, SIX[model].causal_lm)
    module = exec_source(model, text)
    try:
        back = {new: old for old, new in names.attributes.items()}
        config = tiny_config(model)
        config.architectures = [causal_lm]
        net = build(module, causal_lm, config, back)
        if folder is not None:
            save_checkpoint(checkpoint_tensors(net), config.to_dict(), folder)
        return [logits(net, prompt) for prompt in ids]
    finally:
        release(module)
