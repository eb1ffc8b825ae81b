"""Tensor and pipeline parallel groups over torch.distributed.

Model code asks for the current groups. Outside of `use_groups` both have one member
and every collective is the identity.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from porter.runtime.peer_memory import join_peer_memory


@dataclass(frozen=True)
class Group:
    """One communication group as model code sees it.

    ranks: global ranks of the members, in order. rank_in_group: this process's place.
    handle: the torch process group; None for a group of one. peer_memory: where small
    tensors are summed; None where the handle sums all.
    """

    ranks: tuple[int, ...] = (0,)
    rank_in_group: int = 0
    handle: Any = None
    peer_memory: Any = None

    @property
    def world_size(self) -> int:
        return len(self.ranks)

    @property
    def is_first_rank(self) -> bool:
        return self.rank_in_group == 0

    @property
    def is_last_rank(self) -> bool:
        return self.rank_in_group == self.world_size - 1

    @property
    def next_rank(self) -> int:
        return self.ranks[(self.rank_in_group + 1) % self.world_size]

    @property
    def prev_rank(self) -> int:
        return self.ranks[(self.rank_in_group - 1) % self.world_size]

    def all_reduce(self, input_: torch.Tensor) -> torch.Tensor:
        """Sum over the group, out of place: the caller's tensor keeps its value."""
        if self.world_size == 1:
            return input_
        if self.peer_memory is not None and self.peer_memory.fits(input_):
            return self.peer_memory.all_reduce(input_)
        output = input_.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(output, group=self.handle)
        return output

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Make it the first member's, in place; contiguous."""
        if self.world_size > 1:
            dist.broadcast(tensor, self.ranks[0], group=self.handle)

    def all_gather(self, input_: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """Concatenate the members' tensors along `dim`, in rank order."""
        if self.world_size == 1:
            return input_
        input_ = input_.contiguous()
        parts = [torch.empty_like(input_) for _ in self.ranks]
        dist.all_gather(parts, input_, group=self.handle)
        return torch.cat(parts, dim=dim)

    def reduce_scatter(self, input_: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """Sum over the group; keep this rank's slice of `dim`."""
        if self.world_size == 1:
            return input_
        return self.all_reduce(input_).chunk(self.world_size, dim)[self.rank_in_group]

    def gather(
        self, input_: torch.Tensor, dst: int = 0, dim: int = -1
    ) -> torch.Tensor | None:
        """As all_gather, on member `dst`; None on the others."""
        output = self.all_gather(input_, dim)
        return output if self.rank_in_group == dst else None


@dataclass(frozen=True)
class Groups:
    """The tensor and the pipeline parallel group of one rank of an engine."""

    tp: Group = Group()
    pp: Group = Group()


_groups = Groups()


@contextmanager
def use_groups(groups: Groups) -> Iterator[None]:
    """Model code inside the block is a member of these groups.

    An engine runs its model in its own groups, so that several engines can live in
    one process.
    """
    global _groups
    previous, _groups = _groups, groups
    try:
        yield
    finally:
        _groups = previous


def get_tp_group() -> Group:
    return _groups.tp


def get_pp_group() -> Group:
    return _groups.pp


def get_tensor_model_parallel_rank() -> int:
    return _groups.tp.rank_in_group


def get_tensor_model_parallel_world_size() -> int:
    return _groups.tp.world_size


def init_groups(
    rank: int, tp_size: int, pp_size: int, init_method: str, backend: str
) -> Groups:
    """Join the process groups of one engine; ranks count tensor parallel first.

    init_method: as torch's init_process_group, e.g. "file:///tmp/x".
    backend: "gloo" on CPU, "nccl" on GPU.
    """
    world_size = tp_size * pp_size
    dist.init_process_group(
        backend,
        init_method=init_method,
        world_size=world_size,
        rank=rank,
        timeout=timedelta(minutes=5),
    )
    rows = [tuple(range(p * tp_size, (p + 1) * tp_size)) for p in range(pp_size)]
    columns = [tuple(range(t, world_size, tp_size)) for t in range(tp_size)]
    tp = _join(rows, rank)
    if backend == "nccl" and tp.world_size > 1:
        tp = replace(tp, peer_memory=join_peer_memory(tp.handle, tp.ranks))
    return Groups(tp, _join(columns, rank))


def _join(member_lists: list[tuple[int, ...]], rank: int) -> Group:
    joined = Group()
    for ranks in member_lists:  # every process must create every group
        handle = dist.new_group(list(ranks)) if len(ranks) > 1 else None
        if rank in ranks:
            joined = Group(ranks, ranks.index(rank), handle)
    return joined


def destroy_groups() -> None:
    """Leave the process groups that `init_groups` joined, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def tensor_model_parallel_all_reduce(input_: torch.Tensor) -> torch.Tensor:
    return _groups.tp.all_reduce(input_)


def tensor_model_parallel_all_gather(
    input_: torch.Tensor, dim: int = -1
) -> torch.Tensor:
    return _groups.tp.all_gather(input_, dim)


def tensor_model_parallel_reduce_scatter(
    input_: torch.Tensor, dim: int = -1
) -> torch.Tensor:
    return _groups.tp.reduce_scatter(input_, dim)


def tensor_model_parallel_gather(
    input_: torch.Tensor, dst: int = 0, dim: int = -1
) -> torch.Tensor | None:
    return _groups.tp.gather(input_, dst, dim)


def ensure_divisibility(numerator: int, denominator: int) -> None:
    """Raises AssertionError when numerator is no multiple of denominator."""
    assert numerator % denominator == 0, (
        f"{numerator} is not divisible by {denominator}"
    )


def divide(numerator: int, denominator: int) -> int:
    """The exact quotient; AssertionError when there is a remainder."""
    ensure_divisibility(numerator, denominator)
    return numerator // denominator


def split_tensor_along_last_dim(
    tensor: torch.Tensor, num_partitions: int, contiguous_split_chunks: bool = False
) -> Sequence[torch.Tensor]:
    """Equal views of the last axis, copied when `contiguous_split_chunks`."""
    chunks = torch.split(tensor, divide(tensor.shape[-1], num_partitions), dim=-1)
    if contiguous_split_chunks:
        return tuple(chunk.contiguous() for chunk in chunks)
    return chunks


def get_pp_indices(
    num_hidden_layers: int, pp_rank: int, pp_size: int
) -> tuple[int, int]:
    """First and one-past-last layer of a stage.

    Layers left over by the division go to the stages from the last but one
    backwards: the last stage has the norm and the head besides.
    """
    partitions = [num_hidden_layers // pp_size] * pp_size
    for i in range(2, num_hidden_layers % pp_size + 2):
        partitions[-i] += 1
    start = sum(partitions[:pp_rank])
    return start, start + partitions[pp_rank]
