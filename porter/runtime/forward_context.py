"""What the attention layers need to know of the step that runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class AttentionMetadata:
    """The batch of one step; sequences that decode one token come first.

    query_start: per sequence the offset of its first token, one more at the end.
    seq_lens: per sequence its tokens in the cache after this step.
    num_decodes: how many leading sequences have exactly one query token.
    block_tables: [num_seqs, max_blocks] int64, cache block of each sequence block.
    first_slots: per sequence the slot of its first token when its blocks lie one
    after another in the cache, else -1.
    slot_mapping: [num_tokens] int64, cache slot (block * block_size + offset).
    """

    query_start: list[int]
    seq_lens: list[int]
    num_decodes: int
    block_tables: torch.Tensor
    first_slots: list[int]
    slot_mapping: torch.Tensor


@dataclass(frozen=True)
class ForwardContext:
    attn_metadata: AttentionMetadata


_context: ForwardContext | None = None


@contextmanager
def set_forward_context(attn_metadata: AttentionMetadata) -> Iterator[None]:
    global _context
    _context = ForwardContext(attn_metadata)
    try:
        yield
    finally:
        _context = None


def get_forward_context() -> ForwardContext:
    assert _context is not None, "Forward context is not set."
    return _context
