"""Sums over virtual ranks: several in one process, which take turns step by step."""

import pytest
import torch

from porter.runtime.kernels.gpu import all_reduce as module
from porter.runtime.kernels.gpu.all_reduce import STEPS, PeerMemory, flags_needed
from tests.kernels.close import DEVICE, DTYPES, assert_near

HALF = 5000


class Ranks:
    """The memory of `world` ranks on one device."""

    def __init__(self, world: int, dtype: torch.dtype) -> None:
        junk = float("nan")
        self.buffers = [
            [
                torch.full((2 * HALF,), junk, device=DEVICE, dtype=dtype)
                for _ in range(2)
            ]
            for _ in range(world)
        ]
        self.flags = [
            torch.zeros(flags_needed(world), dtype=torch.int32, device=DEVICE)
            for _ in range(world)
        ]
        addresses = [[b[i].data_ptr() for b in self.buffers] for i in range(2)]
        flags = [f.data_ptr() for f in self.flags]
        tables = torch.tensor(addresses, device=DEVICE)
        flag_table = torch.tensor(flags, device=DEVICE)
        self.memories = [PeerMemory(r, tables, flag_table, HALF) for r in range(world)]

    def all_reduce(self, xs: list[torch.Tensor], two_shot: bool) -> list[torch.Tensor]:
        outputs = [torch.full_like(x, float("nan")) for x in xs]
        for step in STEPS:
            for memory, x, output in zip(self.memories, xs, outputs, strict=True):
                memory.launch(x, output, two_shot, (step,))
        return outputs


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRAMS", 3)
    monkeypatch.setattr(module, "_BLOCK", 256)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("two_shot", [False, True])
@pytest.mark.parametrize(("world", "count"), [(2, 4999), (4, 100), (3, 2000)])
def test_all_ranks_get_the_sum(
    dtype: torch.dtype, two_shot: bool, world: int, count: int
) -> None:
    ranks = Ranks(world, dtype)
    for _ in range(3):  # each buffer is used again
        xs = [torch.randn(count).to(DEVICE, dtype) for _ in range(world)]
        outputs = ranks.all_reduce(xs, two_shot)
        assert_near(outputs[0], sum(x.float() for x in xs))
        for output in outputs[1:]:
            assert torch.equal(output, outputs[0])


def test_what_is_left_to_nccl() -> None:
    memory = Ranks(2, torch.float32).memories[0]
    x = torch.zeros(2, HALF // 2, device=DEVICE)
    assert memory.fits(x) and memory.fits(x.bfloat16())
    others = (torch.zeros(HALF + 1, device=DEVICE), x.long(), x.double(), x.t())
    assert not any(memory.fits(other) for other in others)


@pytest.mark.skipif(DEVICE == "cpu", reason="ranks that wait for each other")
@pytest.mark.parametrize("two_shot", [False, True])
def test_ranks_on_streams_wait_for_each_other(two_shot: bool) -> None:
    world = 2
    ranks = Ranks(world, torch.bfloat16)
    streams = [torch.cuda.Stream() for _ in range(world)]
    for _ in range(20):
        xs = [torch.randn(HALF).to(DEVICE, torch.bfloat16) for _ in range(world)]
        outputs = [torch.empty_like(x) for x in xs]
        torch.cuda.synchronize()
        for memory, stream, x, output in zip(
            ranks.memories, streams, xs, outputs, strict=True
        ):
            with torch.cuda.stream(stream):
                memory.launch(x, output, two_shot)
        torch.cuda.synchronize()
        assert torch.equal(outputs[0], outputs[1])
        assert_near(outputs[0], xs[0].float() + xs[1].float())
