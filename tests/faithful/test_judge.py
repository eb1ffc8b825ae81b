"""The judge can fail: every verdict is reached with a compiler made to earn it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from porter.gap import Gap, Refused
from tests.faithful.catalogue import CATALOGUE
from tests.faithful.judge import Judgement, Verdict, convert_source, judge
from tests.faithful.report import counts_as_expressible, totals
from tests.reference.sources import SIX, exec_source, release, source_text
from tests.reference.tiny import build, logits, tiny_config

BY_NAME = {mutation.name: mutation for mutation in CATALOGUE}
CHANGE = BY_NAME["norm-eps-outside-root"]
MIXER = BY_NAME["tokens-roll"]


def faithful_convert(path: Path, text: str) -> Any:
    return SimpleNamespace(text=text, file_name=path.name)


def deaf_convert(path: Path, text: str) -> Any:
    """A compiler that recognises a norm by its name and writes the usual one."""
    return SimpleNamespace(text=path.read_text(encoding="utf-8"), file_name=path.name)


def run_as_hf(
    port: Path, checkpoint: Path, ids: list[list[int]], tp: int
) -> list[torch.Tensor]:
    """An engine for these two: the "port" is an HF source."""
    model_type = port.stem.removeprefix("modeling_")
    module = exec_source(model_type, port.read_text(encoding="utf-8"))
    try:
        config = tiny_config(model_type)
        model = build(module, SIX[model_type].causal_lm, config)
        return [logits(model, prompt) for prompt in ids]
    finally:
        release(module)


def refusing_at(line: int) -> Any:
    def convert(path: Path, text: str) -> Any:
        raise Refused([Gap(str(path), line, "seen", "do")])

    return convert


@pytest.mark.parametrize("name", ["norm-eps-outside-root", "clamp-v", "scale-twice"])
def test_port_of_the_unmutated_source_is_silently_wrong(
    name: str, tmp_path: Path
) -> None:
    verdict = judge(BY_NAME[name], tmp_path, deaf_convert, run_as_hf)
    assert verdict.verdict is Verdict.SILENTLY_WRONG
    assert verdict.rmse is not None and verdict.rmse > 1e-3
    assert not totals([verdict]).passed


def test_port_that_follows_is_ported(tmp_path: Path) -> None:
    verdict = judge(CHANGE, tmp_path, faithful_convert, run_as_hf)
    assert verdict.verdict is Verdict.PORTED
    assert totals([verdict]).passed


def test_nan_is_silently_wrong(tmp_path: Path) -> None:
    def run(*arguments: Any) -> list[torch.Tensor]:
        return [out * float("nan") for out in run_as_hf(*arguments)]

    verdict = judge(CHANGE, tmp_path, faithful_convert, run)
    assert verdict.verdict is Verdict.SILENTLY_WRONG


def test_mixer_refused_on_its_line_only(tmp_path: Path) -> None:
    (line,) = MIXER.apply()[1]
    assert "torch.roll" in MIXER.apply()[0].splitlines()[line - 1]
    there = judge(MIXER, tmp_path, refusing_at(line), run_as_hf)
    assert there.verdict is Verdict.REFUSED
    elsewhere = judge(MIXER, tmp_path, refusing_at(line + 1), run_as_hf)
    assert elsewhere.verdict is Verdict.ELSEWHERE
    assert not totals([elsewhere]).passed


def test_refusing_everything_fails(tmp_path: Path) -> None:
    refused = judge(CHANGE, tmp_path, refusing_at(1), run_as_hf)
    assert refused.verdict is Verdict.REFUSED
    assert not totals([refused]).passed


def test_crash_and_broken_port_are_findings(tmp_path: Path) -> None:
    def crash(path: Path, text: str) -> Any:
        raise KeyError("x")

    def cannot_run(*arguments: Any) -> Any:
        raise RuntimeError("no")

    crashed = judge(CHANGE, tmp_path, crash, run_as_hf)
    assert crashed.verdict is Verdict.CRASHED
    broken = judge(CHANGE, tmp_path, faithful_convert, cannot_run)
    assert broken.verdict is Verdict.BROKEN
    assert not totals([crashed]).passed and not totals([broken]).passed


def test_wrong_at_tp_two_alone_is_silently_wrong(tmp_path: Path) -> None:
    def run(port: Path, checkpoint: Path, ids: Any, tp: int) -> list[torch.Tensor]:
        return [out * tp for out in run_as_hf(port, checkpoint, ids, tp)]

    verdict = judge(CHANGE, tmp_path, faithful_convert, run, tp_sizes=(1, 2))
    assert (verdict.verdict, verdict.tp) == (Verdict.SILENTLY_WRONG, 2)


def test_bar_of_ported_changes() -> None:
    changes = [m for m in CATALOGUE if counts_as_expressible(m)][:20]
    rows = [Judgement(m, Verdict.PORTED) for m in changes[:17]]
    rows += [Judgement(m, Verdict.REFUSED) for m in changes[17:]]
    assert totals(rows).passed
    rows[0] = Judgement(changes[0], Verdict.REFUSED)
    assert not totals(rows).passed


@pytest.mark.parametrize("name", ["norm-eps-outside-root", "clamp-v"])
def test_real_port_of_the_unmutated_source_is_silently_wrong(
    name: str, tmp_path: Path
) -> None:
    """The whole path, compiler and runtime, with the mutation kept from it."""
    mutation = BY_NAME[name]

    def deaf(path: Path, text: str) -> Any:
        return convert_source(path, source_text(mutation.model))

    assert judge(mutation, tmp_path, deaf).verdict is Verdict.SILENTLY_WRONG
