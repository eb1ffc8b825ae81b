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


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory of a multiprocessor; a Hopper GPU's where there is none."""
    if device.type != "cuda":
        return 228 << 10
    return torch.cuda.get_device_properties(device).shared_memory_per_multiprocessor


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
    lengths and tables, which copies and torch's own kernels write. As those stand between
    two steps, it may read what an earlier step has written too: all keys but the newest.
    """
    if EARLY:
        gdc_wait()


def early_launch() -> dict[str, Any]:
    """Launch options of a kernel that takes its turn; Hopper and later."""
    if interpreting() or compute_capability() < 90:
        return {"EARLY": False}
    return {"EARLY": True, "launch_pdl": True}


@functools.cache
def compute_capability() -> int:
    """Of the GPU that kernels are built for: 90 for Hopper."""
    return int(driver.active.get_current_target().arch)
