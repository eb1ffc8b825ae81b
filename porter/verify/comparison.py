"""Two engines' traces of the same prompts, compared by each criterion of `verify`."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from porter.verify.trace import TOP, Trace

# How far two tokens' logits may be apart, as a fraction of the logits' RMS, for
# their order to be called a tie. The tolerance of the logits themselves.
TIE = 1e-4


@dataclass(frozen=True)
class Tie:
    """The engines chose two tokens that the reference holds as equally likely."""

    prompt: int
    step: int
    gap: float

    def __str__(self) -> str:
        return f"prompt {self.prompt}, token {self.step}: a tie within {self.gap:.1e}"


@dataclass(frozen=True)
class Comparison:
    """How a port's traces differ from the reference's.

    logits_rel_rmse: the worst prompt's, NaN where a logit is NaN or a shape differs.
    tokens_equal: one a prompt; a continuation that leaves the reference's at a tie
    is not equal, and is in `ties`. logprobs_close: the field's criterion.
    logprobs_diff: the largest difference of a chosen token's log probability up to
    and including the first different token (nats).
    """

    logits_rel_rmse: float
    tokens_equal: list[bool]
    ties: list[Tie]
    logprobs_close: bool
    logprobs_diff: float

    @property
    def tokens_equal_or_tied(self) -> bool:
        """Whether each prompt's tokens are the reference's, ties aside."""
        tied = {tie.prompt for tie in self.ties}
        return all(same or i in tied for i, same in enumerate(self.tokens_equal))


def compare(reference: list[Trace], port: list[Trace]) -> Comparison:
    """Compare traces of the same prompts in the same order."""
    pairs = list(zip(reference, port, strict=True))
    ties = [find_tie(i, ref, got) for i, (ref, got) in enumerate(pairs)]
    return Comparison(
        logits_rel_rmse=worst(rel_rmse(ref.logits, got.logits) for ref, got in pairs),
        tokens_equal=[ref.tokens == got.tokens for ref, got in pairs],
        ties=[tie for tie in ties if tie],
        logprobs_close=all(logprobs_close(ref, got) for ref, got in pairs),
        logprobs_diff=worst(logprobs_diff(ref, got) for ref, got in pairs),
    )


def worst(values: Iterable[float]) -> float:
    """The largest value, NaN where one is NaN."""
    values = list(values)
    return math.nan if any(math.isnan(v) for v in values) else max(values, default=0.0)


def rel_rmse(reference: torch.Tensor, port: torch.Tensor) -> float:
    """RMS of the difference over the RMS of the reference, [num_tokens, vocab_size].

    A logit that both hold at the same infinity (a masked token) counts as equal.
    NaN where the shapes differ, and where any other value isn't finite.
    """
    if reference.shape != port.shape:
        return math.nan
    same = reference.isinf() & (reference == port)
    reference, port = reference[~same].double(), port[~same].double()
    difference = (port - reference).square().mean().sqrt()
    scale = reference.square().mean().sqrt()
    return float(difference / scale) if scale else float(difference)


def first_difference(reference: Trace, port: Trace) -> int | None:
    """The first step with another token, None where all are equal."""
    return parting(reference.tokens, port.tokens)


def parting(ours: list[int], theirs: list[int]) -> int | None:
    """The first index at which two token lists differ, or at which one ends."""
    shared = min(len(ours), len(theirs))
    for step in range(shared):
        if ours[step] != theirs[step]:
            return step
    return None if len(ours) == len(theirs) else shared


def find_tie(index: int, reference: Trace, port: Trace) -> Tie | None:
    """The tie at which the continuations part, None where they part otherwise."""
    step = first_difference(reference, port)
    if step is None or reference.steps is None:
        return None
    if step >= min(len(reference.tokens), len(port.tokens)):
        return None
    gap = tie_gap(reference.steps[step], reference.tokens[step], port.tokens[step])
    return Tie(index, step, gap) if gap <= TIE else None


def tie_gap(logits: torch.Tensor, one: int, other: int) -> float:
    """Distance of two tokens' logits, [vocab_size], as a fraction of their RMS."""
    scale = float(logits[logits.isfinite()].square().mean().sqrt())
    return abs(float(logits[one] - logits[other])) / scale


def logprobs_close(reference: Trace, port: Trace) -> bool:
    """At the first different token, is each side's among the other's most likely five?

    What vLLM's own model tests ask of a model (its tests name it
    `check_logprobs_close`); nothing after that token is looked at.
    """
    step = first_difference(reference, port)
    if step is None:
        return True
    if step >= min(len(reference.tokens), len(port.tokens)):
        return False
    return reference.tokens[step] in _likeliest(port.logprobs[step]) and port.tokens[
        step
    ] in _likeliest(reference.logprobs[step])


def _likeliest(logprobs: dict[int, float]) -> set[int]:
    return set(sorted(logprobs, key=lambda token: -logprobs[token])[:TOP])


def logprobs_diff(reference: Trace, port: Trace) -> float:
    """Largest difference of the reference tokens' log probabilities, in nats.

    Up to the first different token: what is decoded after it has another prefix.
    Infinite where one of the two doesn't report the token at all.
    """
    end = first_difference(reference, port)
    shared = min(len(reference.tokens), len(port.tokens))
    differences = [0.0]
    for step in range(shared if end is None else min(end + 1, shared)):
        token = reference.tokens[step]
        ours = _logprob(reference, step, token)
        differences.append(abs(ours - _logprob(port, step, token)))
    return worst(differences)


def _logprob(trace: Trace, step: int, token: int) -> float:
    """In nats; of equal logits (at a soft cap, say) the likeliest few may lack it."""
    if token in trace.logprobs[step]:
        return trace.logprobs[step][token]
    if trace.steps is not None:
        return float(torch.log_softmax(trace.steps[step], dim=-1)[token])
    return math.inf
