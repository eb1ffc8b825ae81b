"""Sampling takes tokens as often as their truncated probabilities say."""

from collections import Counter

import pytest
import torch

from porter.runtime.request import Request, SamplingParams
from porter.runtime.sampler import sample, truncated_probabilities

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])


def test_temperature() -> None:
    params = SamplingParams(temperature=2.0)
    expected = (LOGITS / 2).softmax(-1)
    torch.testing.assert_close(truncated_probabilities(LOGITS, params), expected)


def test_top_k() -> None:
    got = truncated_probabilities(LOGITS, SamplingParams(temperature=1.0, top_k=2))
    expected = torch.cat((LOGITS[:2].softmax(-1), torch.zeros(3)))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.01, 1), (0.6, 1), (0.65, 2), (0.8, 2), (0.99, 4)]
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, kept: int) -> None:
    shuffled = torch.tensor([3, 0, 4, 2, 1])
    params = SamplingParams(temperature=1.0, top_p=top_p)
    got = truncated_probabilities(LOGITS[shuffled], params)
    full = LOGITS.softmax(-1)[shuffled]
    assert [i for i in range(5) if got[i] > 0] == [
        i for i in range(5) if shuffled[i] < kept
    ]
    torch.testing.assert_close(got[got > 0], full[got > 0])


def test_frequencies_and_seeds() -> None:
    params = SamplingParams(temperature=1.0, top_k=3, seed=5)
    first, again = (Request([0], params) for _ in range(2))
    draws = [
        [sample(LOGITS[None], [r])[0] for _ in range(3000)] for r in (first, again)
    ]
    assert draws[0] == draws[1]
    counts = Counter(draws[0])
    assert set(counts) == {0, 1, 2}
    for token, probability in enumerate(LOGITS[:3].softmax(-1).tolist()):
        assert counts[token] / 3000 == pytest.approx(probability, abs=0.03)


def test_greedy_beside_random() -> None:
    greedy = Request([0], SamplingParams(logprobs=1))
    drawn = Request([0], SamplingParams(temperature=1.0, seed=0))
    tokens = sample(LOGITS.expand(2, -1), [greedy, drawn])
    assert tokens[0] == 0
    value = float(LOGITS.log_softmax(-1)[0])
    assert greedy.logprobs == [{0: pytest.approx(value)}] and drawn.logprobs == []
