"""One engine's figures for one workload."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from porter.bench.engines import Engine
from porter.bench.workload import Workload


@dataclass(frozen=True)
class Measurement:
    """seconds: wall time of the whole workload, the best of `repeats`.

    tokens_per_second: new tokens of all requests over `seconds`. first_token_ms: one
    request alone, prompt of median length, until its first token. next_token_ms: the
    same request, each token after it.
    """

    engine: str
    seconds: float
    tokens_per_second: float
    first_token_ms: float
    next_token_ms: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(engine: Engine, workload: Workload, repeats: int = 2) -> Measurement:
    """Run the workload `repeats` times and one request alone; a warm-up comes first."""
    prompts, new_tokens = workload.prompts, workload.new_tokens
    engine.generate(prompts[:2], 2)
    seconds = _best(repeats, lambda: engine.generate(prompts, new_tokens))
    median = sorted(prompts, key=len)[len(prompts) // 2]
    first = _best(repeats, lambda: engine.generate([median], 1))
    alone = _best(repeats, lambda: engine.generate([median], new_tokens))
    later = (alone - first) / (new_tokens - 1) if new_tokens > 1 else 0.0
    return Measurement(
        engine=engine.name,
        seconds=round(seconds, 3),
        tokens_per_second=round(len(prompts) * new_tokens / seconds, 1),
        first_token_ms=round(first * 1e3, 2),
        next_token_ms=round(later * 1e3, 2),
    )


def _best(repeats: int, act: Callable[[], object]) -> float:
    """The shortest wall time of `act`, in seconds: other load only adds to it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return min(times)
