"""What one step computes."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepInput:
    """The batch of one step as plain lists, so that it travels between processes.

    token_ids, positions: of all tokens. query_lens, seq_lens: of each sequence, its
    tokens in this step and in the cache after it. blocks: of each sequence.
    logit_rows: tokens whose logits are wanted. from_last: (token of the batch, which
    of the last step's tokens it is) where only the device knows it. num_chosen: how many
    tokens it chooses for the next step to begin with, where that doesn't wait for them.
    """

    token_ids: list[int]
    positions: list[int]
    query_lens: list[int]
    seq_lens: list[int]
    blocks: list[list[int]]
    logit_rows: list[int] = field(default_factory=list)
    from_last: list[tuple[int, int]] = field(default_factory=list)
    num_chosen: int = 0


def largest_step(
    max_num_batched_tokens: int, max_model_len: int, max_num_seqs: int, block_size: int
) -> StepInput:
    """A prefill of as many tokens as a step may have, whose result nobody reads.

    All sequences lie in the same blocks, the first ones of the cache.
    """
    longest = min(max_num_batched_tokens, max_model_len)
    whole, rest = divmod(max_num_batched_tokens, longest)
    lens = ([longest] * whole + [rest] * (rest > 0))[:max_num_seqs]
    blocks = list(range(-(-longest // block_size)))
    return StepInput(
        [0] * sum(lens),
        [i for n in lens for i in range(n)],
        lens,
        lens,
        [blocks] * len(lens),
        list(range(min(sum(lens), max_num_seqs))),
    )
