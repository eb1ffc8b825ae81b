"""Attention of a mixed batch: decodes in one launch, prefills in another."""

import functools
import importlib
import warnings
from types import ModuleType

import torch

from porter.runtime.forward_context import AttentionMetadata
from porter.runtime.kernels.gpu.device import compute_capability, interpreting
from porter.runtime.kernels.gpu.paged_decode import paged_decode
from porter.runtime.kernels.gpu.paged_prefill import (
    PrefillBatch,
    PrefillShape,
    paged_prefill,
    plan_work,
    prefill_shape,
)
from porter.runtime.kernels.gpu.strides import adjacent
from porter.runtime.kernels.paged_attention import AttentionOptions

_FEW_KEYS = 256


def paged_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    metadata: AttentionMetadata,
    options: AttentionOptions,
) -> torch.Tensor:
    """As the reference; metadata must have its tensors."""
    tensors = metadata.tensors
    assert tensors is not None, "the batch's tensors aren't on the device"
    query = adjacent(query)
    output = query.new_empty(*query.shape[:2], value_cache.shape[-1])
    decodes = metadata.num_decodes
    if decodes:
        paged_decode(
            query[:decodes], key_cache, value_cache, tensors.block_tables[:decodes],
            tensors.seq_lens[:decodes], options, output[:decodes],
        )  # fmt: skip
    if decodes < len(metadata.seq_lens):
        starts = metadata.query_start
        query_lens = [b - a for a, b in zip(starts, starts[1:], strict=False)]
        shape = prefill_shape(
            max(query_lens[decodes:]),
            max(query.shape[-1], value_cache.shape[-1]),
            query.dtype == torch.float32 or interpreting(),
        )
        batch = PrefillBatch(
            tensors.block_tables, tensors.seq_lens, tensors.query_start_loc,
            _work(metadata, query_lens, shape, query.device),
            max(metadata.seq_lens[decodes:]),
        )  # fmt: skip
        prefill(query, key_cache, value_cache, batch, shape, options, output)
    return output


def prefill(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    batch: PrefillBatch,
    shape: PrefillShape,
    options: AttentionOptions,
    output: torch.Tensor,
) -> None:
    """As paged_prefill, by Hopper's own instructions where they fit.

    With few keys a program ends before its loads, products and softmaxes overlap, and
    two small programs an SM are quicker.
    """
    hopper = _hopper() if batch.most_keys > _FEW_KEYS else None
    if hopper and hopper.suits(query, key_cache, value_cache, shape.block_m):
        hopper.hopper_prefill(query, key_cache, value_cache, batch, options, output)
    else:
        paged_prefill(query, key_cache, value_cache, batch, shape, options, output)


@functools.cache
def _hopper() -> ModuleType | None:
    """The kernel for the matrix instructions that only Hopper has, where there is one."""
    if interpreting() or compute_capability() // 10 != 9:
        return None
    try:
        return importlib.import_module("porter.runtime.kernels.gpu.hopper_prefill")
    except ImportError as error:  # Gluon is experimental: its names may change
        warnings.warn(f"prefills take a slower kernel: {error}", stacklevel=2)
        return None


def _work(
    metadata: AttentionMetadata,
    query_lens: list[int],
    shape: PrefillShape,
    device: torch.device,
) -> torch.Tensor:
    """The programs of a launch, made once a step for all layers."""
    assert metadata.tensors is not None
    plans = metadata.tensors.prefill_work
    if shape.block_m not in plans:
        plan = plan_work(
            query_lens, metadata.seq_lens, metadata.num_decodes, shape.block_m
        )
        plans[shape.block_m] = torch.tensor(plan, dtype=torch.int32).to(
            device, non_blocking=True
        )
    return plans[shape.block_m]
