"""How long a call takes on a GPU, without the host's part in it."""

import statistics
from collections.abc import Callable, Sequence

import torch

# Calls of one timing last about this long together.
_MILLISECONDS = 6.0
_REPEATS = 5


def seconds_a_call(calls: Sequence[Callable[[], object]]) -> float:
    """Median of several timings; the calls take turns.

    Calls over different data keep the cache from holding what the next one reads. They
    are captured as one graph where they allow it, so that no launch waits for the host.
    """
    for call in calls:
        call()
    torch.cuda.synchronize()
    once = _timed(lambda: [call() for call in calls])
    rounds = max(1, min(50, int(_MILLISECONDS / 1e3 / max(once, 1e-7))))

    def every() -> None:
        for _ in range(rounds):
            for call in calls:
                call()

    run = _captured(every) or every
    run()
    torch.cuda.synchronize()
    times = [_timed(run) for _ in range(_REPEATS)]
    return statistics.median(times) / rounds / len(calls)


def _captured(work: Callable[[], object]) -> Callable[[], None] | None:
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except RuntimeError:  # it waits for the device, or takes memory of its own
        torch.cuda.synchronize()
        return None
    return graph.replay


def _timed(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def ceilings() -> dict[str, float]:
    """bytes_per_second of a copy within the device, read and written bytes counted;
    flops_per_second of a bf16 product of random 8192 x 8192 matrices."""
    source = torch.empty(1 << 30, dtype=torch.int32, device="cuda").random_()
    target = torch.empty_like(source)
    # A kernel's copy: the copy engine, which a captured copy_ takes, is slower.
    copy = seconds_a_call([lambda: torch.bitwise_not(source, out=target)])
    moved = 2 * source.numel() * source.element_size()
    source = target = torch.empty(0)
    a, b = (
        torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2)
    )
    product = seconds_a_call([lambda: a @ b])
    return {
        "bytes_per_second": moved / copy,
        "flops_per_second": 2 * 8192**3 / product,
    }
