"""Decode and prefill attention over the paged cache against plain torch."""

import itertools
import random
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from porter.runtime.forward_context import AttentionMetadata, AttentionTensors
from porter.runtime.kernels.paged_attention import AttentionOptions, paged_attention
from tests.kernels.close import DEVICE, DTYPES, assert_near

MIXED = [(1, 1), (1, 9), (1, 130), (5, 5), (37, 37), (3, 40)]
LONG = [(1, 3000), (1, 70), (300, 300), (200, 1500)]


def check(
    lengths: list[tuple[int, int]],
    heads: int = 4,
    kv_heads: int = 2,
    size: int = 16,
    size_v: int | None = None,
    page: int = 16,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> None:
    """lengths: (queries, tokens in all) of each sequence, one-query ones first."""
    size_v, scale = size_v or size, size**-0.5
    blocks = [-(-n // page) for _, n in lengths]
    free = list(range(sum(blocks) + 2))
    random.Random(0).shuffle(free)
    tables = [[free.pop() for _ in range(n)] for n in blocks]
    tables = [t + [0] * (max(blocks) - len(t)) for t in tables]
    starts = [0, *itertools.accumulate(count for count, _ in lengths)]
    query = torch.randn(starts[-1], heads, size).to(DEVICE, dtype)
    caches = [
        torch.randn(sum(blocks) + 2, kv_heads, page, n).to(DEVICE, dtype)
        for n in (size, size_v)
    ]
    for i, (_, n) in enumerate(lengths):  # what lies past a sequence's end is junk
        for cache in caches:
            cache[tables[i][blocks[i] - 1], :, (n - 1) % page + 1 :] = float("nan")
    caches = [cache.transpose(1, 2) for cache in caches]

    def ints(values: list[Any]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=DEVICE)

    metadata = AttentionMetadata(
        query_start=starts,
        seq_lens=[n for _, n in lengths],
        num_decodes=sum(count == 1 for count, _ in lengths),
        block_tables=torch.tensor(tables, device=DEVICE),
        first_slots=[-1] * len(lengths),
        slot_mapping=torch.empty(0),
        tensors=AttentionTensors(
            ints(starts), ints([n for _, n in lengths]), ints(tables)
        ),
    )
    there = {
        n: v.to(DEVICE) if isinstance(v, torch.Tensor) else v
        for n, v in options.items()
    }
    got = paged_attention.on_gpu(
        query, *caches, metadata, AttentionOptions(scale, **there)
    )
    # In double: the error of a reference in fp32 is as large as what is allowed. On the
    # CPU: on a GPU, torch 2.11 reads past the end of biases such as ALiBi's.
    wide = [x.nan_to_num().cpu().double() for x in (query, *caches)]
    metadata = replace(metadata, block_tables=metadata.block_tables.cpu())
    asked = AttentionOptions(scale, **options)
    assert_near(got, paged_attention.reference(*wide, metadata, asked))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("page", [4, 64])
def test_mixed_batch(dtype: torch.dtype, page: int) -> None:
    check(MIXED, page=page, dtype=dtype)


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (8, 1), (20, 1)])
def test_groups_of_heads(heads: int, kv_heads: int) -> None:
    check(MIXED[1:5], heads, kv_heads)


@pytest.mark.parametrize(
    ("size", "size_v"), [(64, 64), (80, 80), (96, 48), (128, 128), (256, 256)]
)
def test_sizes_of_heads(size: int, size_v: int) -> None:
    check([(1, 70), (19, 33)], size=size, size_v=size_v)


OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {"sliding_window": 1},
        {"sliding_window": 6},
        {"sliding_window": 33},
        {"sliding_window": 1000},
        {"logits_soft_cap": 2.0},
        {"alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625])},
        {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])},
        {
            "sliding_window": 20,
            "logits_soft_cap": 2.0,
            "sinks": torch.tensor([0.5, -1.0, 2.0, 0.0]),
            "alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625]),
        },
    ],
    ids=lambda options: "+".join(options),
)


@OPTIONS
def test_options(options: dict[str, Any]) -> None:
    check(MIXED, **options)


@OPTIONS
def test_options_of_one_sequence(options: dict[str, Any]) -> None:
    check([(1, 130)], **options)


