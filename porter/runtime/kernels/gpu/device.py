"""What launchers ask of the device they launch on."""

import functools

import torch
from triton import knobs


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
