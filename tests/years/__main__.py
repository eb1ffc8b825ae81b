"""python -m tests.years RELEASE... [--only ARCH...] [--tp N...] [--convert-only]

RELEASE is a folder with a transformers package, made by
    pip install --no-deps --target DIR transformers==4.46.3
(and beside it the tokenizers and huggingface_hub that it asks for). Lists the attention
decoders of each release: converted, verified against that release's own model, refused
and why. With --unless RELEASE only those that another release doesn't have. Exit code 1
where one differs or fails.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

from porter.console import print_table, say
from porter.release import version_of
from tests.years.sweep import Outcome, decoders, run_release


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.years", description=__doc__)
    parser.add_argument("releases", nargs="+", type=Path, metavar="RELEASE")
    parser.add_argument("--only", nargs="*", default=[], metavar="ARCH")
    parser.add_argument("--unless", type=Path, metavar="RELEASE")
    parser.add_argument("--tp", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--convert-only", action="store_true")
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    outcomes: dict[str, list[Outcome]] = {}
    found: dict[str, list[Outcome]] = {}
    for release in arguments.releases:
        names = list(arguments.only)
        if arguments.unless is not None:
            known = {s.architecture for s, _ in decoders(arguments.unless)}
            mine = {s.architecture for s, _ in decoders(release)} - known
            names = sorted(mine & set(names) if names else mine)
        version = version_of(release.resolve() / "transformers")
        found[version] = []
        outcomes[version] = run_release(
            release.resolve(),
            names,
            convert_only=arguments.convert_only,
            ranks=arguments.tp,
            workers=arguments.workers,
            finished=partial(told, found, version, arguments.json),
        )
        show(version, outcomes[version])
    every = [o for each in outcomes.values() for o in each]
    return 1 if any(o.status in ("differs", "failed") for o in every) else 0


def told(
    found: dict[str, list[Outcome]], version: str, file: Path | None, new: Outcome
) -> None:
    """Say what became of one class, and write all so far: a sweep that is cut leaves it."""
    what = f"{new.status} {new.reason or _error(new)}".rstrip()
    say(f"{new.architecture} tp {new.tp}: {what}", sys.stderr)
    found[version].append(new)
    if file is not None:
        each = {v: [asdict(o) for o in some] for v, some in found.items()}
        file.write_text(json.dumps(each, indent=2) + "\n", encoding="utf-8")


def show(version: str, outcomes: list[Outcome]) -> None:
    """The table of one release and its totals, for all and for the dense ones."""
    rows = [
        (o.architecture, o.category, o.tp or "", o.status, o.reason or _error(o))
        for o in outcomes
    ]
    print_table(
        [f"transformers {version}", "kind", "tp", "became", "why, or rel RMSE"], rows
    )
    everything = {o.category for o in outcomes}
    for kinds in ({"attention"}, everything):
        chosen = [o for o in outcomes if o.category in kinds]
        verified: list[int | None] = [*sorted({o.tp for o in chosen if o.tp})]
        for tp in verified or [None]:
            one = [o for o in chosen if o.tp in (tp, None)]
            counts = Counter(o.status for o in one)
            good = counts["verified"] + counts["converted"]
            share = 100 * good / len(one) if one else 0.0
            told = ", ".join(f"{n} {status}" for status, n in counts.most_common())
            name = f"{version}, {'+'.join(sorted(kinds))}"
            say(f"{name}, tp {tp}: {len(one)}: {told}; {share:.0f}%")


def _error(outcome: Outcome) -> str:
    return "" if outcome.rel_rmse is None else f"{outcome.rel_rmse:.1e}"


if __name__ == "__main__":
    sys.exit(main())
