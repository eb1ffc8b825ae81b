"""The table of the suite and its totals, on 80 columns."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.faithful.judge import Judgement, Verdict
from tests.faithful.mutation import Mutation

PORTED_SHARE = 0.85


@dataclass(frozen=True)
class Totals:
    """Counts over the judgements; controls count only where something went wrong.

    expressible, ported: changes that a vLLM file can express, and those of them ported.
    mixers, refused_on_line: token mixers, and those refused on the mutated line.
    """

    cases: int
    silently_wrong: int
    broken: int
    expressible: int
    ported: int
    mixers: int
    refused_on_line: int
    inexpressible: int
    inexpressible_refused: int
    either: int
    either_ported: int
    controls: int
    controls_ported: int

    @property
    def share(self) -> float:
        return self.ported / self.expressible if self.expressible else 1.0

    @property
    def passed(self) -> bool:
        return (
            self.silently_wrong == 0
            and self.broken == 0
            and self.share >= PORTED_SHARE
            and self.refused_on_line == self.mixers
        )


def counts_as_expressible(mutation: Mutation) -> bool:
    """A change of arithmetic that a vLLM file can compute: the 85% is of these."""
    return not (mutation.must_refuse or mutation.either or mutation.control)


def totals(judgements: Iterable[Judgement]) -> Totals:
    rows = list(judgements)
    changes = [row for row in rows if not row.mutation.control]
    expressible = [row for row in changes if counts_as_expressible(row.mutation)]
    either = [row for row in changes if row.mutation.either]
    mixers = [row for row in changes if row.mutation.mixes_tokens]
    others = [
        row
        for row in changes
        if row.mutation.must_refuse and not row.mutation.mixes_tokens
    ]
    controls = [row for row in rows if row.mutation.control]

    def count(group: list[Judgement], *verdicts: Verdict) -> int:
        return sum(row.verdict in verdicts for row in group)

    return Totals(
        cases=len(rows),
        silently_wrong=count(rows, Verdict.SILENTLY_WRONG),
        broken=count(rows, Verdict.CRASHED, Verdict.BROKEN),
        expressible=len(expressible),
        ported=count(expressible, Verdict.PORTED),
        mixers=len(mixers),
        refused_on_line=count(mixers, Verdict.REFUSED),
        inexpressible=len(others),
        inexpressible_refused=count(others, Verdict.REFUSED),
        either=len(either),
        either_ported=count(either, Verdict.PORTED),
        controls=len(controls),
        controls_ported=count(controls, Verdict.PORTED),
    )


def wanted(row: Judgement) -> str:
    if row.mutation.control:
        return "port, equal"
    if row.mutation.mixes_tokens:
        return "refuse there"
    if row.mutation.either:
        return "either"
    return "port" if row.mutation.expressible else "refuse"


def line(row: Judgement) -> str:
    evidence = "" if row.rmse is None else f"{row.rmse:.0e}"
    if row.tp > 1:
        evidence += f" tp{row.tp}"
    verdict = row.verdict.value
    left = f"{row.mutation.name:30} {row.mutation.model:9} {wanted(row):12}"
    return f"{left} {verdict:17} {evidence}".rstrip()


def details(rows: Iterable[Judgement]) -> list[str]:
    """One line for each row that isn't what was wanted, with the reason."""
    fine = {
        "port": (Verdict.PORTED,),
        "port, equal": (Verdict.PORTED,),
        "either": (Verdict.PORTED, Verdict.REFUSED),
        "refuse": (Verdict.REFUSED,),
        "refuse there": (Verdict.REFUSED,),
    }
    return [
        f"{row.mutation.name}: {row.verdict.value}: {row.detail or row.rmse}"
        for row in rows
        if row.verdict not in fine[wanted(row)]
    ]


def summary(sums: Totals) -> list[str]:
    return [
        f"cases                                   {sums.cases}",
        f"silently wrong            (must be 0)   {sums.silently_wrong}",
        f"crashed or broken         (must be 0)   {sums.broken}",
        f"expressible, ported       (>= 85%)      {sums.ported}/{sums.expressible}"
        f" = {sums.share:.1%}",
        f"token mixers, on the line (all)         {sums.refused_on_line}/{sums.mixers}",
        f"inexpressible, refused                  {sums.inexpressible_refused}"
        f"/{sums.inexpressible}",
        f"aliases and bindings, ported (or refused) {sums.either_ported}/{sums.either}",
        f"controls, ported and equal              {sums.controls_ported}"
        f"/{sums.controls}",
    ]
