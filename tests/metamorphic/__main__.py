"""`python -m tests.metamorphic [--model M] [--variant V] [--show]`"""

import argparse
import sys

from tests.metamorphic.judge import Outcome, judge
from tests.metamorphic.variants import VARIANTS
from tests.reference.sources import SIX, source_text


def main(argv: list[str] | None = None) -> int:
    """Print model x variant; exit 0 where every variant gives the same port."""
    parser = argparse.ArgumentParser(prog="python -m tests.metamorphic")
    parser.add_argument("--model", choices=SIX)
    parser.add_argument("--variant", choices=[variant.name for variant in VARIANTS])
    parser.add_argument("--show", action="store_true", help="print the variant's text")
    options = parser.parse_args(argv)
    models = [name for name in SIX if options.model in (None, name)]
    variants = [v for v in VARIANTS if options.variant in (None, v.name)]
    if options.show:
        for model in models:
            for variant in variants:
                print(variant.make(source_text(model))[0])
        return 0
    print(f"{'':12}" + "".join(f"{model:>10}" for model in models))
    outcomes: list[Outcome] = []
    for variant in variants:
        row = [judge(model, variant) for model in models]
        outcomes += row
        words = "".join(f"{outcome.word:>10}" for outcome in row)
        print(f"{variant.name:12}{words}", flush=True)
    for outcome in outcomes:
        if not outcome.same:
            print(f"{outcome.model}, {outcome.variant}: {outcome.first}")
    return _totals(outcomes)


def _totals(outcomes: list[Outcome]) -> int:
    same = sum(outcome.same for outcome in outcomes)
    canonical = sum(outcome.canonical for outcome in outcomes)
    print(f"same up to names                       {same}/{len(outcomes)}")
    print(f"* and to order and single-use locals   {canonical}/{len(outcomes)}")
    return 0 if canonical == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
