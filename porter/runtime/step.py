"""What one step computes."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepInput:
    """The batch of one step as plain lists, so that it travels between processes.

    token_ids, positions: of all tokens. query_lens, seq_lens: of each sequence, its
    tokens in this step and in the cache after it. blocks: of each sequence.
    logit_rows: tokens whose logits are wanted. from_last: (token of the batch, which
    of the last step's tokens it is) where only the device knows it.
    """

    token_ids: list[int]
    positions: list[int]
    query_lens: list[int]
    seq_lens: list[int]
    blocks: list[list[int]]
    logit_rows: list[int] = field(default_factory=list)
    from_last: list[tuple[int, int]] = field(default_factory=list)
