"""What kernels take for granted about memory."""

import torch


def adjacent(x: torch.Tensor) -> torch.Tensor:
    """x with the elements of its last axis beside each other; a copy where they aren't."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def rows_aligned(*tensors: torch.Tensor) -> bool:
    """Whether each row, of the last axis, is whole lines of 16 bytes, which is what the
    copy engine moves."""
    return all(
        size * tensor.element_size() % 16 == 0
        for tensor in tensors
        for size in (tensor.storage_offset(), tensor.shape[-1], *tensor.stride()[:-1])
    )
