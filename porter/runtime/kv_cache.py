"""Blocks of the paged cache: who has which, and the tensors of each layer.

A sequence's blocks are taken one after another where the pool has them so: attention
on a CPU then reads its keys in place instead of gathering them.
"""

from typing import Any

import torch

from porter.gap import UsageError
from porter.runtime.config import VllmConfig
from porter.runtime.layers.attention import Attention
from porter.runtime.layers.latent_attention import MLAAttention

# Bytes of cache on a CPU unless the number of blocks is given.
_CPU_CACHE_BYTES = 1 << 30
# Left free on a GPU: captured graphs, libraries, and what fragments.
_GPU_MARGIN = 4 << 30


class BlockPool:
    """Hands out block numbers 0 .. num_blocks - 1.

    The blocks that a sequence is likely to need next are promised to it: others take
    them only when nothing else is free.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = set(range(num_blocks))
        self._promised: set[int] = set()
        self._promise_end: dict[int, int] = {}  # last block of a sequence -> end

    @property
    def num_free(self) -> int:
        return len(self._free)

    def extend(self, blocks: list[int], expected: int) -> None:
        """Append one free block to a sequence's blocks, the next one if possible.

        expected: how many blocks the sequence will have in the end. There must be a
        free block.
        """
        last = blocks[-1] if blocks else -1
        end = self._promise_end.pop(last, 0)
        block = last + 1
        if not blocks or block not in self._free:
            self._forget(block, end)
            block, end = self._start_run(expected - len(blocks))
        self._free.remove(block)
        self._promised.discard(block)
        if block + 1 < end:
            self._promise_end[block] = end
        blocks.append(block)

    def release(self, blocks: list[int]) -> None:
        """Take a sequence's blocks back, and what was promised to it."""
        if blocks:
            self._forget(blocks[-1] + 1, self._promise_end.pop(blocks[-1], 0))
        self._free.update(blocks)

    def _forget(self, start: int, end: int) -> None:
        self._promised.difference_update(range(start, end))

    def _start_run(self, length: int) -> tuple[int, int]:
        """First and one-past-last block of a run; all but the first are promised."""
        unpromised = sorted(self._free - self._promised)
        for i in range(len(unpromised) - length + 1):
            start = unpromised[i]
            if unpromised[i + length - 1] == start + length - 1:
                self._promised.update(range(start + 1, start + length))
                return start, start + length
        block = unpromised[0] if unpromised else min(self._free)
        return block, block + 1


def attention_layers(
    vllm_config: VllmConfig,
) -> dict[str, Attention | MLAAttention]:
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
        caches = [
            _new_cache((*shape, size), layer.dtype, device)
            for size in layer.cache_sizes
        ]
        layer.bind_kv_cache(*caches)
    for layer in every.values():
        if layer.kv_sharing_target_layer_name is not None:
            target = every[layer.kv_sharing_target_layer_name]
            layer.bind_kv_cache(target.key_cache, target.value_cache)


def _new_cache(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """[num_blocks, block_size, num_kv_heads, size], in memory as it is read: on a GPU by
    a program for each head of a block, on a CPU head by head of a whole sequence."""
    blocks, slots, heads, size = shape
    if device.type == "cpu":
        return torch.zeros(heads, blocks, slots, size, dtype=dtype).permute(1, 2, 0, 3)
    cache = torch.zeros(blocks, heads, slots, size, dtype=dtype, device=device)
    return cache.transpose(1, 2)


def unbind_caches(vllm_config: VllmConfig) -> None:
    """Give the caches' memory back."""
    for layer in vllm_config.compilation_config.static_forward_context.values():
        layer.key_cache = layer.value_cache = torch.tensor([])


def choose_num_blocks(vllm_config: VllmConfig, asked: int | None, peak: int = 0) -> int:
    """Blocks for all sequences at full length, or what the memory allows.

    peak: bytes that a step takes besides, on a GPU. Raises UsageError when the asked
    number holds not even one token.
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
        budget = max(0, torch.cuda.mem_get_info(device)[0] - peak - _GPU_MARGIN)
    per_block = block_size * bytes_per_token(vllm_config)
    return max(1, min(wanted, budget // max(per_block, 1)))


def bytes_per_token(vllm_config: VllmConfig) -> int:
    """What a token takes of the caches of this rank's layers together."""
    return sum(
        layer.num_kv_heads * sum(layer.cache_sizes) * layer.dtype.itemsize
        for layer in attention_layers(vllm_config).values()
    )
