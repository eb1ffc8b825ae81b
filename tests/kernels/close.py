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


def assert_near(got: torch.Tensor, expected: torch.Tensor) -> None:
    """By the norm of the difference; NaN is never near."""
    assert got.shape == expected.shape
    wide = expected.double().cpu()
    error = float((got.double().cpu() - wide).norm() / wide.norm())
    assert error <= LIMITS[got.dtype], f"relative error {error:.2e} in {got.dtype}"
