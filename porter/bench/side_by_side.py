"""Figures of several models that take turns, each as a median and its spread."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from porter.bench.workload import Workload


class Loaded(Protocol):
    """A loaded model, as `porter.bench.rivals.Rival` is one."""

    kind: str
    name: str
    load_seconds: float
    fused: dict[str, int]
    model_class: str

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """The new token ids, one list a prompt."""


@dataclass(frozen=True)
class Spread:
    """The median over the repeats, and the smallest and largest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(
            round(statistics.median(values), 3),
            round(min(values), 3),
            round(max(values), 3),
        )

    def rounded(self) -> str:
        """In whole numbers, for figures of some hundreds."""
        return f"{self.median:.0f} ({self.low:.0f} to {self.high:.0f})"

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Figures:
    """One model's.

    prefill: prompt tokens of the whole workload a second, until each prompt's first
    token. decode: new tokens a second after it. equal_prompts: how many got the tokens
    that the reference gave them. fused: layers of each kind in the built model.
    prefill_ratio, decode_ratio: of the first model's speed to this one's, each repeat's
    by its own.
    """

    kind: str
    name: str
    model_class: str
    load_seconds: float
    prefill: Spread
    decode: Spread
    equal_prompts: int
    fused: dict[str, int]
    prefill_ratio: Spread
    decode_ratio: Spread

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    models: Sequence[Loaded],
    workload: Workload,
    expected: list[list[int]],
    repeats: int,
    advance: Callable[[str], None] = lambda what: None,
) -> list[Figures]:
    """Figures of each model, in their order; `expected` are the reference's tokens."""
    prompts, new_tokens = workload.prompts, workload.new_tokens
    for model in models:
        advance(f"warming {model.name} up")
        model.generate(prompts, 2)
    prefill: list[list[float]] = [[] for _ in models]
    decode: list[list[float]] = [[] for _ in models]
    answers: list[list[list[int]]] = [[] for _ in models]
    for repeat in range(repeats):
        order = list(enumerate(models))
        for index, model in order if repeat % 2 == 0 else reversed(order):
            advance(f"run {repeat + 1} of {repeats}: {model.name}")
            first = _seconds(model, prompts, 1)[0]
            whole, answers[index] = _seconds(model, prompts, new_tokens)
            prefill[index].append(sum(map(len, prompts)) / first)
            later = len(prompts) * (new_tokens - 1)
            decode[index].append(later / max(whole - first, 1e-9))
    return [
        Figures(
            model.kind,
            model.name,
            model.model_class,
            round(model.load_seconds, 2),
            Spread.of(prefill[i]),
            Spread.of(decode[i]),
            sum(a == b for a, b in zip(answers[i], expected, strict=True)),
            model.fused,
            Spread.of([a / b for a, b in zip(prefill[0], prefill[i], strict=True)]),
            Spread.of([a / b for a, b in zip(decode[0], decode[i], strict=True)]),
        )
        for i, model in enumerate(models)
    ]


def _seconds(
    model: Loaded, prompts: list[list[int]], new_tokens: int
) -> tuple[float, list[list[int]]]:
    started = time.perf_counter()
    tokens = model.generate(prompts, new_tokens)
    return time.perf_counter() - started, tokens
