"""Blocks of the paged cache: who has which, and the tensors of each layer.

A sequence's blocks are taken one after another where the pool has them so: attention
on a CPU then reads its keys in place instead of gathering them.
"""

import bisect
from typing import Any

import torch

from porter.gap import UsageError
from porter.runtime.config import VllmConfig
from porter.runtime.layers.attention import Attention

# Bytes of cache on a CPU unless the number of blocks is given.
_CPU_CACHE_BYTES = 1 << 30
# Share of a GPU's free memory.
_GPU_CACHE_SHARE = 0.8


class BlockPool:
    """Hands out block numbers 0 .. num_blocks - 1."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks))  # sorted

    @property
    def num_free(self) -> int:
        return len(self._free)

    def allocate(self, after: int | None, expected: int) -> int:
        """One block: the one after `after` if free, else the start of a free run.

        expected: how many blocks the sequence will want from here on; the first run
        that long is begun, or the longest one. The pool must not be empty.
        """
        if after is not None and (at := self._index(after + 1)) is not None:
            return self._free.pop(at)
        return self._free.pop(self._best_run(expected))

    def release(self, blocks: list[int]) -> None:
        """Take blocks back."""
        self._free = sorted(self._free + blocks)

    def _index(self, block: int) -> int | None:
        at = bisect.bisect_left(self._free, block)
        return at if at < len(self._free) and self._free[at] == block else None

    def _best_run(self, expected: int) -> int:
        best, best_length, start = 0, 0, 0
        for i in range(1, len(self._free) + 1):
            if i < len(self._free) and self._free[i] == self._free[i - 1] + 1:
                continue
            if i - start >= expected:
                return start
            if i - start > best_length:
                best, best_length = start, i - start
            start = i
        return best


def attention_layers(vllm_config: VllmConfig) -> dict[str, Attention]:
    """The layers that own a cache, by name."""
    layers: dict[str, Any] = vllm_config.compilation_config.static_forward_context
    return {n: m for n, m in layers.items() if m.kv_sharing_target_layer_name is None}


def bind_caches(vllm_config: VllmConfig, num_blocks: int) -> None:
    """Allocate each attention layer's cache and give it to the layers that read it.

    The caches are zero: padded attention multiplies what it masks by zero.
    """
    block_size = vllm_config.cache_config.block_size
    device = vllm_config.device_config.device
    every: dict[str, Any] = vllm_config.compilation_config.static_forward_context
    for layer in attention_layers(vllm_config).values():
        shape = (num_blocks, block_size, layer.num_kv_heads)
        key, value = (
            torch.zeros(*shape, size, dtype=layer.dtype, device=device)
            for size in (layer.head_size, layer.head_size_v)
        )
        layer.bind_kv_cache(key, value)
    for layer in every.values():
        if layer.kv_sharing_target_layer_name is not None:
            target = every[layer.kv_sharing_target_layer_name]
            layer.bind_kv_cache(target.key_cache, target.value_cache)


def choose_num_blocks(vllm_config: VllmConfig, asked: int | None) -> int:
    """Blocks for all sequences at full length, or what the memory allows.

    Raises UsageError when the asked number holds not even one token.
    """
    if asked is not None:
        if asked < 1:
            raise UsageError(f"num_blocks must be at least 1, not {asked}")
        return asked
    block_size = vllm_config.cache_config.block_size
    sequence = -(-vllm_config.model_config.max_model_len // block_size)
    wanted = sequence * vllm_config.scheduler_config.max_num_seqs
    device = vllm_config.device_config.device
    budget = _CPU_CACHE_BYTES
    if device.type == "cuda":
        budget = int(torch.cuda.mem_get_info(device)[0] * _GPU_CACHE_SHARE)
    per_block = sum(
        block_size
        * layer.num_kv_heads
        * (layer.head_size + layer.head_size_v)
        * layer.dtype.itemsize
        for layer in attention_layers(vllm_config).values()
    )
    return max(1, min(wanted, budget // max(per_block, 1)))
