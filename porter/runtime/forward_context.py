"""What the attention layers need to know of the step that runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class AttentionTensors:
    """What kernels on a GPU read of a batch, under vLLM's names; all int32.

    query_start_loc: [num_seqs + 1], offset of each sequence's first token. seq_lens:
    [num_seqs], tokens in the cache after this step. block_tables: [num_seqs,
    max_blocks]. prefill_work: a launch's programs by their number of queries.
    """

    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_tables: torch.Tensor
    prefill_work: dict[int, torch.Tensor] = field(default_factory=dict)


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
    tensors: the same for a GPU's kernels; None on a CPU.
    """

    query_start: list[int]
    seq_lens: list[int]
    num_decodes: int
    block_tables: torch.Tensor
    first_slots: list[int]
    slot_mapping: torch.Tensor
    tensors: AttentionTensors | None = None


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
