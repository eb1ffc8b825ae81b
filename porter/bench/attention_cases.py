"""Attention problems over a paged cache, at the sizes of real models."""

import math
from dataclasses import dataclass

import torch

BLOCK = 64
KV_HEADS = 8
SIZE = 128
DTYPE = torch.bfloat16
# Data of a timing's turns together: several times what a GPU's cache holds.
_TURN_BYTES = 400 << 20


@dataclass(frozen=True)
class DecodeCase:
    """One token of `batch` sequences with `context` tokens each in the cache; `group`
    query heads read one kv head."""

    batch: int
    context: int
    group: int

    @property
    def name(self) -> str:
        return f"{self.batch} x {self.context}, group {self.group}"

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that are read."""
        return self.batch * self.context * KV_HEADS * 2 * SIZE * DTYPE.itemsize

    @property
    def moved_bytes(self) -> int:
        """All that must be read and written."""
        heads = KV_HEADS * self.group
        return self.cache_bytes + 2 * self.batch * heads * SIZE * DTYPE.itemsize


@dataclass(frozen=True)
class PrefillCase:
    """`batch` sequences of `length` tokens, none of them cached before."""

    length: int
    batch: int = 1
    group: int = 4

    @property
    def name(self) -> str:
        return f"{self.batch} x {self.length}, group {self.group}"

    @property
    def operations(self) -> float:
        """Of the two products, causal half only."""
        heads = KV_HEADS * self.group
        return 2 * 2 * self.batch * heads * SIZE * self.length**2 / 2


@dataclass(frozen=True)
class Problem:
    """Tensors of a case. key_cache, value_cache: [blocks, BLOCK, KV_HEADS, SIZE], the
    slots of a head together. block_tables: [batch, blocks] int32, of random blocks."""

    query: torch.Tensor
    key_cache: torch.Tensor
    value_cache: torch.Tensor
    block_tables: torch.Tensor
    seq_lens: torch.Tensor
    lens: list[int]


def decode_problems(case: DecodeCase) -> list[Problem]:
    """Several of one size over different blocks, so that no cache holds their keys."""
    turns = max(1, min(16, math.ceil(_TURN_BYTES / case.cache_bytes)))
    lens = [case.context] * case.batch
    return _problems(lens, turns, case.batch, case.group)


def prefill_problem(case: PrefillCase) -> Problem:
    lens = [case.length] * case.batch
    return _problems(lens, 1, sum(lens), case.group)[0]


def _problems(lens: list[int], turns: int, tokens: int, group: int) -> list[Problem]:
    width = -(-max(lens) // BLOCK)
    count = turns * len(lens) * width
    shape = (count, KV_HEADS, BLOCK, SIZE)
    keys, values = (
        torch.empty(shape, device="cuda", dtype=DTYPE).normal_().transpose(1, 2)
        for _ in range(2)
    )
    blocks = torch.randperm(count, device="cuda").to(torch.int32)
    tables = blocks.view(turns, len(lens), width)
    seq_lens = torch.tensor(lens, dtype=torch.int32, device="cuda")
    return [
        Problem(
            torch.randn(tokens, KV_HEADS * group, SIZE, device="cuda", dtype=DTYPE),
            keys,
            values,
            table.contiguous(),
            seq_lens,
            lens,
        )
        for table in tables
    ]
