"""The suite under pytest: one test a mutation, and the bar over all of them."""

from pathlib import Path

import pytest

from tests.faithful.catalogue import CATALOGUE, HANDFUL
from tests.faithful.judge import Verdict, judge
from tests.faithful.mutation import Mutation
from tests.faithful.pins import pinned
from tests.faithful.report import PORTED_SHARE, counts_as_expressible

REFUSED_TODAY = pinned()


def expected(mutation: Mutation) -> Verdict:
    if mutation.must_refuse or mutation.name in REFUSED_TODAY:
        return Verdict.REFUSED
    return Verdict.PORTED


@pytest.mark.parametrize("mutation", CATALOGUE, ids=lambda m: m.name)
def test_followed_or_refused(mutation: Mutation, tmp_path: Path) -> None:
    result = judge(mutation, tmp_path)
    assert result.verdict is expected(mutation), f"{result.rmse} {result.detail}"


@pytest.mark.parametrize("name", HANDFUL)
def test_tensor_parallel_two(name: str, tmp_path: Path) -> None:
    (mutation,) = (m for m in CATALOGUE if m.name == name)
    result = judge(mutation, tmp_path, tp_sizes=(1, 2))
    assert result.verdict is expected(mutation), f"{result.rmse} {result.detail}"


def test_most_of_what_can_be_expressed_is_ported() -> None:
    expressible = [m for m in CATALOGUE if counts_as_expressible(m)]
    ported = [m for m in expressible if m.name not in REFUSED_TODAY]
    assert len(ported) / len(expressible) >= PORTED_SHARE


def test_pins_name_entries_that_could_be_ported() -> None:
    could = {mutation.name for mutation in CATALOGUE if not mutation.must_refuse}
    assert could >= REFUSED_TODAY
