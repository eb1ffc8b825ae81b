"""Attention over the paged cache of this layer."""

from typing import Any

import torch
from torch import nn

from porter.gap import CannotRun
from porter.runtime.config import CacheConfig, get_current_vllm_config
from porter.runtime.forward_context import get_forward_context
from porter.runtime.kernels.paged_attention import AttentionOptions, paged_attention
from porter.runtime.kernels.store_kv import store_kv
from porter.runtime.layers.quantization import (
    QuantizationConfig,
    refuse_quantization,
)


class AttentionType:
    """Kinds of attention by vLLM's names; the bundled runtime runs DECODER."""

    DECODER = "decoder"
    ENCODER = "encoder"
    ENCODER_ONLY = "encoder_only"
    ENCODER_DECODER = "encoder_decoder"


class Attention(nn.Module):
    """Causal attention with its own cache, found by `prefix`.

    num_heads, num_kv_heads: of this rank. sinks: [num_heads], one more logit each.
    kv_sharing_target_layer_name: reads the cache of that earlier layer instead.
    Raises ValueError on a prefix that another layer has already.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        use_alibi_sqrt: bool | None = None,
        cache_config: CacheConfig | None = None,
        quant_config: QuantizationConfig | None = None,
        logits_soft_cap: float | None = None,
        per_layer_sliding_window: int | None = None,
        prefix: str = "",
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        mm_prefix_clamp_sliding_window: bool = False,
        attn_backend: Any = None,
        head_size_v: int | None = None,
        **extra_impl_args: Any,
    ) -> None:
        super().__init__()
        refuse_quantization(quant_config, prefix)
        self.sinks: torch.Tensor | None = extra_impl_args.pop("sinks", None)
        unknown = [*extra_impl_args, *(["use_alibi_sqrt"] if use_alibi_sqrt else [])]
        if unknown or attn_type != AttentionType.DECODER or attn_backend is not None:
            raise CannotRun(
                f"layer {prefix}: the bundled runtime's Attention has no "
                f"{', '.join(unknown) or f'{attn_type} attention or chosen backend'}"
            )
        if per_layer_sliding_window is None and cache_config is not None:
            per_layer_sliding_window = cache_config.sliding_window
        self.num_heads = num_heads
        self.head_size = head_size
        self.head_size_v = head_size if head_size_v is None else head_size_v
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        assert num_heads % self.num_kv_heads == 0, (
            f"num_heads ({num_heads}) is not divisible by "
            f"num_kv_heads ({self.num_kv_heads})"
        )
        self.scale = float(scale)
        self.sliding_window = per_layer_sliding_window
        self.logits_soft_cap = logits_soft_cap
        self.alibi_slopes = alibi_slopes
        self.attn_type = attn_type
        self.layer_name = prefix
        self.kv_sharing_target_layer_name = kv_sharing_target_layer_name
        self.dtype = torch.get_default_dtype()
        self.key_cache = self.value_cache = torch.tensor([])
        self._options: AttentionOptions | None = None
        self._register(prefix)

    def _register(self, prefix: str) -> None:
        layers = get_current_vllm_config().compilation_config.static_forward_context
        if prefix in layers:
            raise ValueError(f"Duplicate layer name: {prefix}")
        target = self.kv_sharing_target_layer_name
        if target is not None and target not in layers:
            raise ValueError(
                f"Specified KV sharing target layer for {prefix} is not valid: "
                f"target layer {target} is not an earlier Attention layer of the model."
            )
        layers[prefix] = self

    @property
    def cache_sizes(self) -> tuple[int, int]:
        """Of a token and key/value head: numbers in the key and in the value cache."""
        return self.head_size, self.head_size_v

    def bind_kv_cache(self, key_cache: torch.Tensor, value_cache: torch.Tensor) -> None:
        """Give the layer its cache, [num_blocks, block_size, num_kv_heads, size]."""
        self.key_cache, self.value_cache = key_cache, value_cache
        slopes = self.alibi_slopes
        if slopes is not None:
            slopes = torch.as_tensor(
                slopes, dtype=torch.float32, device=key_cache.device
            )
        self._options = AttentionOptions(
            self.scale,
            self.sliding_window,
            self.logits_soft_cap or None,
            slopes,
            self.sinks,
        )

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        output_shape: torch.Size | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """[num_tokens, num_heads * head_size_v].

        query: [num_tokens, num_heads * head_size] or with the heads apart; key and
        value alike over num_kv_heads, None where the cache is another layer's.
        """
        shares = self.kv_sharing_target_layer_name is not None
        if key is not None and value is not None and not shares:
            store_kv(
                key.view(-1, self.num_kv_heads, self.head_size),
                value.view(-1, self.num_kv_heads, self.head_size_v),
                self.key_cache,
                self.value_cache,
                get_forward_context().attn_metadata.slot_mapping,
            )
        output = self.attend(query)
        return output if output_dtype is None else output.to(output_dtype)

    def attend(self, query: torch.Tensor) -> torch.Tensor:
        """As forward, over a cache that holds the step's keys and values already."""
        assert self._options is not None, f"{self.layer_name} has no cache"
        output = paged_attention(
            query.view(-1, self.num_heads, self.head_size),
            self.key_cache,
            self.value_cache,
            get_forward_context().attn_metadata,
            self._options,
        )
        return output.view(-1, self.num_heads * self.head_size_v)

    def extra_repr(self) -> str:
        return (
            f"head_size={self.head_size}, num_heads={self.num_heads}, "
            f"num_kv_heads={self.num_kv_heads}, scale={self.scale}"
        )
