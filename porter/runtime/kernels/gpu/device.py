"""What launchers ask of the device they launch on."""

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.runtime import driver


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors.

    Its product of bf16 operands is wrong (Triton 3.6 to 3.9), so kernels widen them.
    """
    return bool(knobs.runtime.interpret)


@functools.cache
def sm_count(device: torch.device) -> int:
    """Multiprocessors of a GPU; 2 in the interpreter, so that work is split there."""
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def take_turn(EARLY: tl.constexpr):
    """First thing in a kernel that is launched before the one in front of it has ended,
    and so costs no time to launch."""
    let_next_come(EARLY)
    wait_for_turn(EARLY)


@triton.jit
def let_next_come(EARLY: tl.constexpr):
    """The kernel behind this one may be launched from here on; it waits for its turn."""
    if EARLY:
        gdc_launch_dependents()


@triton.jit
def wait_for_turn(EARLY: tl.constexpr):
    """What follows sees all that earlier kernels wrote.

    Before it a kernel may read what no early kernel writes: weights, and the batch's
    lengths and tables, which copies and torch's own kernels write.
    """
    if EARLY:
        gdc_wait()


@triton.jit
def prefetch_rows(rows, wanted, BYTES: tl.constexpr):
    """Ask for rows of BYTES (a multiple of 16) to be brought into the GPU's cache.

    rows: pointers, 16 bytes aligned; wanted: which of them. Nothing waits, and rows that
    are written meanwhile are seen as written.
    """
    tl.inline_asm_elementwise(
        "{.reg .pred p; setp.ne.s32 p, $2, 0; "
        "@p cp.async.bulk.prefetch.L2.global [$1], $3; mov.u32 $0, 0;}",
        "=r,l,r,r",
        [rows.to(tl.int64), wanted.to(tl.int32), BYTES],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


def early_launch() -> dict[str, Any]:
    """Launch options of a kernel that takes its turn; Hopper and later."""
    if interpreting() or not _begins_early():
        return {"EARLY": False}
    return {"EARLY": True, "launch_pdl": True}


@functools.cache
def _begins_early() -> bool:
    return int(driver.active.get_current_target().arch) >= 90
