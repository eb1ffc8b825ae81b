"""Each criterion on traces written by hand."""

import math

import torch

from porter.verify.comparison import (
    compare,
    first_difference,
    logprobs_close,
    logprobs_diff,
    rel_rmse,
)
from porter.verify.trace import Trace


def trace(logits: list[list[float]], tokens: list[int] | None = None) -> Trace:
    steps = torch.tensor(logits)
    log = torch.log_softmax(steps, dim=-1)
    top = log.topk(5, dim=-1)
    return Trace(
        prompt=[1, 2],
        logits=steps,
        tokens=tokens or steps.argmax(-1).tolist(),
        logprobs=[
            dict(zip(i, v, strict=True))
            for i, v in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ],
        steps=steps,
    )


ROW = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_rel_rmse_is_relative_to_the_reference() -> None:
    reference = torch.tensor([[3.0, 4.0]])
    assert rel_rmse(reference, reference) == 0.0
    assert math.isclose(rel_rmse(reference, reference * 1.01), 0.01, rel_tol=1e-4)
    assert math.isclose(rel_rmse(100 * reference, 101 * reference), 0.01, rel_tol=1e-4)


def test_rel_rmse_of_masked_and_broken_logits() -> None:
    masked = torch.tensor([[1.0, -math.inf]])
    assert rel_rmse(masked, masked) == 0.0
    assert not rel_rmse(masked, torch.tensor([[1.0, 5.0]])) <= 1e-4
    assert math.isnan(rel_rmse(masked, torch.tensor([[math.nan, -math.inf]])))
    assert math.isnan(rel_rmse(masked, torch.zeros(1, 3)))


def test_the_worst_prompt_counts() -> None:
    good, bad = trace([ROW, ROW]), trace([ROW, [2 * x for x in ROW]])
    comparison = compare([good, good], [good, bad])
    assert comparison.logits_rel_rmse > 0.5
    assert comparison.tokens_equal == [True, True]
    assert comparison.logprobs_diff > 0.1


def test_a_tie_is_reported_and_is_not_equal() -> None:
    reference = trace([ROW[:-1] + [5.0 + 1e-6]])
    other = trace([ROW], tokens=[5])
    comparison = compare([reference], [other])
    assert comparison.tokens_equal == [False]
    assert comparison.tokens_equal_or_tied
    assert [tie.step for tie in comparison.ties] == [0]


def test_a_close_second_is_no_tie() -> None:
    reference = trace([ROW[:-1] + [5.01]])
    comparison = compare([reference], [trace([ROW], tokens=[5])])
    assert not comparison.ties and not comparison.tokens_equal_or_tied
    assert comparison.logprobs_close


def test_logprobs_close_looks_at_the_first_difference_only() -> None:
    reference = trace([ROW, ROW])
    second_likeliest = trace([ROW, ROW], tokens=[5, 0])
    assert first_difference(reference, second_likeliest) == 0
    assert logprobs_close(reference, second_likeliest)
    sixth = trace([ROW, ROW], tokens=[1, 6])
    assert not logprobs_close(reference, sixth)


def test_logprobs_close_asks_both_sides() -> None:
    reference = trace([ROW])
    # Our token is in their five likeliest, but theirs is not in ours.
    port = trace([[9.0, 8.0, 0.0, 0.0, 0.0, 7.0, 8.5]])
    assert not logprobs_close(reference, port)


def test_a_shorter_continuation_differs() -> None:
    reference, port = trace([ROW, ROW]), trace([ROW])
    assert first_difference(reference, port) == 1
    assert not logprobs_close(reference, port)
    assert not compare([reference], [port]).tokens_equal_or_tied


def test_logprobs_diff_stops_where_the_prefixes_part() -> None:
    reference = trace([ROW, ROW, ROW])
    parted = trace([ROW, ROW, [x * 3 for x in ROW]], tokens=[6, 5, 6])
    assert logprobs_diff(reference, parted) < 1e-6


def test_the_chosen_token_of_equal_logits_may_be_outside_the_top() -> None:
    """At a soft cap all logits are equal: argmax and topk break the tie differently."""
    flat = trace([[1.0] * 8])
    chosen = next(t for t in range(8) if t not in flat.logprobs[0])
    reference = Trace(**{**vars(flat), "tokens": [chosen]})
    reported = {**flat.logprobs[0], chosen: -math.log(8)}
    port = Trace(**{**vars(reference), "logprobs": [reported], "steps": None})
    assert logprobs_diff(reference, port) < 1e-6
    blind = Trace(**{**vars(reference), "steps": None})
    assert not logprobs_diff(blind, blind) < 1e-6
