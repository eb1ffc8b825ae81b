"""When sums go through peer memory; the sums themselves are tested with the kernel."""

import pytest
import torch
import torch.distributed as dist

from porter.runtime import peer_memory
from porter.runtime.distributed import Group


class Summing:
    """Peer memory for messages of at most 4 elements, that adds 100."""

    def fits(self, x: torch.Tensor) -> bool:
        return x.numel() <= 4

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return x + 100


def test_small_tensors_are_summed_there_and_large_ones_by_the_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dist, "all_reduce", lambda x, group: x.add_(1))
    group = Group((0, 1), 0, object(), Summing())
    given = torch.zeros(4), torch.zeros(5)
    assert group.all_reduce(given[0]).tolist() == [100.0] * 4
    assert group.all_reduce(given[1]).tolist() == [1.0] * 5
    assert not any(x.any() for x in given)


def test_there_is_none_where_gpus_are_out_of_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(handle: object) -> None:
        raise AssertionError("it was mapped")

    monkeypatch.setattr(peer_memory, "_mapped", never)
    monkeypatch.setattr(peer_memory, "_all", lambda holds, handle: holds)
    monkeypatch.setattr(peer_memory, "_joined", False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    reach = {(0, 1): True, (1, 0): False}
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda *p: reach[p])
    assert peer_memory.join_peer_memory(object(), (0, 1)) is None
    reach[1, 0] = True
    with pytest.raises(AssertionError, match="it was mapped"):
        peer_memory.join_peer_memory(object(), (0, 1))
    assert peer_memory.join_peer_memory(object(), (0, 2)) is None
    monkeypatch.setenv("PORTER_PEER_MEMORY", "0")
    assert peer_memory.join_peer_memory(object(), (0, 1)) is None


def test_the_second_engine_of_a_process_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its ranks agree on that before one of them waits for another."""
    memories = iter(["first"])
    monkeypatch.setattr(peer_memory, "_mapped", lambda handle: next(memories))
    monkeypatch.setattr(peer_memory, "_reachable", lambda ranks: True)
    monkeypatch.setattr(peer_memory, "_all", lambda holds, handle: holds)
    monkeypatch.setattr(peer_memory, "_joined", False)
    assert peer_memory.join_peer_memory(object(), (0, 1)) == "first"
    assert peer_memory.join_peer_memory(object(), (0, 1)) is None
