"""What callers ask for and get: sampling parameters, requests, outputs."""

from dataclasses import dataclass, field

import torch

from porter.gap import UsageError


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens.

    max_tokens: new tokens at most. temperature 0 takes the likeliest token; top_k 0
    and top_p 1 keep all. seed: of this request alone; None draws one. logprobs: how
    many of the likeliest tokens to report at each step, besides the chosen one.
    ignore_eos: False stops after a token of stop_token_ids.
    """

    max_tokens: int = 16
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    logprobs: int | None = None
    ignore_eos: bool = True
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if self.temperature < 0:
            raise UsageError(f"temperature must not be negative: {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1: {self.top_p}")
        if self.top_k < 0:
            raise UsageError(f"top_k must not be negative: {self.top_k}")
        if self.logprobs is not None and self.logprobs < 0:
            raise UsageError(f"logprobs must not be negative: {self.logprobs}")


@dataclass
class RequestOutput:
    """prompt and token_ids: the given and the new tokens.

    logprobs: for each new token the log probability (natural) of the asked likeliest
    tokens and of the token itself, by the model's own distribution; None unless asked.
    preemptions: how often the request was put back for want of cache.
    """

    prompt_token_ids: list[int]
    token_ids: list[int]
    logprobs: list[dict[int, float]] | None = None
    preemptions: int = 0


@dataclass(eq=False)
class Request:
    """A request in the engine.

    num_known: tokens of prompt and output that are known here. num_tokens: those that
    are chosen, known here or not yet; last_row: which of the last step's tokens the
    newest is. num_computed: tokens whose keys are in the cache. limit: num_tokens when
    all are chosen. blocks: the cache blocks, in order. block_hashes: of the leading full
    blocks, of which the pool knows num_remembered. prompt_logits: parts of the logits of
    the prompt, when they are wanted.
    """

    prompt: list[int]
    params: SamplingParams
    wants_prompt_logits: bool = False
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, float]] = field(default_factory=list)
    num_known: int = field(init=False)
    num_tokens: int = field(init=False)
    limit: int = field(init=False)
    num_computed: int = 0
    last_row: int = -1
    blocks: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    num_remembered: int = 0
    prompt_logits: list[torch.Tensor] = field(default_factory=list)
    generator: torch.Generator | None = None
    drawn_seed: int | None = None
    preemptions: int = 0
    finished: bool = False

    def __post_init__(self) -> None:
        self.num_known = self.num_tokens = len(self.prompt)
        new = 1 if self.wants_prompt_logits else self.params.max_tokens
        self.limit = len(self.prompt) + new

    def learn(self, token: int) -> None:
        """The next token, which `num_tokens` counts already, is known."""
        self.token_ids.append(token)
        self.num_known += 1

    def ids(self, start: int, end: int) -> list[int]:
        """The known tokens from start to end."""
        first = len(self.prompt)
        if start >= first:
            return self.token_ids[start - first : end - first]
        return self.prompt[start:end] + self.token_ids[: max(0, end - first)]

    @property
    def max_tokens_in_cache(self) -> int:
        """Tokens that the cache must hold at the end: the last one isn't stored."""
        new = 0 if self.wants_prompt_logits else self.params.max_tokens - 1
        return len(self.prompt) + new

    def output(self) -> RequestOutput:
        asked = self.params.logprobs is not None
        return RequestOutput(
            self.prompt,
            self.token_ids,
            self.logprobs if asked else None,
            self.preemptions,
        )
