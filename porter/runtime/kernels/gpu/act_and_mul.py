"""Gated activations in one pass."""

import torch
import triton
import triton.language as tl

from porter.runtime.kernels.gpu.device import early_launch, take_turn


@triton.jit
def _act_and_mul(
    x_ptr, output_ptr, size, stride, KIND: tl.constexpr, BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    take_turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    gate = tl.load(x_ptr + row * stride + columns, mask=inside, other=0.0)
    up = tl.load(x_ptr + row * stride + size + columns, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    if KIND == "silu":
        wide = wide * tl.sigmoid(wide)
    elif KIND == "tanh":
        # 0.5 (1 + tanh(z)) is sigmoid(2 z), z = sqrt(2 / pi) (x + 0.044715 x^3).
        inner = 1.5957691216057308 * (wide + 0.044715 * wide * wide * wide)
        wide = wide * tl.sigmoid(inner)
    else:
        wide = 0.5 * wide * (1.0 + tl.erf(wide * 0.7071067811865476))
    acted = wide.to(gate.dtype).to(tl.float32)
    output = (acted * up.to(tl.float32)).to(gate.dtype)
    tl.store(output_ptr + row * size + columns, output, mask=inside)


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """As the reference."""
    return _launch(x, "silu")


def gelu_and_mul(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    """As the reference."""
    return _launch(x, approximate)


def _launch(x: torch.Tensor, kind: str) -> torch.Tensor:
    size = x.shape[-1] // 2
    output = x.new_empty(*x.shape[:-1], size)
    if x.dim() != 2 or x.stride(-1) != 1:
        x = x.reshape(-1, 2 * size).contiguous()
    if output.numel():
        block = min(1024, triton.next_power_of_2(size))
        _act_and_mul[(len(x), triton.cdiv(size, block))](
            x,
            output,
            size,
            x.stride(0),
            KIND=kind,
            BLOCK=block,
            num_warps=4,
            **early_launch(),
        )
    return output
