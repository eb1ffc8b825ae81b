"""HF's answer for a mutated source: its logits, and its checkpoint on demand."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.faithful.mutation import Mutation
from tests.reference.sources import SOURCES, exec_source, release, source_text
from tests.reference.tiny import (
    build,
    checkpoint_tensors,
    logits,
    prompts,
    save_checkpoint,
    tiny_config,
)


@dataclass(frozen=True)
class Reference:
    """A mutated HF model that ran. logits: per prompt, [num_tokens, vocab], fp32."""

    text: str
    lines: frozenset[int]
    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]
    logits: list[torch.Tensor]

    def save(self, folder: Path) -> Path:
        """Weights and config as they were before the model ran: it may change both."""
        return save_checkpoint(self.tensors, self.config, folder)


@contextmanager
def reference(mutation: Mutation) -> Iterator[Reference]:
    """Build and run the mutated HF model in eager mode; forget its module after."""
    text, lines = mutation.apply()
    config = tiny_config(mutation.model, mutation.config)
    written = config.to_dict()
    module = exec_source(mutation.model, text)
    try:
        model = build(module, SOURCES[mutation.model].causal_lm, config)
        tensors = checkpoint_tensors(model)
        out = [logits(model, prompt) for prompt in prompts()]
        yield Reference(text, lines, tensors, written, out)
    finally:
        release(module)


def original_logits(mutation: Mutation) -> list[torch.Tensor]:
    """Logits of the unmutated source on the config of `mutation`, cached."""
    return _original(mutation.model, repr(sorted(mutation.config.items())), mutation)


_by_key: dict[tuple[str, str], list[torch.Tensor]] = {}


def _original(model: str, key: str, mutation: Mutation) -> list[torch.Tensor]:
    if (model, key) not in _by_key:
        config = tiny_config(model, mutation.config)
        module = exec_source(model, source_text(model))
        try:
            net = build(module, SOURCES[model].causal_lm, config)
            _by_key[model, key] = [logits(net, prompt) for prompt in prompts()]
        finally:
            release(module)
    return _by_key[model, key]
