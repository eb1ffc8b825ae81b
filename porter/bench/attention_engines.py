"""Attention kernels by name: ours, and the peers that are installed.

Each takes a problem and returns a call that computes it again and again. A peer that
isn't there, or fails, says so in the table instead of a figure.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from porter.bench.attention_cases import BLOCK, KV_HEADS, SIZE, Problem

Call = Callable[[], torch.Tensor]


def ours_decode(problem: Problem) -> Call:
    from porter.runtime.kernels.gpu.paged_decode import paged_decode
    from porter.runtime.kernels.paged_attention import AttentionOptions

    options, output = AttentionOptions(SIZE**-0.5), torch.empty_like(problem.query)

    def call() -> torch.Tensor:
        paged_decode(
            problem.query, problem.key_cache, problem.value_cache,
            problem.block_tables, problem.seq_lens, options, output,
        )  # fmt: skip
        return output

    return call


def ours_prefill(problem: Problem) -> Call:
    from porter.runtime.kernels.gpu.paged_attention import prefill
    from porter.runtime.kernels.gpu.paged_prefill import (
        PrefillBatch,
        plan_work,
        prefill_shape,
    )
    from porter.runtime.kernels.paged_attention import AttentionOptions

    options, output = AttentionOptions(SIZE**-0.5), torch.empty_like(problem.query)
    shape = prefill_shape(max(problem.lens), SIZE, False)
    work = torch.tensor(
        plan_work(problem.lens, problem.lens, 0, shape.block_m), dtype=torch.int32
    ).cuda()
    batch = PrefillBatch(
        problem.block_tables,
        problem.seq_lens,
        _starts(problem),
        work,
        max(problem.lens),
    )

    def call() -> torch.Tensor:
        prefill(
            problem.query, problem.key_cache, problem.value_cache,
            batch, shape, options, output,
        )  # fmt: skip
        return output

    return call


def _starts(problem: Problem) -> torch.Tensor:
    lens = torch.tensor([0, *problem.lens])
    return lens.cumsum(0).to(torch.int32).cuda()


def flashinfer_decode(problem: Problem) -> Call:
    """FlashInfer's batch decode on its tensor core path, planned once."""
    import flashinfer

    workspace = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        workspace, "HND", use_tensor_cores=True
    )
    count = [-(-n // BLOCK) for n in problem.lens]
    indptr = torch.tensor([0, *count]).cumsum(0).to(torch.int32).cuda()
    indices = torch.cat(
        [row[:n] for row, n in zip(problem.block_tables, count, strict=True)]
    )
    last = torch.tensor([(n - 1) % BLOCK + 1 for n in problem.lens], dtype=torch.int32)
    heads = problem.query.shape[1]
    wrapper.plan(
        indptr, indices, last.cuda(), heads, KV_HEADS, SIZE, BLOCK,
        q_data_type=problem.query.dtype, kv_data_type=problem.query.dtype,
    )  # fmt: skip
    caches = tuple(c.transpose(1, 2) for c in (problem.key_cache, problem.value_cache))
    output = torch.empty_like(problem.query)
    return lambda: wrapper.run(problem.query, caches, out=output)


def _fa3(**arguments: Any) -> torch.Tensor:
    _load_fa3()
    get = arguments.get
    return torch.ops._vllm_fa3_C.fwd(
        get("q"), get("k"), get("v"), None, None, None, get("out"),
        get("cu_seqlens_q"), get("cu_seqlens_k"), None, None, get("seqused_k"),
        get("max_seqlen_q"), get("max_seqlen_k"), get("page_table"), None, None,
        None, None, None, None, None, None, SIZE**-0.5, True, -1, -1, 0.0, True,
        None, get("num_splits"), None, 0, None, 1, 0, None,
    )[0]  # fmt: skip


def _load_fa3() -> None:
    if hasattr(torch.ops._vllm_fa3_C, "fwd"):
        return
    import importlib.util

    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        raise ImportError("vLLM is not installed")
    folder = Path(found.origin).parent / "vllm_flash_attn"
    torch.ops.load_library(str(next(folder.glob("_vllm_fa3_C*.so"))))


def fa3_decode(problem: Problem) -> Call:
    """FlashAttention-3 as vLLM ships it, over the paged cache, splits by its own rule."""
    count = len(problem.lens)
    starts = torch.arange(count + 1, dtype=torch.int32, device="cuda")
    output = torch.empty_like(problem.query)
    return lambda: _fa3(
        q=problem.query, k=problem.key_cache, v=problem.value_cache, out=output,
        cu_seqlens_q=starts, seqused_k=problem.seq_lens, max_seqlen_q=1,
        max_seqlen_k=max(problem.lens), page_table=problem.block_tables, num_splits=0,
    )  # fmt: skip


def fa3_prefill(problem: Problem) -> Call:
    """FlashAttention-3 over keys that lie in a row, not in a paged cache."""
    key, value = (
        _in_a_row(c, problem) for c in (problem.key_cache, problem.value_cache)
    )
    starts, longest = _starts(problem), max(problem.lens)
    output = torch.empty_like(problem.query)
    return lambda: _fa3(
        q=problem.query, k=key, v=value, out=output, cu_seqlens_q=starts,
        cu_seqlens_k=starts, max_seqlen_q=longest, max_seqlen_k=longest, num_splits=1,
    )  # fmt: skip


def sdpa_prefill(problem: Problem) -> Call:
    """torch's scaled_dot_product_attention, as HuggingFace calls it."""
    key, value = (
        _in_a_row(c, problem) for c in (problem.key_cache, problem.value_cache)
    )
    batch = len(problem.lens)
    query, key, value = (
        x.unflatten(0, (batch, -1)).transpose(1, 2).contiguous()
        for x in (problem.query, key, value)
    )
    attend = torch.nn.functional.scaled_dot_product_attention

    def call() -> torch.Tensor:
        output = attend(query, key, value, is_causal=True, enable_gqa=True)
        return output.transpose(1, 2).flatten(0, 1)

    return call


def _in_a_row(cache: torch.Tensor, problem: Problem) -> torch.Tensor:
    rows = [
        cache[table.long()].flatten(0, 1)[:n]
        for table, n in zip(problem.block_tables, problem.lens, strict=True)
    ]
    return torch.cat(rows)


DECODE: dict[str, Callable[[Problem], Call]] = {
    "porter": ours_decode,
    "flashinfer": flashinfer_decode,
    "fa3": fa3_decode,
}
PREFILL: dict[str, Callable[[Problem], Call]] = {
    "porter": ours_prefill,
    "fa3": fa3_prefill,
    "sdpa": sdpa_prefill,
}
