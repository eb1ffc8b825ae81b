"""What a GPU is sent of a step is the step."""

import numpy as np
import torch

from porter.runtime.decode_graphs import ladder, pack_decode
from porter.runtime.device_batch import BlockTables, make_device_batch
from porter.runtime.step import StepInput

CPU = torch.device("cpu")


def test_a_mixed_batch() -> None:
    step = StepInput(
        token_ids=[11, 0, 7, 8, 9],
        positions=[4, 9, 2, 3, 4],
        query_lens=[1, 1, 3],
        seq_lens=[5, 10, 5],
        blocks=[[3, 1], [5, 2, 9], [4, 0, 8]],
        logit_rows=[0, 1, 4],
        from_last=[(1, 2)],
    )
    last = torch.tensor([70, 71, 72])
    batch = make_device_batch(step, BlockTables(4, 6), 4, last, CPU)
    assert batch.token_ids.tolist() == [11, 72, 7, 8, 9]
    assert batch.positions.tolist() == step.positions
    assert batch.logit_rows.tolist() == [0, 1, 4]
    metadata, tensors = batch.metadata, batch.metadata.tensors
    assert metadata.slot_mapping.tolist() == [4, 37, 18, 19, 0]
    assert metadata.query_start == [0, 1, 2, 5] and metadata.num_decodes == 2
    assert tensors is not None
    assert tensors.query_start_loc.tolist() == metadata.query_start
    assert tensors.seq_lens.tolist() == step.seq_lens
    for row, blocks in zip(tensors.block_tables.tolist(), step.blocks, strict=True):
        assert row[: len(blocks)] == blocks
    assert tensors.block_tables.dtype == tensors.seq_lens.dtype == torch.int32


def test_only_new_blocks_are_written_and_none_is_missed() -> None:
    tables = BlockTables(3, 4)
    first, second = [1], [2, 3]
    tables.update([first, second])
    first.append(5)
    tables.update([first, second])
    assert tables.array[0, :2].tolist() == [1, 5]
    tables.update([second, first])
    assert tables.array[:2, :2].tolist() == [[2, 3], [1, 5]]
    tables.update([[7, 8, 9]])
    assert tables.array[0, :3].tolist() == [7, 8, 9]


def test_a_decode_is_filled_up() -> None:
    step = StepInput(
        token_ids=[11, 0],
        positions=[4, 9],
        query_lens=[1, 1],
        seq_lens=[5, 10],
        blocks=[[3, 1], [5, 2, 9]],
        logit_rows=[0, 1],
        from_last=[(1, 0)],
    )
    wide, narrow = pack_decode(step, 4, BlockTables(4, 3), 4)
    ids, positions, slots, rows = wide.tolist()
    assert ids[:1] == [11] and positions == [4, 9, 0, 0]
    assert slots == [4, 37, -1, -1] and rows == [-1, 0, -1, -1]
    assert narrow[:4].tolist() == [5, 10, 0, 0]
    tables = narrow[4:].view(4, 3).numpy()
    assert tables[0, :2].tolist() == [3, 1] and tables[1].tolist() == [5, 2, 9]
    assert not np.any(tables[2:])


def test_the_ladder_ends_at_the_largest_batch() -> None:
    assert ladder(1) == [1] and ladder(3) == [1, 2, 3] and ladder(9) == [1, 2, 4, 8, 9]
    for size in (64, 100, 256, 300):
        sizes = ladder(size)
        assert sizes[-1] == size and sizes == sorted(set(sizes))
        pairs = zip(sizes, sizes[1:], strict=False)
        assert all(b <= max(a + 32, 2 * a) for a, b in pairs)
