"""Rows of a vocabulary's table of which this rank has a part, in one pass."""

import torch
import triton
import triton.language as tl


@triton.jit(do_not_specialize=["first_row", "num_rows"])
def _vocab_embedding(
    ids_ptr, weight_ptr, output_ptr, first_row, num_rows, size, stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    local = tl.load(ids_ptr + row).to(tl.int64) - first_row
    here = (local >= 0) & (local < num_rows)
    mask = (columns < size) & here
    x = tl.load(weight_ptr + local * stride + columns, mask=mask, other=0.0)
    tl.store(output_ptr + row * size + columns, x, mask=columns < size)


def vocab_embedding(
    token_ids: torch.Tensor, weight: torch.Tensor, first_row: int, num_rows: int
) -> torch.Tensor:
    """As the reference."""
    size = weight.shape[-1]
    output = weight.new_empty(*token_ids.shape, size)
    token_ids = token_ids.reshape(-1)
    if len(token_ids):
        block = min(2048, triton.next_power_of_2(size))
        _vocab_embedding[(len(token_ids), triton.cdiv(size, block))](
            token_ids, weight, output, first_row, num_rows, size, weight.stride(0),
            BLOCK=block, num_warps=4,
        )  # fmt: skip
    return output
