"""Figures of several models that take turns, each as a median and its spread."""

import operator
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
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


class Turns:
    """What each of several models did in its turns, over one loading of them or more.

    A model that is loaded before another can come off worse for it: on a machine of two
    cores by a tenth. So they are loaded again in another order, and all turns count.
    expected: the reference's tokens.
    """

    def __init__(
        self,
        workload: Workload,
        expected: list[list[int]],
        advance: Callable[[str], None] = lambda what: None,
    ) -> None:
        self.workload, self.expected, self.advance = workload, expected, advance
        self._did: dict[str, _Did] = {}

    def take(self, models: Sequence[Loaded], repeats: int) -> None:
        """Turns of models that are loaded, which go through them forth and back."""
        prompts, new_tokens = self.workload.prompts, self.workload.new_tokens
        for model in models:
            self.advance(f"warming {model.name} up")
            model.generate(prompts, 2)
            self._did.setdefault(model.kind, _Did(model)).loads.append(
                model.load_seconds
            )
        for repeat in range(repeats):
            for model in models if repeat % 2 == 0 else reversed(models):
                self.advance(f"run {repeat + 1} of {repeats}: {model.name}")
                did = self._did[model.kind]
                first = _seconds(model, prompts, 1)[0]
                whole, did.answers = _seconds(model, prompts, new_tokens)
                did.prefill.append(sum(map(len, prompts)) / first)
                later = len(prompts) * (new_tokens - 1)
                did.decode.append(later / max(whole - first, 1e-9))

    def figures(self) -> list[Figures]:
        """In the order in which the models were first given."""
        did = list(self._did.values())
        return [
            Figures(
                each.model.kind,
                each.model.name,
                each.model.model_class,
                round(statistics.mean(each.loads), 2),
                Spread.of(each.prefill),
                Spread.of(each.decode),
                sum(map(operator.eq, each.answers, self.expected)),
                each.model.fused,
                Spread.of(list(map(operator.truediv, did[0].prefill, each.prefill))),
                Spread.of(list(map(operator.truediv, did[0].decode, each.decode))),
            )
            for each in did
        ]


@dataclass
class _Did:
    model: Loaded
    loads: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)


def _seconds(
    model: Loaded, prompts: list[list[int]], new_tokens: int
) -> tuple[float, list[list[int]]]:
    started = time.perf_counter()
    tokens = model.generate(prompts, new_tokens)
    return time.perf_counter() - started, tokens
