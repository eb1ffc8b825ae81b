"""Sampling without a sort: one program a row finds the smallest logit that is kept.

A logit's bits, made to order as integers do, are searched from the highest down, three
at a time: each pass over the row counts, or weighs, what lies at or above seven pivots.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _scores(row_ptr, start, size, BLOCK: tl.constexpr):
    """A block of logits, and the same as unsigned integers of the same order."""
    columns = start + tl.arange(0, BLOCK)
    x = tl.load(row_ptr + columns, mask=columns < size, other=float("-inf"))
    x = x.to(tl.float32) + 0.0  # no negative zero
    bits = x.to(tl.uint32, bitcast=True)
    negative = bits >= 0x80000000
    keys = tl.where(negative, bits ^ 0xFFFFFFFF, bits ^ 0x80000000)
    return x, tl.where(columns < size, keys, 0), columns


@triton.jit
def _smallest_kept(
    row_ptr, size, peak, inverse, floor, wanted, WEIGH: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest key at or above which there are `wanted` logits, or weights.

    Weights are exp((logit - peak) / temperature), of logits with keys from floor up.
    """
    found = tl.full([], 0, tl.uint32)
    digits = tl.arange(0, 8).to(tl.uint32)
    for step in range(11):
        shift = tl.maximum(30 - 3 * step, 0).to(tl.uint32)
        pivots = found + (digits << shift)
        # The first step has two bits and the pivots of larger digits wrapped around.
        real = (pivots >= found) & ((step > 0) | (digits < 4))
        sums = tl.zeros([8], tl.float32)
        for start in range(0, size, BLOCK):
            x, keys, columns = _scores(row_ptr, start, size, BLOCK)
            inside = (columns < size) & (keys >= floor)
            weights = inside.to(tl.float32)
            if WEIGH:
                weights = tl.where(inside, tl.exp((x - peak) * inverse), 0.0)
            above = keys[None, :] >= pivots[:, None]
            sums += tl.sum(tl.where(above, weights[None, :], 0.0), 1)
        enough = real & ((sums >= wanted) | (digits == 0))
        found = tl.max(tl.where(enough, pivots, found), 0)
    return found


@triton.jit
def _sample(
    logits_ptr, temperature_ptr, top_k_ptr, top_p_ptr, uniforms_ptr, tokens_ptr,
    size, stride, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * stride
    temperature = tl.load(temperature_ptr + row)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    place = tl.zeros([BLOCK], tl.int32)
    for start in range(0, size, BLOCK):
        x, _, columns = _scores(row_ptr, start, size, BLOCK)
        place = tl.where(x > best, columns, place)
        best = tl.maximum(best, x)
    peak = tl.max(best, 0)
    token = tl.min(tl.where(best == peak, place, size), 0)
    if temperature > 0:
        inverse = 1.0 / temperature
        top_k = tl.load(top_k_ptr + row).to(tl.int32)
        top_p = tl.load(top_p_ptr + row)
        floor = tl.full([], 0, tl.uint32)
        if (top_k > 0) & (top_k < size):
            floor = _smallest_kept(
                row_ptr, size, peak, inverse, floor, top_k.to(tl.float32), False, BLOCK
            )
        edge = floor
        ties = tl.full([], 2147483647, tl.int32)  # of the smallest kept, how many
        if top_p < 1:
            mass = tl.zeros([], tl.float32)
            for start in range(0, size, BLOCK):
                x, keys, columns = _scores(row_ptr, start, size, BLOCK)
                kept = (columns < size) & (keys >= floor)
                mass += tl.sum(tl.where(kept, tl.exp((x - peak) * inverse), 0.0), 0)
            wanted = mass * top_p
            edge = _smallest_kept(
                row_ptr, size, peak, inverse, floor, wanted, True, BLOCK
            )
            edge = tl.maximum(edge, floor)
            above = tl.zeros([], tl.float32)
            at_edge = tl.zeros([], tl.float32)
            for start in range(0, size, BLOCK):
                x, keys, columns = _scores(row_ptr, start, size, BLOCK)
                weights = tl.exp((x - peak) * inverse)
                inside = columns < size
                above += tl.sum(tl.where(inside & (keys > edge), weights, 0.0), 0)
                tied = inside & (keys == edge)
                at_edge = tl.maximum(at_edge, tl.max(tl.where(tied, weights, 0.0), 0))
            if at_edge > 0:
                ties = tl.ceil((wanted - above) / at_edge).to(tl.int32)
                ties = tl.maximum(ties, 1)
        total = tl.zeros([], tl.float32)
        seen = tl.zeros([], tl.int32)
        for start in range(0, size, BLOCK):
            weights, seen = _kept_weights(
                row_ptr, start, size, peak, inverse, edge, ties, seen, BLOCK
            )
            total += tl.sum(weights, 0)
        target = tl.load(uniforms_ptr + row) * total
        before = tl.zeros([], tl.float32)
        seen = tl.zeros([], tl.int32)
        token = size
        last = tl.full([], 0, tl.int32)
        for start in range(0, size, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            weights, seen = _kept_weights(
                row_ptr, start, size, peak, inverse, edge, ties, seen, BLOCK
            )
            sums = before + tl.cumsum(weights, 0)
            passed = (sums > target) & (weights > 0)
            token = tl.minimum(token, tl.min(tl.where(passed, columns, size), 0))
            last = tl.maximum(last, tl.max(tl.where(weights > 0, columns, 0), 0))
            before += tl.sum(weights, 0)
        # Sums made in another order can fall short of the total by a rounding.
        token = tl.where(token == size, last, token)
    tl.store(tokens_ptr + row, token.to(tl.int64))


@triton.jit
def _kept_weights(
    row_ptr, start, size, peak, inverse, edge, ties, seen, BLOCK: tl.constexpr
):  # fmt: skip
    """Weights of a block, zero where not kept; and ties with the edge seen so far."""
    x, keys, columns = _scores(row_ptr, start, size, BLOCK)
    tied = ((columns < size) & (keys == edge)).to(tl.int32)
    rank = seen + tl.cumsum(tied, 0)
    kept = (columns < size) & ((keys > edge) | ((tied > 0) & (rank <= ties)))
    weights = tl.where(kept, tl.exp((x - peak) * inverse), 0.0)
    return weights, seen + tl.sum(tied, 0)


def sample_tokens(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    uniforms: torch.Tensor,
) -> torch.Tensor:
    """As the reference."""
    rows, size = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        logits = logits if logits.stride(-1) == 1 else logits.contiguous()
        _sample[(rows,)](
            logits, temperature.contiguous(), top_k.contiguous(), top_p.contiguous(),
            uniforms.contiguous(), tokens, size, logits.stride(0),
            BLOCK=min(4096, triton.next_power_of_2(size)), num_warps=8,
        )  # fmt: skip
    return tokens
