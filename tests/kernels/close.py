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


def assert_near(
    got: torch.Tensor, expected: torch.Tensor, unavoidable: float = 0.0
) -> None:
    """NaN is never near. unavoidable: an error that is allowed where it is above the
    dtype's, because plain torch makes no smaller one in fp32."""
    assert got.shape == expected.shape
    error, limit = relative_error(got, expected), max(LIMITS[got.dtype], unavoidable)
    assert error <= limit, f"relative error {error:.2e} in {got.dtype}"


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """By the norm of the difference."""
    wide = expected.double().cpu()
    return float((got.double().cpu() - wide).norm() / wide.norm())
