"""python -m tests.fuzz [NAME...] [--count N] [--seed S] [--varied] [--json FILE]

Changes the installed sources in one random place each, COUNT times a model, and judges
what porter makes of it. Exit code 1 where a port is silently wrong or porter crashes.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

from porter.convert import convert
from porter.gap import CannotRun, Refused
from porter.verify.reference import class_of_module
from porter.verify.variation import vary
from porter.zoo.listing import Specimen, find
from porter.zoo.processes import TaskFailed, run_each
from tests.fuzz.judge import (
    BROKEN,
    CRASHED,
    WRONG,
    Case,
    Outcome,
    executed_lines,
    judge,
)
from tests.fuzz.mutants import sample

SECONDS = 240  # a case may take


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--count", type=int, default=10, help="changes a model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--varied", action="store_true", help="in the varied config")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    started = time.perf_counter()
    cases = [
        case
        for specimen in find(options.names)
        if _converts(specimen)
        for case in make_cases(specimen, options.count, options.seed, options.varied)
    ]
    outcomes = run(cases, options.workers)
    counts = Counter(outcome.verdict for outcome in outcomes)
    print(", ".join(f"{n} {verdict}" for verdict, n in counts.most_common()))
    print(f"{len(outcomes)} changes in {time.perf_counter() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps([_record(o) for o in outcomes], indent=2))
    bad = [o for o in outcomes if o.verdict in (WRONG, CRASHED)]
    return 1 if bad else 0


def make_cases(
    specimen: Specimen, count: int, seed: int, varied: bool = False
) -> list[Case]:
    """Random changes of one specimen, on lines that its own model runs; none, and a line
    that says why, where it runs in no tiny config."""
    source = class_of_module(specimen.module, specimen.architecture)
    try:
        overrides = vary(source) if varied else {}
        lines = executed_lines(specimen, overrides)
    except CannotRun as error:
        print(f"left out: {error}")
        return []
    text = specimen.path.read_text(encoding="utf-8")
    chosen = sample(text, lines, count, seed)
    return [Case(specimen, mutant, overrides) for mutant in chosen]


def run(cases: list[Case], workers: int) -> list[Outcome]:
    """Judge each case in a process of its own, and print it."""
    import torch

    torch.set_num_threads(1)
    outcomes = []
    for index, result in run_each(judge, cases, workers=workers, timeout=SECONDS):
        if isinstance(result, TaskFailed):
            result = Outcome(cases[index], BROKEN, str(result))
        outcomes.append(result)
        _show(result)
    return outcomes


def _converts(specimen: Specimen) -> bool:
    try:
        convert(specimen.path, arch=specimen.architecture)
    except Refused:
        return False
    return True


def _show(outcome: Outcome) -> None:
    name = outcome.case.specimen.architecture
    detail = f"  [{outcome.detail[:160]}]" if outcome.detail else ""
    print(f"{outcome.verdict:16} {name} {outcome.case.mutant}{detail}", flush=True)


def _record(outcome: Outcome) -> dict[str, object]:
    return {
        "architecture": outcome.case.specimen.architecture,
        "change": str(outcome.case.mutant),
        "verdict": outcome.verdict,
        "detail": outcome.detail,
        "rmse": outcome.rmse,
    }


if __name__ == "__main__":
    sys.exit(main())
