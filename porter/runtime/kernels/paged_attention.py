"""Causal attention of a mixed batch over the paged cache, in plain torch.

Prefills run one sequence at a time, decodes all together or one by one: together
means copying the cache into a padded rectangle, which pays while that is small.
A sequence whose blocks lie one after another is read in place.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from porter.runtime.forward_context import AttentionMetadata
from porter.runtime.kernels.dispatch import gpu_version

# Above this many elements of keys a decode sequence is cheaper to read in place.
_GATHER_LIMIT = 1 << 16
# Query rows at a time where the scores are materialised.
_ROWS = 512


@dataclass(frozen=True)
class AttentionOptions:
    """scale: of query times key. sliding_window: keys a query sees, itself included.

    logits_soft_cap: c in c * tanh(score / c). alibi_slopes, sinks: [num_heads] fp32.
    """

    scale: float
    sliding_window: int | None = None
    logits_soft_cap: float | None = None
    alibi_slopes: torch.Tensor | None = None
    sinks: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether scores need no more than a scale and a mask."""
        return not self.logits_soft_cap and self.sinks is None

    @property
    def unbiased(self) -> bool:
        """Whether they are plain, and nothing is added by position."""
        return self.plain and self.alibi_slopes is None


@gpu_version("paged_attention:paged_attention")
def paged_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    metadata: AttentionMetadata,
    options: AttentionOptions,
) -> torch.Tensor:
    """[num_tokens, num_heads, head_size_v].

    query: [num_tokens, num_heads, head_size]. key_cache, value_cache:
    [num_blocks, block_size, num_kv_heads, head_size], with this step's keys and values
    stored already. Query head h reads kv head h // (num_heads / num_kv_heads). Query i
    of a sequence with n cached tokens and q queries stands at position n - q + i and
    sees keys up to there, within the window.
    """
    output = query.new_empty(*query.shape[:2], value_cache.shape[-1])
    batched = _decode_batch(key_cache, metadata, options)
    if batched:
        output[:batched] = _decode_together(
            query[:batched], key_cache, value_cache, metadata, options
        )
    elif _lie_in_order(metadata, options):
        batched = metadata.num_decodes
        output[:batched] = _decode_in_place(
            query[:batched], key_cache, value_cache, metadata, options
        )
    for i in range(batched, len(metadata.seq_lens)):
        rows = slice(metadata.query_start[i], metadata.query_start[i + 1])
        _attend_sequence(
            query[rows], key_cache, value_cache, metadata, i, options, output[rows]
        )
    return output


def _first_key(seq_len: int, num_queries: int, options: AttentionOptions) -> int:
    """The earliest position that any of the last num_queries queries sees."""
    if options.sliding_window is None:
        return 0
    return max(0, seq_len - num_queries - options.sliding_window + 1)


def _decode_batch(
    key_cache: torch.Tensor, metadata: AttentionMetadata, options: AttentionOptions
) -> int:
    """How many leading decodes to run together: all of them or none."""
    count = metadata.num_decodes
    if count < 2:
        return 0
    longest = max(
        length - _first_key(length, 1, options) for length in metadata.seq_lens[:count]
    )
    return count if longest * key_cache[0, 0].numel() <= _GATHER_LIMIT else 0


