"""How near a kernel must come to its reference in fp32."""

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# A few roundings to the dtype. The interpreter cuts bf16 off where a GPU rounds it,
# which is twice the error and all of it in one direction.
LIMITS = {
    torch.float32: 2e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 6e-3 if DEVICE == "cuda" else 1.5e-2,
}


def assert_near(got: torch.Tensor, expected: torch.Tensor, kernels: int = 1) -> None:
    """By the norm of the difference; NaN is never near.

    kernels: how many have rounded, one after the other. What the interpreter cuts off adds
    up; what a GPU rounds stays within the limit of one.
    """
    assert got.shape == expected.shape
    wide = expected.double().cpu()
    error = float((got.double().cpu() - wide).norm() / wide.norm())
    cuts = kernels if got.dtype == torch.bfloat16 and DEVICE == "cpu" else 1
    assert error <= cuts * LIMITS[got.dtype], (
        f"relative error {error:.2e} in {got.dtype}"
    )
