"""An engine with the runtime's interface that runs the HuggingFace model itself.

A port that is right by construction, to be made wrong in one known way: what `verify`
says of it can then be tested without a port.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from porter.verify.reference import trace_reference


@dataclass
class Weights:
    loaded: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    uninitialised: list[str] = field(default_factory=list)


@dataclass
class Output:
    token_ids: list[int]
    logprobs: list[dict[int, float]]


class MirrorEngine:
    """options: what the engine was made with, so that a fault can depend on them."""

    def __init__(self, model: Any, weights: Weights | None = None, **options: Any):
        self.model = model
        self.options = options
        self.weight_report = weights or Weights()

    def __enter__(self) -> "MirrorEngine":
        return self

    def __exit__(self, *failure: object) -> None:
        pass

    def generate(self, prompts: list[list[int]], params: Any) -> list[Output]:
        traces = trace_reference(self.model, prompts, params.max_tokens)
        return [Output(t.tokens, t.logprobs) for t in traces]

    def prefill_logits(self, prompts: list[list[int]]) -> list[torch.Tensor]:
        return [t.logits for t in trace_reference(self.model, prompts, 1)]

    @property
    def cache_bytes_per_token(self) -> None:
        """It caches nothing."""
        return None

    def fused_modules(self) -> dict[str, int]:
        return {"qkv": 0}
