"""Draws without a sort are those of sorted, truncated, added up probabilities."""

import pytest
import torch

from porter.runtime.kernels.sample import sample_tokens
from porter.runtime.request import SamplingParams
from porter.runtime.sampler import truncated_probabilities
from tests.kernels.close import DEVICE, DTYPES

# (temperature, top_k, top_p)
KINDS = [
    (1.0, 0, 1.0),
    (0.0, 0, 1.0),
    (0.7, 5, 1.0),
    (1.3, 1, 1.0),
    (1.0, 0, 0.6),
    (1.0, 0, 0.05),
    (2.0, 40, 0.8),
    (1.0, 1000, 0.999),
]


def draw(logits: torch.Tensor, kinds: list[tuple], uniforms: list[float], gpu: bool):
    columns = [
        torch.tensor(column, dtype=torch.float32, device=DEVICE)
        for column in (*zip(*kinds, strict=True), uniforms)
    ]
    sample = sample_tokens.on_gpu if gpu else sample_tokens.reference
    return sample(logits, *columns).tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [7, 300])
def test_draws_are_the_references(dtype: torch.dtype, size: int) -> None:
    for _ in range(3):
        logits = (3 * torch.randn(len(KINDS), size)).to(DEVICE, dtype)
        uniforms = torch.rand(len(KINDS)).tolist()
        expected = draw(logits, KINDS, uniforms, gpu=False)
        assert draw(logits, KINDS, uniforms, gpu=True) == expected


@pytest.mark.parametrize("kind", KINDS[2:], ids=str)
def test_only_kept_tokens_at_both_ends(kind: tuple[float, int, float]) -> None:
    """The smallest and the largest number draw the first and the last kept token."""
    logits = 2 * torch.randn(1, 200, device=DEVICE)
    temperature, top_k, top_p = kind
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    kept = truncated_probabilities(logits[0].cpu(), params).nonzero()[:, 0].tolist()
    got = [draw(logits, [kind], [u], gpu=True)[0] for u in (0.0, 1 - 2**-24)]
    assert got == [kept[0], kept[-1]]


def test_equal_logits_are_kept_in_order() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 1.0, 1.0, 0.0]], device=DEVICE)
    three = draw(logits, [(1.0, 2, 1.0)], [0.99], gpu=True)  # ties with the second
    assert three == [4]
    share = float(torch.tensor([1.0]).exp() / logits[0].cpu().exp().sum())
    for count, last in ((0.5, 1), (1.5, 3), (2.5, 4)):
        kind = (1.0, 0, count * share)
        assert draw(logits, [kind], [0.99], gpu=True) == [last]
        assert draw(logits, [kind], [0.99], gpu=False) == [last]
    assert draw(logits, [(0.0, 0, 1.0)], [0.5], gpu=True) == [1]


def test_frequencies() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.5, -1.0, -3.0]], device=DEVICE)
    steps = 40
    uniforms = [(i + 0.5) / steps for i in range(steps)]
    many = logits.expand(steps, -1).contiguous()
    drawn = draw(many, [(1.0, 3, 1.0)] * steps, uniforms, gpu=True)
    expected = logits[0, :3].softmax(-1).tolist()
    for token, probability in enumerate(expected):
        assert drawn.count(token) / steps == pytest.approx(probability, abs=1 / steps)
