"""Choose the next tokens.

On a CPU each request draws from its own generator. On a GPU all rows are drawn in one
launch, by numbers that follow from a request's seed and the place of the token: either
way a request gets the same tokens alone and in company.
"""

import hashlib
import secrets
from dataclasses import dataclass

import torch

from porter.runtime.kernels.sample import sample_tokens
from porter.runtime.request import Request, SamplingParams


@dataclass(frozen=True)
class Chosen:
    """tokens: [num_requests] int64, where the logits are; on a GPU perhaps not there
    yet. likeliest: values and indices of the most probable tokens, and own: the log
    probability of each token; where a request wants them."""

    tokens: torch.Tensor
    counts: list[int | None]
    likeliest: tuple[torch.Tensor, torch.Tensor] | None = None
    own: torch.Tensor | None = None
    on_host: torch.Tensor | None = None
    copied: torch.cuda.Event | None = None

    def to_host(self) -> tuple[list[int], list[dict[int, float]]]:
        """The tokens, and of each the asked log probabilities; waits for both."""
        if self.copied is not None:
            self.copied.synchronize()
        tokens = self.tokens if self.on_host is None else self.on_host
        ids: list[int] = tokens.tolist()
        if self.likeliest is None or self.own is None:
            return ids, []
        values, indices = (part.tolist() for part in self.likeliest)
        own = self.own.tolist()
        logprobs = []
        for i, count in enumerate(self.counts):
            pairs = zip(indices[i][:count], values[i][:count], strict=True)
            logprobs.append(
                {**dict(pairs), ids[i]: own[i]} if count is not None else {}
            )
        return ids, logprobs


def choose(logits: torch.Tensor, requests: list[Request]) -> Chosen:
    """One token for each request; logits: [num_requests, vocab_size], any dtype.

    Log probabilities are those of the model, before temperature and truncation.
    """
    if logits.is_cuda:
        tokens = _choose_on_gpu(logits, requests)
    else:
        tokens = logits.float().argmax(dim=-1)
        for row, request in enumerate(requests):
            if request.params.temperature > 0:
                tokens[row] = _draw(logits[row].float(), request)
    counts = [request.params.logprobs for request in requests]
    likeliest = own = None
    if any(count is not None for count in counts):
        logprobs = logits.float().log_softmax(dim=-1)
        most = min(max(count or 0 for count in counts), logprobs.shape[-1])
        top = logprobs.topk(most)
        likeliest = (top.values, top.indices)
        own = logprobs.gather(1, tokens[:, None])[:, 0]
    if not logits.is_cuda:
        return Chosen(tokens, counts, likeliest, own)
    on_host = torch.empty(len(tokens), dtype=torch.int64, pin_memory=True)
    on_host.copy_(tokens, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return Chosen(tokens, counts, likeliest, own, on_host, copied)


def _choose_on_gpu(logits: torch.Tensor, requests: list[Request]) -> torch.Tensor:
    params = [request.params for request in requests]
    if not any(each.temperature > 0 for each in params):
        return logits.argmax(dim=-1)
    rows = [
        (each.temperature, each.top_k, each.top_p, _uniform(request))
        for each, request in zip(params, requests, strict=True)
    ]
    columns = torch.tensor(rows, dtype=torch.float32).t().contiguous().pin_memory()
    return sample_tokens(logits, *columns.to(logits.device, non_blocking=True))


def _uniform(request: Request) -> float:
    """From [0, 1), by the request's seed and how many tokens it has."""
    if request.drawn_seed is None:
        seed = request.params.seed
        request.drawn_seed = secrets.randbits(63) if seed is None else seed
    text = f"{request.drawn_seed} {request.num_tokens}".encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 40) / (1 << 24)


def sample(logits: torch.Tensor, requests: list[Request]) -> list[int]:
    """`choose` at once, log probabilities appended to the requests."""
    tokens, logprobs = choose(logits, requests).to_host()
    for i, request in enumerate(requests):
        if request.params.logprobs is not None:
            request.logprobs.append(logprobs[i])
    return tokens


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
