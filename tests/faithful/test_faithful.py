"""The suite under pytest: one test a mutation, and the bars over all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faithful.catalogue import CATALOGUE, HANDFUL
from tests.faithful.judge import Judgement, Verdict, judge
from tests.faithful.mutation import Mutation
from tests.faithful.report import summary, totals

WRONG = {Verdict.SILENTLY_WRONG, Verdict.CRASHED, Verdict.BROKEN, Verdict.ELSEWHERE}


@pytest.fixture(scope="module")
def judged() -> Iterator[dict[str, Judgement]]:
    yield {}


@pytest.mark.parametrize("mutation", CATALOGUE, ids=lambda m: m.name)
def test_followed_or_refused(
    mutation: Mutation, tmp_path: Path, judged: dict[str, Judgement]
) -> None:
    result = judge(mutation, tmp_path)
    judged[mutation.name] = result
    assert result.verdict not in WRONG, f"{result.rmse} {result.detail}"
    if mutation.mixes_tokens:
        assert result.verdict is Verdict.REFUSED


def test_most_of_what_can_be_expressed_is_ported(judged: dict[str, Judgement]) -> None:
    if len(judged) < len(CATALOGUE):
        pytest.skip("only with the whole catalogue judged in this process")
    sums = totals(judged.values())
    assert sums.passed, "\n".join(summary(sums))


@pytest.mark.parametrize("name", HANDFUL)
def test_tensor_parallel_two(name: str, tmp_path: Path) -> None:
    (mutation,) = (m for m in CATALOGUE if m.name == name)
    result = judge(mutation, tmp_path, tp_sizes=(1, 2))
    assert result.verdict not in WRONG, f"{result.rmse} {result.detail}"
