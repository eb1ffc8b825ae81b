"""From projections to the cache: head norms, rotation and the cache's write in one."""

from typing import NamedTuple

import torch

from porter.runtime.kernels.dispatch import gpu_version
from porter.runtime.kernels.rms_norm import rms_norm
from porter.runtime.kernels.rotary_embedding import rotate_by_position
from porter.runtime.kernels.store_kv import store_kv


class HeadNorm(NamedTuple):
    """An RMSNorm of each head. weight: [head_size], None where there is none."""

    weight: torch.Tensor | None
    eps: float


@gpu_version("rotate_and_store:rotate_and_store")
def rotate_and_store(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    is_neox_style: bool,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    query_norm: HeadNorm | None = None,
    key_norm: HeadNorm | None = None,
) -> torch.Tensor:
    """The query, normed and rotated, in its own shape; keys, treated alike, and values
    are in the cache.

    query, key, value: [num_tokens, heads * size] or with the heads apart; the heads' sizes
    are the caches'. The rest is as `rms_norm`, `rotate_by_position` and `store_kv` have it.
    """
    kv_heads, head_size = key_cache.shape[-2:]

    def normed(x: torch.Tensor, norm: HeadNorm | None) -> torch.Tensor:
        heads = x.reshape(len(slot_mapping), -1, head_size)
        return heads if norm is None else rms_norm(heads, *norm)

    rotated, rotated_key = rotate_by_position(
        positions,
        normed(query, query_norm),
        normed(key, key_norm),
        cos_sin_cache,
        head_size,
        is_neox_style,
    )
    values = value.reshape(len(slot_mapping), kv_heads, -1)
    store_kv(rotated_key, values, key_cache, value_cache, slot_mapping)
    return rotated.view(query.shape)
