"""The figures of several engines for one workload, the engines taking turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from porter.bench.engines import Engine
from porter.bench.workload import Workload

# New tokens at most of the request that is timed alone.
_LATER_TOKENS = 256


@dataclass(frozen=True)
class Measurement:
    """seconds: wall time of the whole workload, the best of the repeats.

    tokens_per_second: new tokens of all requests over `seconds`. first_token_ms: one
    request alone until its first token. next_token_ms: one alone, each token after the
    first. equal_prompts: how many prompts got the very
    tokens that the first engine gave them.
    """

    engine: str
    seconds: float
    tokens_per_second: float
    first_token_ms: float
    next_token_ms: float
    equal_prompts: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    engines: Sequence[Engine],
    workload: Workload,
    repeats: int = 2,
    advance: Callable[[str], None] = lambda what: None,
) -> list[Measurement]:
    """One measurement an engine, in their order.

    In each repeat every engine runs once, so that other load on the machine falls on
    all of them. advance(what) is called before each piece of work.
    """
    later_tokens = min(workload.new_tokens, _LATER_TOKENS)
    first = [workload.single(workload.first_tokens)]
    alone = [workload.single(workload.alone_tokens)]
    parts = {
        "all": (workload.prompts, workload.counts),
        "first": (first, [1]),
        "alone": (alone, [later_tokens]),
    }
    if alone != first:  # what its first token takes is not of the later ones
        parts["begin"] = (alone, [1])
    times: dict[tuple[int, str], list[float]] = {}
    answers: dict[tuple[int, str], list[list[int]]] = {}
    for engine in engines:
        advance(f"warming {engine.name} up")
        engine.generate([alone[0][:4]], [2])
    for repeat in range(repeats):
        for index, engine in enumerate(engines):
            advance(f"run {repeat + 1} of {repeats}: {engine.name}")
            for part, (asked, count) in parts.items():
                started = time.perf_counter()
                answers[index, part] = engine.generate(asked, count)
                took = time.perf_counter() - started
                times.setdefault((index, part), []).append(took)
    summaries = []
    for index, engine in enumerate(engines):
        best = {part: min(times[index, part]) for part in parts}
        pairs = zip(answers[0, "all"], answers[index, "all"], strict=True)
        equal = sum(ours == theirs for ours, theirs in pairs)
        summaries.append(_summary(engine.name, best, workload, equal))
    return summaries


def _summary(
    name: str, best: dict[str, float], workload: Workload, equal: int
) -> Measurement:
    begin = best.get("begin", best["first"])
    count = min(workload.new_tokens, _LATER_TOKENS)
    later = (best["alone"] - begin) / max(count - 1, 1)
    return Measurement(
        engine=name,
        seconds=round(best["all"], 3),
        tokens_per_second=round(workload.total_new_tokens / best["all"], 1),
        first_token_ms=round(best["first"] * 1e3, 2),
        next_token_ms=round(later * 1e3, 2),
        equal_prompts=equal,
    )
