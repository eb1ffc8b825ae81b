"""Draw one token a row from truncated probabilities."""

import torch

from porter.runtime.kernels.dispatch import gpu_version


@gpu_version("sample:sample_tokens")
def sample_tokens(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    uniforms: torch.Tensor,
) -> torch.Tensor:
    """[rows] int64: the first token where the kept probabilities, added up in the order
    of the vocabulary, pass uniforms times their sum.

    logits: [rows, vocab_size]. temperature, top_p, uniforms: [rows] fp32, uniforms from
    [0, 1). top_k: [rows] integer. Temperature 0 takes the likeliest token, the first of
    equals. Kept are the top_k likeliest (0: all; ties with the last are kept), and of
    those the fewest likeliest whose probability reaches top_p (of equals the first).
    """
    rows = torch.arange(len(logits), device=logits.device)
    greedy = temperature <= 0
    scores = logits.float() / torch.where(greedy, 1.0, temperature)[:, None]
    ordered, order = scores.sort(descending=True, stable=True)
    count = torch.where(top_k > 0, top_k, scores.shape[1]).clamp(max=scores.shape[1])
    smallest = ordered[rows, count.long() - 1]
    ordered = ordered.masked_fill(ordered < smallest[:, None], float("-inf"))
    weights = ordered.softmax(dim=-1)
    before = weights.cumsum(dim=-1) - weights
    whole = (top_p >= 1)[:, None]
    weights = weights.masked_fill((before >= top_p[:, None]) & ~whole, 0.0)
    sums = torch.zeros_like(weights).scatter(1, order, weights).cumsum(dim=-1)
    drawn = torch.searchsorted(sums, (uniforms * sums[:, -1])[:, None], right=True)
    return torch.where(greedy, scores.argmax(dim=-1), drawn[:, 0])
