"""python -m tests.six [MODEL...] [--tp 1 2] [--only WORDS] [--json FILE]

Prints the acceptance matrix as one table; exit code 1 where a row doesn't pass.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from porter.console import print_table, say
from tests.six.configs import CONFIGS
from tests.six.matrix import Row, run_matrix, timed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.six", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(CONFIGS))
    parser.add_argument("--tp", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--only", default="", help="configs whose name has these words")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(CONFIGS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    rows, seconds = timed(
        lambda: run_matrix(
            arguments.models or list(CONFIGS),
            arguments.tp,
            workers=arguments.workers,
            only=arguments.only,
            finished=lambda model: say(f"{model} done", sys.stderr),
        )
    )
    show(rows, seconds)
    if arguments.json:
        arguments.json.write_text(json.dumps([_record(row) for row in rows], indent=2))
    return 0 if rows and all(row.passed for row in rows) else 1


def show(rows: list[Row], seconds: float) -> None:
    """The table, why rows failed, and the counts."""
    print_table(
        ["model", "config", "tp", "rel RMSE", "equal", "unused", "uninit", "pass"],
        [_cells(row) for row in rows],
        right=["tp", "rel RMSE", "equal", "unused", "uninit"],
    )
    for row in rows:
        if not row.passed:
            say(f"{row.model}, {row.config}, tp {row.tp}: {_why(row)}")
    passed = sum(row.passed for row in rows)
    say(f"{passed} of {len(rows)} pass, {seconds:.0f} s")


def _cells(row: Row) -> tuple[str, ...]:
    result = row.result
    if result is None:
        return (row.model, row.config, str(row.tp), "-", "-", "-", "-", "ERROR")
    return (
        row.model,
        row.config,
        str(row.tp),
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
        "tp": row.tp,
        "error": row.error,
        **(row.result.to_json() if row.result else {"passed": False}),
    }


if __name__ == "__main__":
    sys.exit(main())
