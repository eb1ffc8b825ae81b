"""Write a step's keys and values into the paged cache."""

import torch

from porter.runtime.kernels.dispatch import gpu_version


@gpu_version("store_kv:store_kv")
def store_kv(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    """key, value: [num_tokens, num_kv_heads, head_size].

    key_cache, value_cache: [num_blocks, block_size, num_kv_heads, head_size].
    slot_mapping: [num_tokens], row of the cache seen as one list of slots. On a GPU a
    token of slot -1 is not stored: padding of a captured batch.
    """
    for new, cache in ((key, key_cache), (value, value_cache)):
        # A view, or an error: flatten() would copy some layouts, and the copy be filled.
        cache.view(-1, *cache.shape[2:]).index_copy_(0, slot_mapping, new)
