"""Choose the next tokens."""

import torch

from porter.runtime.request import Request, SamplingParams


def sample(logits: torch.Tensor, requests: list[Request]) -> list[int]:
    """One token for each request; logits: [num_requests, vocab_size], any dtype.

    Log probabilities, where asked, are appended to the requests; they are those of
    the model, before temperature and truncation.
    """
    logits = logits.float()
    chosen: list[int] = logits.argmax(dim=-1).tolist()
    for row, request in enumerate(requests):
        if request.params.temperature > 0:
            chosen[row] = _draw(logits[row], request)
    for row, request in enumerate(requests):
        if request.params.logprobs is not None:
            request.logprobs.append(
                _logprobs(logits[row], chosen[row], request.params.logprobs)
            )
    return chosen


def _draw(logits: torch.Tensor, request: Request) -> int:
    if request.generator is None:
        request.generator = torch.Generator()
        seed = request.params.seed
        if seed is None:
            request.generator.seed()
        else:
            request.generator.manual_seed(seed)
    probabilities = truncated_probabilities(logits.cpu(), request.params)
    return int(torch.multinomial(probabilities, 1, generator=request.generator))


def truncated_probabilities(
    logits: torch.Tensor, params: SamplingParams
) -> torch.Tensor:
    """[vocab_size] fp32 after temperature, then top-k, then top-p.

    Top-p keeps the smallest set of likeliest tokens whose probability reaches p
    (Holtzman et al., arXiv 1904.09751).
    """
    logits = logits / params.temperature
    if 0 < params.top_k < len(logits):
        smallest_kept = logits.topk(params.top_k).values[-1]
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    probabilities = logits.softmax(dim=-1)
    if params.top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered.masked_fill(before >= params.top_p, 0.0)
    return torch.zeros_like(probabilities).scatter(0, order, ordered)


def _logprobs(logits: torch.Tensor, token: int, count: int) -> dict[int, float]:
    logprobs = logits.log_softmax(dim=-1)
    top = logprobs.topk(min(count, len(logprobs)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return {**dict(pairs), token: float(logprobs[token])}
