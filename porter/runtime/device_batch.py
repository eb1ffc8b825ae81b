"""A step's batch on a GPU: packed on the host, two copies, views of them."""

from dataclasses import dataclass

import numpy as np
import torch

from porter.runtime.forward_context import AttentionMetadata, AttentionTensors
from porter.runtime.step import StepInput


class BlockTables:
    """The block tables of a batch on the host, [max_num_seqs, width] int32.

    Most rows of a step are those of the step before and a block longer at most, so
    that only what is new is written.
    """

    def __init__(self, max_num_seqs: int, width: int) -> None:
        self.array = np.zeros((max_num_seqs, width), dtype=np.int32)
        self._rows: list[list[int] | None] = [None] * max_num_seqs
        self._written = [0] * max_num_seqs

    def update(self, blocks: list[list[int]]) -> None:
        """Row i becomes blocks[i]; what lies past its end doesn't matter."""
        for i, row in enumerate(blocks):
            start = self._written[i]
            if self._rows[i] is not row or len(row) < start:
                self._rows[i], start = row, 0
            if len(row) > start:
                self.array[i, start : len(row)] = row[start:]
            self._written[i] = len(row)


@dataclass(frozen=True)
class DeviceBatch:
    """token_ids, positions: [num_tokens] int64. logit_rows: [rows wanted] int64."""

    token_ids: torch.Tensor
    positions: torch.Tensor
    logit_rows: torch.Tensor
    metadata: AttentionMetadata


def make_device_batch(
    step: StepInput,
    tables: BlockTables,
    block_size: int,
    last_tokens: torch.Tensor,
    device: torch.device,
) -> DeviceBatch:
    """last_tokens: what the last step chose, for the tokens the host doesn't know."""
    tables.update(step.blocks)
    count = len(step.query_lens)
    query_lens = np.array(step.query_lens)
    positions = np.array(step.positions)
    places = [place for place, _ in step.from_last]
    rows = [row for _, row in step.from_last]
    wide = [
        np.array(step.token_ids),
        positions,
        slots(
            tables.array, np.repeat(np.arange(count), query_lens), positions, block_size
        ),
        np.array(step.logit_rows, dtype=np.int64),
        np.array(places, dtype=np.int64),
        np.array(rows, dtype=np.int64),
    ]
    starts = np.concatenate(([0], np.cumsum(query_lens)))
    width = max(map(len, step.blocks))
    narrow = [
        starts,
        np.array(step.seq_lens),
        np.ascontiguousarray(tables.array[:count, :width]).ravel(),
    ]
    token_ids, positions_, slot_mapping, logit_rows, to, source = send(
        wide, torch.int64, device
    )
    query_start_loc, seq_lens, block_tables = send(narrow, torch.int32, device)
    if places:
        token_ids.index_copy_(0, to, last_tokens.index_select(0, source))
    block_tables = block_tables.view(count, width)
    metadata = AttentionMetadata(
        starts.tolist(),
        step.seq_lens,
        sum(1 for n in step.query_lens if n == 1),
        block_tables,
        [],
        slot_mapping,
        AttentionTensors(query_start_loc, seq_lens, block_tables),
    )
    return DeviceBatch(token_ids, positions_, logit_rows, metadata)


def slots(
    tables: np.ndarray, sequences: np.ndarray, positions: np.ndarray, block_size: int
) -> np.ndarray:
    """The cache slot of each token: of row sequences[i], position positions[i]."""
    blocks = tables[sequences, positions // block_size].astype(np.int64)
    return blocks * block_size + positions % block_size


def send(
    parts: list[np.ndarray], dtype: torch.dtype, device: torch.device
) -> list[torch.Tensor]:
    """The parts on the device, by one copy that the host doesn't wait for."""
    sizes = [len(part) for part in parts]
    # Each part begins at a multiple of 64 bytes: kernels are compiled anew for
    # addresses of another alignment.
    unit = 64 // dtype.itemsize
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // unit) * unit)
    packed = torch.empty(starts[-1], dtype=dtype, pin_memory=device.type == "cuda")
    array = packed.numpy()
    for part, start, size in zip(parts, starts, sizes, strict=False):
        array[start : start + size] = part
    sent = packed.to(device, non_blocking=True)
    pairs = zip(starts, sizes, strict=False)
    return [sent[start : start + size] for start, size in pairs]
