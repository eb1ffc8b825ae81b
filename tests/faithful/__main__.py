"""`python -m tests.faithful [--only NAME] [--kind KIND] [--model M] [--tp2 all]`"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faithful.catalogue import CATALOGUE, HANDFUL
from tests.faithful.judge import Judgement, judge
from tests.faithful.mutation import Mutation
from tests.faithful.pins import write_pins
from tests.faithful.report import details, line, summary, totals


def main(argv: list[str] | None = None) -> int:
    """Judge the catalogue, or a part of it; exit 0 where every bar is met."""
    parser = argparse.ArgumentParser(prog="python -m tests.faithful")
    parser.add_argument("--only", help="names that contain this")
    parser.add_argument("--kind", help="one heading of the catalogue")
    parser.add_argument("--model", help="one of the six sources")
    parser.add_argument(
        "--tp2",
        choices=("none", "some", "all"),
        default="some",
        help="which entries are judged at tensor parallel 2 as well",
    )
    parser.add_argument(
        "--pin",
        action="store_true",
        help="rewrite refused_today.txt from what was refused, after a whole run",
    )
    parser.add_argument("--keep", type=Path, help="leave ports and checkpoints here")
    options = parser.parse_args(argv)
    chosen = [mutation for mutation in CATALOGUE if _chosen(mutation, options)]
    if not chosen:
        parser.error("no entry matches")
    start = time.perf_counter()
    rows: list[Judgement] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        for mutation in chosen:
            sizes = (1, 2) if _at_tp2(mutation, options.tp2) else (1,)
            rows.append(judge(mutation, folder / mutation.name, tp_sizes=sizes))
            print(line(rows[-1]), flush=True)
    for text in ("", *details(rows), "", *summary(totals(rows))):
        print(text)
    if options.pin and len(rows) == len(CATALOGUE):
        write_pins(rows)
    print(f"{time.perf_counter() - start:.0f} s")
    return 0 if totals(rows).passed else 1


def _at_tp2(mutation: Mutation, which: str) -> bool:
    if which == "some":
        return mutation.name in HANDFUL
    return which == "all" and mutation.tp2


def _chosen(mutation: Mutation, options: argparse.Namespace) -> bool:
    return (
        (options.only is None or options.only in mutation.name)
        and (options.kind is None or options.kind == mutation.kind)
        and (options.model is None or options.model == mutation.model)
    )


if __name__ == "__main__":
    sys.exit(main())