def test_keys_divided_among_programs_any_way() -> None:
    """One program takes all keys, or each so few that many share a sequence."""
    from porter.runtime.kernels.gpu import paged_decode as module

    query = torch.randn(3, 4, 16, device=DEVICE)
    keys, values = (
        torch.randn(40, 2, 16, 16, device=DEVICE).transpose(1, 2) for _ in range(2)
    )
    tables = torch.randperm(39)[:39].view(3, 13).to(DEVICE, torch.int32)
    lens = torch.tensor([200, 1, 77], dtype=torch.int32, device=DEVICE)
    outputs = []
    for programs in (1, 2, 3, 5, 30):
        output = torch.full((3, 4, 16), float("nan"), device=DEVICE)
        module.paged_decode(
            query, keys, values, tables, lens, AttentionOptions(0.3), output,
            num_programs=programs,
        )  # fmt: skip
        outputs.append(output)
    for output in outputs[1:]:
        assert_near(output, outputs[0])


@pytest.mark.parametrize("programs", [1, 2, 5, 30])
@pytest.mark.parametrize("length", [1, 65, 700])
def test_one_sequence_in_equal_parts(length: int, programs: int) -> None:
    from porter.runtime.kernels.gpu import paged_decode as module

    query = torch.randn(1, 6, 16, device=DEVICE)
    keys, values = (
        torch.randn(44, 2, 16, 16, device=DEVICE).transpose(1, 2) for _ in range(2)
    )
    table = torch.arange(44, device=DEVICE, dtype=torch.int32)[None]
    output = torch.full((1, 6, 16), float("nan"), device=DEVICE)
    module.paged_decode(
        query, keys, values, table,
        torch.tensor([length], dtype=torch.int32, device=DEVICE),
        AttentionOptions(0.3), output, num_programs=programs,
    )  # fmt: skip
    key, value = (x.flatten(0, 1)[:length].transpose(0, 1) for x in (keys, values))
    heads = query[0].unflatten(0, (2, 3))
    weights = (0.3 * heads @ key.transpose(1, 2)).softmax(-1)
    assert_near(output, (weights @ value).flatten(0, 1)[None])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lens", [[1], [64], [65], [700], [700, 33, 1]], ids=str)
