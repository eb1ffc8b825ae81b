"""Sums over ranks by reading the other ranks' memory: one launch, no ring.

Every rank has a buffer that all others can read, and flags that all others can write; a
table holds their addresses. One shot: each rank puts its numbers into its own buffer,
raises its flag with all others, waits for theirs, and adds up what all buffers hold: for
small messages. Two shots: each rank adds up one part and puts the sums into the second
half of its buffer, from where all others fetch them: each number crosses a link twice,
however many ranks there are. All ranks add in the same order, so all get the same bits.

A buffer is used by every second call only: who is in a call has seen every other rank
leave the call before the last, and may write what was read there. Calls are counted on
the device, by each program for itself, so that a captured launch can be run again.

Programs of one rank wait for the same program of the others: all of a launch must be
running at once, so there are few. The steps can be launched one by one, which is how
ranks that share a device or an interpreter take turns.
"""

import torch
import triton
import triton.language as tl

from porter.runtime.kernels.gpu.device import interpreting

# Programs of a launch; all must fit on the device together.
PROGRAMS = 32
_BLOCK = 2048
WIDEST = 4  # bytes of an element: sums are fp32
# Ranks whose numbers are added in one shot up to this many bytes; above, in two.
ONE_SHOT_BYTES = {2: 1 << 20, 4: 512 << 10, 8: 256 << 10}
STEPS = ("put", "add", "fetch")


@triton.jit
def _raise_flags(flags_table, rank, step, epoch, WORLD: tl.constexpr):
    """Tell this program's twins on all ranks that this rank has done `step`."""
    place = (step * tl.num_programs(0) + tl.program_id(0)) * WORLD + rank
    for peer in tl.static_range(WORLD):
        flags = tl.load(flags_table + peer).to(tl.pointer_type(tl.int32))
        tl.atomic_xchg(flags + place, epoch, sem="release", scope="sys")


@triton.jit
def _await_flags(flags_table, rank, step, epoch, WORLD: tl.constexpr):
    """Wait until this program's twins on all ranks have done `step`."""
    flags = tl.load(flags_table + rank).to(tl.pointer_type(tl.int32))
    place = (step * tl.num_programs(0) + tl.program_id(0)) * WORLD
    for peer in tl.static_range(WORLD):
        seen = tl.atomic_add(flags + place + peer, 0, sem="acquire", scope="sys")
        while seen < epoch:
            seen = tl.atomic_add(flags + place + peer, 0, sem="acquire", scope="sys")


@triton.jit
def _all_reduce(
    x_ptr, output_ptr, buffers_table, flags_table, calls_ptr, rank, count, half,
    WORLD: tl.constexpr, TWO_SHOT: tl.constexpr, BLOCK: tl.constexpr,
    PUT: tl.constexpr, ADD: tl.constexpr, FETCH: tl.constexpr,
):  # fmt: skip
    dtype = output_ptr.dtype
    pid, programs = tl.program_id(0), tl.num_programs(0)
    offsets = tl.arange(0, BLOCK)
    stride = programs * BLOCK
    epoch = tl.load(calls_ptr + pid) + 1
    buffers_table += epoch % 2 * WORLD
    own = tl.load(buffers_table + rank).to(dtype)
    if PUT:
        for start in range(pid * BLOCK, count, stride):
            at = start + offsets
            x = tl.load(x_ptr + at, mask=at < count)
            tl.store(own + at, x, mask=at < count)
        tl.debug_barrier()
        _raise_flags(flags_table, rank, 0, epoch, WORLD)
    if ADD:
        _await_flags(flags_table, rank, 0, epoch, WORLD)
        tl.debug_barrier()
        # Block i is added up by rank i % WORLD when in two shots, by all in one. The
        # program that put a block is the one that reads it: its flag says it's there.
        for start in range(pid * BLOCK, count, stride):
            turn = (start // stride) % WORLD
            if not TWO_SHOT or turn == rank:
                at = start + offsets
                total = tl.zeros([BLOCK], tl.float32)
                for peer in tl.static_range(WORLD):
                    theirs = tl.load(buffers_table + peer).to(dtype)
                    part = tl.load(
                        theirs + at, mask=at < count, other=0.0, cache_modifier=".cv"
                    )
                    total += part.to(tl.float32)
                total = total.to(output_ptr.dtype.element_ty)
                tl.store(output_ptr + at, total, mask=at < count)
                if TWO_SHOT:
                    tl.store(own + half + at, total, mask=at < count)
        if TWO_SHOT:
            tl.debug_barrier()
            _raise_flags(flags_table, rank, 1, epoch, WORLD)
    if FETCH and TWO_SHOT:
        _await_flags(flags_table, rank, 1, epoch, WORLD)
        tl.debug_barrier()
        for start in range(pid * BLOCK, count, stride):
            turn = (start // stride) % WORLD
            if turn != rank:
                at = start + offsets
                theirs = tl.load(buffers_table + turn).to(dtype)
                sums = tl.load(
                    theirs + half + at, mask=at < count, cache_modifier=".cv"
                )
                tl.store(output_ptr + at, sums, mask=at < count)
    if FETCH:
        tl.store(calls_ptr + pid, epoch)


class PeerMemory:
    """One rank's view of all ranks' buffers.

    buffers: [2, world] int64, addresses of the ranks' buffers for even and odd calls,
    each of 2 * half elements. flags: [world] int64, addresses of the ranks' flags, of
    `flags_needed(world)` int32 that begin as zero. half: elements of a message at most.
    keep: whose life this rank's own memory has.
    """

    def __init__(
        self,
        rank: int,
        buffers: torch.Tensor,
        flags: torch.Tensor,
        half: int,
        keep: tuple[torch.Tensor, ...] = (),
    ) -> None:
        self.rank = rank
        self.world = len(flags)
        self.half = half
        self._buffers = buffers
        self._flags = flags
        self._keep = keep
        self._calls = torch.zeros(PROGRAMS, dtype=torch.int32, device=flags.device)

    def launch(
        self,
        x: torch.Tensor,
        output: torch.Tensor,
        two_shot: bool,
        steps: tuple[str, ...] = STEPS,
    ) -> None:
        """Some steps of a call, each of which is launched once, in order: all of them in
        one launch where each rank has its own device.

        x, output: contiguous, of the buffers' dtype, at most `half` elements.
        """
        assert x.numel() <= self.half and x.is_contiguous()
        _all_reduce[(PROGRAMS,)](
            x, output, self._buffers, self._flags, self._calls, self.rank,
            x.numel(), self.half,
            WORLD=self.world, TWO_SHOT=two_shot,
            BLOCK=256 if interpreting() else _BLOCK,
            PUT="put" in steps, ADD="add" in steps, FETCH="fetch" in steps,
            num_warps=8,
        )  # fmt: skip

    def fits(self, x: torch.Tensor) -> bool:
        """Whether peer memory is the way for x; NCCL is for larger ones, and for what
        sums in fp32 wouldn't be exact for."""
        narrow = x.is_floating_point() and x.element_size() <= WIDEST
        return narrow and x.numel() <= self.half and x.is_contiguous()

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, out of place."""
        output = torch.empty_like(x)
        size = x.numel() * x.element_size()
        self.launch(x, output, size > ONE_SHOT_BYTES.get(self.world, 256 << 10))
        return output


def flags_needed(world: int) -> int:
    return 2 * PROGRAMS * world
