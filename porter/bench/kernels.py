"""Our kernels of attention and experts beside their peers and the machine's ceilings, in
one run."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from porter.bench import attention_engines, expert_engines
from porter.bench.attention_cases import (
    DecodeCase,
    PrefillCase,
    decode_problems,
    prefill_problem,
)
from porter.bench.expert_cases import ExpertsCase, experts_problems
from porter.bench.gpu_clock import ceilings, seconds_a_call

DECODE_CASES = [
    DecodeCase(batch, context, group)
    for group in (4, 8)
    for batch in (1, 4, 16, 64, 256)
    for context in (1024, 4096, 16384, 32768)
    if batch * context <= 1 << 21
]
PREFILL_CASES = [PrefillCase(n) for n in (2048, 4096, 8192, 16384)]
EXPERTS_CASES = [ExpertsCase(n) for n in (1, 16, 64, 256, 4096)]
# Outputs in bf16 of two right kernels differ by no more than this.
_NEAR = 2e-2


def measure_kernels(
    decode: Sequence[DecodeCase] = tuple(DECODE_CASES),
    prefill: Sequence[PrefillCase] = tuple(PREFILL_CASES),
    experts: Sequence[ExpertsCase] = tuple(EXPERTS_CASES),
    advance: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """The ceilings, and a row a case: its engines' microseconds, or why none."""
    limits = ceilings()
    rows: list[dict[str, Any]] = []
    for case in decode:
        advance(f"decode, {case.name}")
        problems = decode_problems(case)
        engines = _engines(attention_engines.DECODE, problems)
        rows.append(
            {
                "kernel": "decode attention",
                "case": case.name,
                "cache_mib": round(case.cache_bytes / 2**20, 1),
                "floor_us": case.moved_bytes / limits["bytes_per_second"] * 1e6,
                "engines": engines,
            }
        )
        del problems
        torch.cuda.empty_cache()
    for prefill_case in prefill:
        advance(f"prefill, {prefill_case.name}")
        problem = prefill_problem(prefill_case)
        rows.append(
            {
                "kernel": "prefill attention",
                "case": prefill_case.name,
                "floor_us": prefill_case.operations / limits["flops_per_second"] * 1e6,
                "operations": prefill_case.operations,
                "engines": _engines(attention_engines.PREFILL, [problem]),
            }
        )
    for experts_case, drawn in zip(experts, experts_problems(experts), strict=True):
        advance(f"experts, {experts_case.name}")
        moved = max(experts_case.moved_bytes(problem.used) for problem in drawn)
        seconds = (
            moved / limits["bytes_per_second"],
            experts_case.operations / limits["flops_per_second"],
        )
        rows.append(
            {
                "kernel": "expert products",
                "case": experts_case.name,
                "floor_us": max(seconds) * 1e6,
                "engines": _engines(expert_engines.ENGINES, drawn),
            }
        )
    return {"ceilings": limits, "rows": rows, "summary": summary(rows)}


def _engines(makers: dict[str, Any], problems: list[Any]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    expected: torch.Tensor | None = None
    for name, make in makers.items():
        try:
            calls = [make(problem) for problem in problems]
            output = calls[0]().float()
            results[name] = {"us": seconds_a_call(calls) * 1e6}
        except Exception as error:  # whatever a foreign library raises
            if name == "porter":
                raise
            results[name] = {"failed": f"{type(error).__name__}: {error}"[:200]}
            continue
        if expected is None:
            expected = output
        error_ = float((output - expected).norm() / expected.norm())
        results[name]["difference"] = error_
        if not error_ < _NEAR:
            results[name]["failed"] = f"another result, by {error_:.3f}"
    return results


def summary(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """The figures that the table is about.

    decode_bandwidth: the least share of the copy's bandwidth where more than 64 MiB of
    cache are read. <kernel>_vs_<peer>: our speed over the peer's, geometric mean.
    """
    figures: dict[str, float] = {}
    ratios: dict[str, list[float]] = {}
    for row in rows:
        kind, ours = row["kernel"].split()[0], row["engines"]["porter"]["us"]
        if row.get("cache_mib", 0) > 64:
            share = row["floor_us"] / ours
            key = "decode_bandwidth"
            figures[key] = min(figures.get(key, math.inf), share)
        for peer, result in row["engines"].items():
            if peer != "porter" and "failed" not in result:
                ratios.setdefault(f"{kind}_vs_{peer}", []).append(result["us"] / ours)
    for name, each in ratios.items():
        figures[name] = math.exp(sum(map(math.log, each)) / len(each))
        figures[f"{name}_least"] = min(each)
    return figures
