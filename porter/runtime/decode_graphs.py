"""CUDA graphs of decode steps at a ladder of batch sizes.

A decode step of a small model takes less time on the GPU than it takes the host to
launch its kernels one by one; as a graph it is one launch. A batch is filled up to the
next size of the ladder with sequences of no tokens, that no slot is written for.
"""

import bisect
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from porter.runtime.device_batch import BlockTables, slots
from porter.runtime.forward_context import AttentionMetadata, AttentionTensors
from porter.runtime.step import StepInput

# (token ids, positions, metadata) -> logits of every token
Forward = Callable[[torch.Tensor, torch.Tensor, AttentionMetadata], torch.Tensor]


def ladder(largest: int) -> list[int]:
    """1, 2, 4, then multiples of 8, later of 16, up to the largest batch."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 257, 16), *range(288, 1025, 32)]
    return sorted({size for size in sizes if size < largest} | {largest})


@dataclass
class _Captured:
    """wide: token ids, positions, slots, last rows, [4, size] int64. narrow: lengths
    and block tables, [size * (1 + width)] int32."""

    graph: torch.cuda.CUDAGraph
    wide: torch.Tensor
    narrow: torch.Tensor
    logits: torch.Tensor


class DecodeGraphs:
    """Captured steps by batch size; `failure` says why there are none."""

    def __init__(
        self,
        forward: Forward,
        tables: BlockTables,
        block_size: int,
        last_tokens: torch.Tensor,
    ) -> None:
        self._forward = forward
        self._tables = tables
        self._block_size = block_size
        self._last_tokens = last_tokens
        self._captured: dict[int, _Captured] = {}
        self._sizes: list[int] = []
        self.failure: str | None = None

    def capture(self, largest: int) -> None:
        """The largest first: the smaller ones run in its memory.

        A port that can't be captured runs launch by launch, and a warning says so.
        """
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(ladder(largest)):
            try:
                self._captured[size] = self._capture(size, pool)
            except Exception as error:
                torch.cuda.synchronize()
                self._captured.clear()
                self.failure = f"{type(error).__name__}: {error}"
                warnings.warn(
                    f"decode steps aren't captured as CUDA graphs: {self.failure}",
                    stacklevel=2,
                )
                break
        self._sizes = sorted(self._captured)

    def _capture(self, size: int, pool: object) -> _Captured:
        device, width = self._last_tokens.device, self._tables.array.shape[1]
        wide = torch.zeros(4, size, dtype=torch.int64, device=device)
        wide[2:] = -1
        narrow = torch.zeros(size * (1 + width), dtype=torch.int32, device=device)
        narrow[:size] = 1
        lens, tables = narrow[:size], narrow[size:].view(size, width)
        metadata = AttentionMetadata(
            list(range(size + 1)),
            [1] * size,
            size,
            tables,
            [],
            wide[2],
            AttentionTensors(torch.empty(0), lens, tables),
        )

        def step() -> torch.Tensor:
            token_ids, positions, _, rows = wide
            known = self._last_tokens.index_select(0, rows.clamp(min=0))
            token_ids = torch.where(rows >= 0, known, token_ids)
            return self._forward(token_ids, positions, metadata)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()  # compiles, and lets libraries take their memory
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # NCCL's watchdog asks for events in a thread of its own meanwhile.
        with torch.cuda.graph(
            graph, pool=pool, stream=side, capture_error_mode="thread_local"
        ):
            logits = step()
        return _Captured(graph, wide, narrow, logits)

    def release(self) -> None:
        """Give the graphs back: NCCL doesn't leave a group that they have sums of."""
        torch.cuda.synchronize()
        self._captured.clear()
        self._sizes = []

    def fits(self, step: StepInput) -> bool:
        """Whether the step is a decode of every sequence, of a captured size."""
        count = len(step.query_lens)
        return (
            bool(self._sizes)
            and count <= self._sizes[-1]
            and len(step.token_ids) == count
        )

    def run(self, step: StepInput) -> torch.Tensor:
        """Logits of every sequence, [num_seqs, vocab_size]; the next run's overwrite
        them."""
        count = len(step.query_lens)
        size = self._sizes[bisect.bisect_left(self._sizes, count)]
        captured = self._captured[size]
        wide, narrow = pack_decode(step, size, self._tables, self._block_size)
        captured.wide.copy_(wide, non_blocking=True)
        captured.narrow.copy_(narrow, non_blocking=True)
        captured.graph.replay()
        return captured.logits[:count]


def pack_decode(
    step: StepInput, size: int, tables: BlockTables, block_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A decode step filled up to `size` sequences, as `_Captured` has it, on the host."""
    count, width = len(step.query_lens), tables.array.shape[1]
    tables.update(step.blocks)
    pinned = torch.cuda.is_available()
    wide = torch.empty(4, size, dtype=torch.int64, pin_memory=pinned)
    narrow = torch.empty(size * (1 + width), dtype=torch.int32, pin_memory=pinned)
    rows, ints = wide.numpy(), narrow.numpy()
    rows[:2, count:] = 0
    rows[2:, count:] = -1
    rows[0, :count] = step.token_ids
    rows[1, :count] = step.positions
    rows[2, :count] = slots(tables.array, np.arange(count), rows[1, :count], block_size)
    rows[3, :count] = -1
    for place, row in step.from_last:
        rows[3, place] = row
    ints[:count] = step.seq_lens
    ints[count:size] = 0
    block_tables = ints[size:].reshape(size, width)
    block_tables[:count] = tables.array[:count]
    block_tables[count:] = 0
    return wide, narrow
