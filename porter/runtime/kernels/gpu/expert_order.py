"""Pairs of token and slot, expert by expert, and their results added up by token."""

import torch
import triton
import triton.language as tl

from porter.runtime.kernels.gpu.device import early_launch, take_turn

# So many pairs an expert's program looks at together.
_MANY_PAIRS = 8192


@triton.jit(do_not_specialize=["count"])
def _order_pairs(
    ids_ptr, order_ptr, ends_ptr, count, BLOCK: tl.constexpr, EARLY: tl.constexpr
):  # fmt: skip
    """One program an expert: its pairs come behind those of the experts before it."""
    take_turn(EARLY)
    expert = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    before = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, count, BLOCK):
        ids = tl.load(ids_ptr + start + columns, mask=start + columns < count, other=-1)
        before += ((ids >= 0) & (ids < expert)).to(tl.int32)
    place = tl.sum(before)
    for start in range(0, count, BLOCK):
        ids = tl.load(ids_ptr + start + columns, mask=start + columns < count, other=-1)
        mine = (ids == expert).to(tl.int32)
        places = place + tl.cumsum(mine, 0) - mine
        tl.store(order_ptr + places, start + columns, mask=mine != 0)
        place += tl.sum(mine)
    tl.store(ends_ptr + expert, place)


@triton.jit
def _add_up(
    made_ptr, ids_ptr, output_ptr, experts, size,
    TOP_K: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    take_turn(EARLY)
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for slot in tl.static_range(TOP_K):
        pair = token * TOP_K + slot
        expert = tl.load(ids_ptr + pair)
        here = (expert >= 0) & (expert < experts)
        x = tl.load(
            made_ptr + pair * size + columns, mask=(columns < size) & here, other=0.0
        )
        total += x.to(tl.float32)
    tl.store(
        output_ptr + token * size + columns, total.to(output_ptr.dtype.element_ty),
        mask=columns < size,
    )  # fmt: skip


def order_pairs(
    ids: torch.Tensor, num_experts: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(order [tokens * k], ends [experts]) int32: the pairs expert by expert, and where in
    them each expert's end. Nothing waits for the host.

    ids: [tokens, k]; pairs whose id is outside [0, num_experts) are behind the last end,
    where order may hold anything.
    """
    flat = ids.flatten()
    order = torch.empty(len(flat), dtype=torch.int32, device=ids.device)
    ends = torch.empty(num_experts, dtype=torch.int32, device=ids.device)
    block = min(_MANY_PAIRS, triton.next_power_of_2(len(flat)))
    _order_pairs[(num_experts,)](
        flat, order, ends, len(flat), BLOCK=block,
        num_warps=4 if block <= 1024 else 8, **early_launch(),
    )  # fmt: skip
    return order, ends


def add_up(made: torch.Tensor, ids: torch.Tensor, num_experts: int) -> torch.Tensor:
    """[tokens, size]: each token's slots of made [tokens * k, size], in fp32, in their
    order; of pairs whose expert isn't one of num_experts nothing is read."""
    tokens, top_k = ids.shape
    size = made.shape[-1]
    output = made.new_empty(tokens, size)
    block = min(1024, triton.next_power_of_2(size))
    _add_up[(tokens, triton.cdiv(size, block))](
        made, ids, output, num_experts, size,
        TOP_K=top_k, BLOCK=block, num_warps=4, **early_launch(),
    )  # fmt: skip
    return output
