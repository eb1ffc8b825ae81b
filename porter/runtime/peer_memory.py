"""Memory that all ranks of a group read and write over NVLink, for sums of small tensors.

torch's symmetric memory maps it. Where the GPUs can't reach each other, or torch can't map
it, there is none and NCCL sums everything; for the second engine of a process too.
PORTER_PEER_MEMORY=0 has the same effect.
"""

import os
from typing import Any

import torch
import torch.distributed as dist

# The largest message, in elements; what is larger, NCCL sums as fast or faster: two H200s
# take 11.9 us for 512 KiB and 18.0 for 1 MiB, NCCL 14.0 and 17.7 (figures/all_reduce.py).
# Four buffers of so many elements are taken on each GPU.
HALF = 1 << 18
_joined = False  # whether this process has had peer memory before


def join_peer_memory(handle: Any, ranks: tuple[int, ...]) -> Any:
    """This rank's `PeerMemory` of a process group, or None on all of its ranks.

    handle: the torch process group of `ranks`, whose devices are current.
    """
    global _joined
    if os.environ.get("PORTER_PEER_MEMORY") == "0" or not _reachable(ranks):
        return None
    # torch numbers the ranks' exchanges of handles process by process: one that has had
    # an engine before would wait for ever for the messages of one that hasn't.
    if not _all(not _joined, handle):
        return None
    _joined = True
    memory = _mapped(handle)
    return memory if _all(memory is not None, handle) else None


def _all(holds: bool, handle: Any) -> bool:
    """Whether it holds on all ranks."""
    everywhere = torch.tensor(int(holds), device="cuda")
    dist.all_reduce(everywhere, dist.ReduceOp.MIN, group=handle)
    return bool(everywhere)


def _reachable(ranks: tuple[int, ...]) -> bool:
    """Whether all ranks are GPUs of this machine that can read each other's memory."""
    if max(ranks) >= torch.cuda.device_count():
        return False
    pairs = [(a, b) for a in ranks for b in ranks if a != b]
    return all(torch.cuda.can_device_access_peer(a, b) for a, b in pairs)


def _mapped(handle: Any) -> Any:
    try:
        from torch.distributed import _symmetric_memory as symm_mem

        from porter.runtime.kernels.gpu.all_reduce import (
            WIDEST,
            PeerMemory,
            flags_needed,
        )
    except ImportError:
        return None
    world = dist.get_world_size(handle)
    device = torch.device("cuda", torch.cuda.current_device())
    buffer_bytes = 2 * HALF * WIDEST
    try:
        buffers = symm_mem.empty(2 * buffer_bytes, dtype=torch.uint8, device=device)
        flags = symm_mem.empty(flags_needed(world), dtype=torch.int32, device=device)
        flags.zero_()
        addresses = symm_mem.rendezvous(buffers, handle).buffer_ptrs
        flag_addresses = symm_mem.rendezvous(flags, handle).buffer_ptrs
    except (RuntimeError, AttributeError):
        return None
    tables = [[base + turn * buffer_bytes for base in addresses] for turn in range(2)]
    return PeerMemory(
        dist.get_rank(handle),
        torch.tensor(tables, device=device),
        torch.tensor(list(flag_addresses), device=device),
        HALF,
        keep=(buffers, flags),
    )
