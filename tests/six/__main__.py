"""python -m tests.six [MODEL...] [--engine vllm] [--setup tp1 tp2 ...] [--json FILE]

Prints the acceptance matrix as one table; exit code 1 where a row doesn't pass. By
default the bundled runtime on one rank and on two, or vLLM at TP 1, TP 2 and PP 2, each
eager and compiled.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from porter.console import print_table, say
from tests.six.configs import CONFIGS
from tests.six.matrix import Row, Setup, run_matrix, timed

SPLITS = {"tp1": (1, 1), "tp2": (2, 1), "pp2": (1, 2), "tp2xpp2": (2, 2)}
SETUPS = {
    f"{name}{mode}": Setup(tp, pp, compiled=bool(mode))
    for name, (tp, pp) in SPLITS.items()
    for mode in ("", "-compiled")
}
DEFAULT = {
    "porter": ["tp1", "tp2"],
    "vllm": [name for name in SETUPS if not name.startswith("tp2xpp2")],
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.six", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(CONFIGS))
    parser.add_argument("--engine", choices=list(DEFAULT), default="porter")
    parser.add_argument("--setup", nargs="+", choices=list(SETUPS), metavar="SETUP")
    parser.add_argument("--only", default="", help="configs whose name has these words")
    parser.add_argument("--configs", type=int, metavar="N", help="at most, a model")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(CONFIGS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    setups = [SETUPS[name] for name in arguments.setup or DEFAULT[arguments.engine]]
    if arguments.engine == "porter" and any(setup.compiled for setup in setups):
        parser.error("the bundled runtime has no torch.compile")
    rows, seconds = timed(
        lambda: run_matrix(
            arguments.models or list(CONFIGS),
            setups,
            workers=arguments.workers,
            engine=arguments.engine,
            only=arguments.only,
            most=arguments.configs,
            finished=lambda done: say(done, sys.stderr),
        )
    )
    show(rows, seconds)
    if arguments.json:
        arguments.json.write_text(json.dumps([_record(row) for row in rows], indent=2))
    return 0 if rows and all(row.passed for row in rows) else 1


def show(rows: list[Row], seconds: float) -> None:
    """The table, why rows failed, and the counts."""
    print_table(
        ["model", "config", "setup", "rel RMSE", "equal", "unused", "uninit", "pass"],
        [_cells(row) for row in rows],
        right=["rel RMSE", "equal", "unused", "uninit"],
    )
    for row in rows:
        if not row.passed:
            say(f"{row.model}, {row.config}, {row.setup}: {_why(row)}")
    passed = sum(row.passed for row in rows)
    say(f"{passed} of {len(rows)} pass, {seconds:.0f} s")
    for setup in dict.fromkeys(row.setup for row in rows):
        _summarise(setup, [row for row in rows if row.setup == setup])


def _summarise(setup: Setup, rows: list[Row]) -> None:
    """Of one setup: how many rows pass, and the largest error that was seen."""
    passed = sum(row.passed for row in rows)
    results = [row.result for row in rows if row.result is not None]
    error = max((r.logits_rel_rmse for r in results), default=float("nan"))
    equal = sum(all(r.tokens_equal) for r in results)
    say(
        f"  {setup}: {passed} of {len(rows)} pass, all tokens equal in {equal}, "
        f"rel RMSE at most {error:.1e}"
    )


def _cells(row: Row) -> tuple[str, ...]:
    result = row.result
    if result is None:
        return (row.model, row.config, str(row.setup), "-", "-", "-", "-", "ERROR")
    return (
        row.model,
        row.config,
        str(row.setup),
        f"{result.logits_rel_rmse:.1e}",
        f"{sum(result.tokens_equal)}/{len(result.tokens_equal)}",
        str(len(result.unused_weights)),
        str(len(result.uninitialised_weights)),
        "yes" if result.passed else "NO",
    )


def _why(row: Row) -> str:
    if row.result is None:
        return row.error
    where = row.result.first_divergence
    return "; ".join(row.result.failures) + (f"; first at {where}" if where else "")


def _record(row: Row) -> dict:
    return {
        "model": row.model,
        "config": row.config,
        "setup": str(row.setup),
        "error": row.error,
        **(row.result.to_json() if row.result else {"passed": False}),
    }


if __name__ == "__main__":
    sys.exit(main())
