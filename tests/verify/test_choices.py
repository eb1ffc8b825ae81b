"""How near a tie a model chooses, and checkpoints that don't."""

from pathlib import Path

import pytest
import torch
import transformers

from porter.verify import checkpoint
from porter.verify.checkpoint import make_checkpoint
from porter.verify.choices import LEAST_CHOICE, WatchChoices, is_near
from porter.verify.trace import Trace
from porter.verify.verification import _near_choices


def test_the_last_taken_and_the_first_left_out() -> None:
    values = torch.tensor([[4.0, 1.0, 2.0, 2.5], [0.0, 3.0, 9.0, 3.0001]])
    with WatchChoices() as seen:
        torch.topk(values, 2, dim=-1)
    assert seen.margin == pytest.approx(1e-4 / float(values[1].std(correction=0)), 1e-2)
    with WatchChoices() as seen:
        values.t().topk(2, 0, sorted=False)
    assert seen.margin is not None and is_near(seen.margin) is False


def test_what_a_mask_leaves_out_is_no_tie() -> None:
    inf = float("-inf")
    values = torch.tensor([[4.0, 1.0, inf, inf], [1.0, 2.0, 0.0, 0.0]])
    with WatchChoices() as seen:
        values.topk(3, dim=-1)  # the third is one of two that are the same
        values.topk(4, dim=-1)
        values.long().topk(1)
        values.max()
    assert seen.margin is None


def test_the_largest_is_a_choice_too() -> None:
    values = torch.tensor([[4.0, 1.0, 3.99999]])
    for choose in (lambda: values.max(dim=-1), lambda: torch.max(values, -1)):
        with WatchChoices() as seen:
            choose()
        assert is_near(seen.margin)


def test_another_draw_where_the_first_is_near_a_tie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = transformers.MixtralForCausalLM
    first = make_checkpoint(cls, tmp_path / "first")
    assert first.choice is not None and first.choice >= LEAST_CHOICE
    monkeypatch.setattr(checkpoint, "is_near", lambda m: m <= first.choice)
    second = make_checkpoint(cls, tmp_path / "second")
    again = make_checkpoint(cls, tmp_path / "again")
    assert second.choice != first.choice and second.choice == again.choice


def test_a_failure_tells_of_choices_near_a_tie() -> None:
    def trace(choice: float | None) -> Trace:
        return Trace([1], torch.zeros(1, 2), [0], [{0: 0.0}], choice=choice)

    assert _near_choices([trace(None), trace(1e-2)]) == []
    (said,) = _near_choices([trace(2e-6), trace(1e-2)])
    assert "2e-06 from a tie" in said