def test_the_newest_key_is_seen(lens: list[int], dtype: torch.dtype) -> None:
    """Though the kernel that writes it is still running when keys are asked for, and
    whatever an earlier launch left in the workspace."""
    from porter.runtime.kernels.gpu.paged_decode import paged_decode
    from porter.runtime.kernels.gpu.store_kv import store_kv

    count, width = len(lens), 11
    tables = torch.randperm(count * width).view(count, width)
    last = torch.tensor(lens) - 1
    slots = tables[torch.arange(count), last // 64] * 64 + last % 64
    tables, slots = tables.to(DEVICE, torch.int32), slots.to(DEVICE)
    query = torch.randn(count, 8, 64).to(DEVICE, dtype)
    keys, values = (
        torch.randn(count * width, 2, 64, 64).to(DEVICE, dtype).transpose(1, 2)
        for _ in range(2)
    )
    seq_lens = torch.tensor(lens, dtype=torch.int32, device=DEVICE)
    newest = torch.zeros(count, 2, 64, device=DEVICE, dtype=dtype)
    output = torch.empty_like(query)

    def step() -> None:
        newest.neg_()  # not launched early, as what comes between two steps
        store_kv(newest, newest, keys, values, slots)
        paged_decode(
            query, keys, values, tables, seq_lens, AttentionOptions(0.3), output
        )

    def expected() -> torch.Tensor:
        rows = []
        for i, length in enumerate(lens):
            key, value = (
                x[tables[i].long()].flatten(0, 1)[:length].transpose(0, 1).double()
                for x in (keys, values)
            )
            heads = query[i].double().unflatten(0, (2, 4))
            weights = (0.3 * heads @ key.transpose(1, 2)).softmax(-1)
            rows.append((weights @ value).flatten(0, 1))
        return torch.stack(rows)

    step()
    run = step
    if DEVICE != "cpu":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(3):
                step()
        run = graph.replay
    for strength in (
        (1.0, 2.0) if DEVICE == "cpu" else torch.linspace(1, 3, 30).tolist()
    ):
        newest.copy_(query.unflatten(1, (2, 4))[:, :, 0] * strength)
        output.fill_(float("nan"))
        run()
        assert_near(output, expected())


@pytest.mark.parametrize("programs", [1, 2, 7])
def test_rows_that_fill_a_batch_up_are_zero(programs: int) -> None:
    """And change nothing of the others, which have them behind themselves."""
    from porter.runtime.kernels.gpu import paged_decode as module

    query = torch.randn(5, 6, 16, device=DEVICE)
    keys, values = (
        torch.randn(40, 2, 16, 16, device=DEVICE).transpose(1, 2) for _ in range(2)
    )
    tables = torch.randperm(39)[:35].view(5, 7).to(DEVICE, torch.int32)
    lens = torch.tensor([100, 70, 5, 0, 0], dtype=torch.int32, device=DEVICE)
    outputs = []
    for count in (3, 5):
        output = torch.full((5, 6, 16), float("nan"), device=DEVICE)
        module.paged_decode(
            query[:count], keys, values, tables[:count], lens[:count],
            AttentionOptions(0.3), output[:count], num_programs=programs,
        )  # fmt: skip
        outputs.append(output)
    assert_near(outputs[1][:3], outputs[0][:3])
    assert not outputs[1][3:].any()


def test_a_triton_without_the_names_of_gluon_takes_the_other_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from porter.runtime.kernels.gpu import paged_attention as module

    name = "porter.runtime.kernels.gpu.hopper_prefill"
    monkeypatch.setitem(sys.modules, name, None)  # as an import that fails
    monkeypatch.setattr(module, "interpreting", lambda: False)
    monkeypatch.setattr(module, "compute_capability", lambda: 90)
    module._hopper.cache_clear()
    with pytest.warns(UserWarning, match="a slower kernel"):
        assert module._hopper() is None
    monkeypatch.setattr(module, "compute_capability", lambda: 100)
    module._hopper.cache_clear()
    assert module._hopper() is None
    module._hopper.cache_clear()


def test_long_prefills_start_first() -> None:
    from porter.runtime.kernels.gpu.paged_prefill import plan_work

    plan = plan_work([1, 300, 40], [900, 300, 1000], first_seq=1, block_m=128)
    assert plan == [(2, 0), (1, 256), (1, 128), (1, 0)]


@pytest.mark.skipif(DEVICE == "cpu", reason="too long for the interpreter")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("page", [16, 64])
@pytest.mark.parametrize("size", [64, 96, 128, 256])
def test_long_sequences(dtype: torch.dtype, page: int, size: int) -> None:
    check(LONG, 16, 4, size, page=page, dtype=dtype)
    check(LONG[:1], 16, 4, size, page=page, dtype=dtype)
    check(LONG[:1], 5, 1, size, page=page, dtype=dtype)
    check(LONG, 16, 4, size, page=page, dtype=dtype, sliding_window=130)


# What takes the kernel for Hopper on such a GPU, and otherwise the one for any.
PREFILLS = [(129, 129), (257, 1000), (70, 300), (64, 64)]


@pytest.mark.skipif(DEVICE == "cpu", reason="Gluon has no interpreter")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("size", "size_v"), [(64, 64), (128, 128), (128, 64)])
@OPTIONS
def test_options_of_prefills(
    options: dict[str, Any], size: int, size_v: int, dtype: torch.dtype
) -> None:
    check(PREFILLS, 4, 2, size, size_v, page=64, dtype=dtype, **options)


@pytest.mark.skipif(DEVICE == "cpu", reason="Gluon has no interpreter")
@pytest.mark.parametrize("page", [4, 8, 16, 128, 256])
@pytest.mark.parametrize("size", [64, 128])
def test_blocks_of_prefills(page: int, size: int) -> None:
    check(PREFILLS, 16, 4, size, page=page, dtype=torch.bfloat16)


@pytest.mark.skipif(DEVICE == "cpu", reason="Gluon has no interpreter")
def test_many_prefills() -> None:
    """More blocks of queries than programs, of which each takes several."""
    lens = [(n, n + 17 * i) for i, n in enumerate(range(65, 700, 13))]
    check(lens, 16, 4, 128, page=64, dtype=torch.bfloat16)
    check(lens, 16, 4, 128, page=64, dtype=torch.bfloat16, sliding_window=100)
