"""Linear layers on a CPU over weights in oneDNN's blocked layout.

torch's own product lays the weight out anew at every call, which a decode step of a
few rows pays in full: packed once, 8 rows run 3 times as fast and 2048 rows 1.2
times (fp32, AVX-512, 2 threads).
"""

import torch

from porter.runtime.kernels.dispatch import Kernel


def can_pack(weight: torch.Tensor) -> bool:
    """Whether this machine has the packed product for such a weight."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
    )


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """[output, input] in an opaque layout; only `packed_linear` reads it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)


@Kernel
def packed_linear(
    x: torch.Tensor, packed_weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """x W^T + b: [..., output] from x [..., input]."""
    return torch.ops.mkldnn._linear_pointwise(x, packed_weight, bias, "none", [], "")