def _decode_together(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    metadata: AttentionMetadata,
    options: AttentionOptions,
) -> torch.Tensor:
    count, block_size = len(query), key_cache.shape[1]
    lengths = metadata.seq_lens[:count]
    starts = [_first_key(n, 1, options) // block_size for n in lengths]
    width = max(-(-n // block_size) - b for n, b in zip(lengths, starts, strict=True))
    device = query.device
    first = torch.tensor(starts, device=device)
    columns = first[:, None] + torch.arange(width, device=device)
    last_column = metadata.block_tables.shape[1] - 1
    blocks = metadata.block_tables[:count].gather(1, columns.clamp(max=last_column))
    key = key_cache[blocks].flatten(1, 2).transpose(1, 2)
    value = value_cache[blocks].flatten(1, 2).transpose(1, 2)
    positions = first[:, None] * block_size + torch.arange(
        width * block_size, device=device
    )
    query_positions = torch.tensor(lengths, device=device)[:, None] - 1
    bias = _bias(query_positions, positions, query.shape[1], key.shape[1], options)
    grouped = query.unflatten(1, (key.shape[1], -1))  # [count, kv heads, group, head]
    attended = _attend(
        grouped, key, value, bias.squeeze(3), options, (1, *grouped.shape[1:3], 1)
    )
    return attended.flatten(1, 2)


def _lie_in_order(metadata: AttentionMetadata, options: AttentionOptions) -> bool:
    """Whether every decode's blocks lie one after another, and its scores are plain."""
    slots = metadata.first_slots[: metadata.num_decodes]
    return options.unbiased and bool(slots) and min(slots) >= 0


def _decode_in_place(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    metadata: AttentionMetadata,
    options: AttentionOptions,
) -> torch.Tensor:
    """Decodes one by one, with as few operations as can be around each one's product."""
    key, value = (c.flatten(0, 1).transpose(0, 1) for c in (key_cache, value_cache))
    grouped = query.unflatten(1, (len(key), -1))  # [count, kv heads, group, head]
    # Two plain products are quicker than the fused operation for a query or two a head,
    # but their scores have the operands' dtype.
    plainly = query.dtype == torch.float32
    if plainly:
        grouped = grouped * options.scale
    made = []
    for i in range(len(query)):
        seq_len = metadata.seq_lens[i]
        start = _first_key(seq_len, 1, options)
        at = (1, metadata.first_slots[i] + start, seq_len - start)
        keys, values = key.narrow(*at), value.narrow(*at)
        if plainly:
            scores = torch.bmm(grouped[i], keys.transpose(1, 2))
            made.append(torch.bmm(scores.softmax(-1), values))
        else:
            made.append(_sdpa(grouped[i], keys, values, options.scale))
    return torch.stack(made).flatten(1, 2)


def _attend_sequence(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    metadata: AttentionMetadata,
    index: int,
    options: AttentionOptions,
    output: torch.Tensor,
) -> None:
    seq_len, count = metadata.seq_lens[index], len(query)
    start = _first_key(seq_len, count, options)
    key, value = (
        _cached(cache, metadata, index, start).transpose(0, 1)[None]
        for cache in (key_cache, value_cache)
    )  # [1, kv heads, keys, head]
    kv_heads, keys = key.shape[1], seq_len - start
    if options.unbiased:
        if count == 1:
            grouped = query.unflatten(1, (kv_heads, -1))
            attended = _sdpa(grouped, key, value, options.scale)
            output.copy_(attended.flatten(1, 2))
            return
        if count == keys and not _window_cuts(keys, options):
            grouped, key, value = _by_kv_head(query, key, value)
            attended = _sdpa(grouped, key, value, options.scale, is_causal=True)
            output.copy_(attended.flatten(0, 1).transpose(0, 1))
            return
    key_positions = torch.arange(start, seq_len, device=query.device)
    query_positions = torch.arange(seq_len - count, seq_len, device=query.device)
    for row in range(0, count, _ROWS):
        rows = slice(row, row + _ROWS)
        grouped, keys_, values_ = _by_kv_head(query[rows], key, value)
        bias = _bias(
            query_positions[None, rows], key_positions[None],
            query.shape[1], kv_heads, options,
        )[0]  # fmt: skip
        attended = _attend(
            grouped, keys_, values_, bias, options, (*grouped.shape[:2], 1, 1)
        )
        output[rows] = attended.flatten(0, 1).transpose(0, 1)


def _cached(
    cache: torch.Tensor, metadata: AttentionMetadata, index: int, start: int
) -> torch.Tensor:
    """[keys, kv heads, head_size] of one sequence from position start on."""
    slots, end = cache.flatten(0, 1), metadata.seq_lens[index]
    first_slot = metadata.first_slots[index]
    if first_slot >= 0:
        return slots[first_slot + start : first_slot + end]
    block_size = cache.shape[1]
    first, last = start // block_size, -(-end // block_size)
    blocks = cache[metadata.block_tables[index, first:last]].flatten(0, 1)
    return blocks[start - first * block_size : end - first * block_size]


def _window_cuts(keys: int, options: AttentionOptions) -> bool:
    return options.sliding_window is not None and keys > options.sliding_window


def _by_kv_head(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[kv heads, group, tokens, head] each; keys are repeated by a zero stride."""
    grouped = query.transpose(0, 1).unflatten(0, (key.shape[1], -1))
    shape = (-1, grouped.shape[1], -1, -1)
    return (
        grouped,
        key.transpose(0, 1).expand(shape),
        value.transpose(0, 1).expand(shape),
    )


def _bias(
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    options: AttentionOptions,
) -> torch.Tensor:
    """[batch, kv heads or 1, group or 1, queries, keys] fp32, added to the scores.

    query_positions: [batch, queries]; key_positions: [batch, keys].
    """
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    hidden = distance < 0
    if options.sliding_window is not None:
        hidden |= distance >= options.sliding_window
    bias = torch.zeros(distance.shape, device=distance.device)
    bias = bias.masked_fill(hidden, float("-inf"))[:, None, None]
    if options.alibi_slopes is not None:
        slopes = options.alibi_slopes.view(1, num_kv_heads, -1, 1, 1)
        bias = bias - slopes * distance[:, None, None].float()
    return bias


def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    bias: torch.Tensor | None = None,
    is_causal: bool = False,
) -> torch.Tensor:
    mask = None if bias is None else bias.to(query.dtype)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal, scale=scale
    )


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    options: AttentionOptions,
    sinks_shape: tuple[int, ...],
) -> torch.Tensor:
    """[..., queries, head_size_v]; sinks_shape lines the heads up with the scores."""
    if options.plain:
        return _sdpa(query, key, value, options.scale, bias)
    scores = query.float() @ key.float().transpose(-1, -2) * options.scale
    if options.logits_soft_cap:
        scores = torch.tanh(scores / options.logits_soft_cap) * options.logits_soft_cap
    scores = scores + bias
    if options.sinks is None:
        return scores.softmax(dim=-1).to(value.dtype) @ value
    # A sink is one more key for each head, whose value is nothing.
    column = options.sinks.float().view(sinks_shape)
    column = column.expand(*scores.shape[:-1], 1)
    weights = torch.cat((scores, column), dim=-1).softmax(dim=-1)[..., :-1]
    return weights.to(value.dtype) @ value
