"""Latent attention over a cache of the compressed vectors.

A token's cache is one row for all heads: the latent that `kv_b_proj` expands to keys and
values, and the part of the key that carries the position. Nothing is expanded: with
k = W_k c and v = W_v c a head's scores q.k are (W_k^T q).c, and its output is W_v times
the weighted sum of latents (DeepSeek-V2, arXiv 2405.04434, section 2.1). So attention is
that of one key/value head whose values are the first columns of its keys.
"""

from typing import Any

import torch
from torch import nn

from porter.gap import CannotRun
from porter.runtime.config import CacheConfig, get_current_vllm_config
from porter.runtime.forward_context import get_forward_context
from porter.runtime.kernels.paged_attention import AttentionOptions, paged_attention
from porter.runtime.layers.linear import ColumnParallelLinear
from porter.runtime.layers.quantization import (
    QuantizationConfig,
    refuse_quantization,
)


class MLAAttention(nn.Module):
    """Causal latent attention with its own cache, found by `prefix`.

    num_heads: of this rank. kv_b_proj: [num_heads * (qk_nope_head_dim + v_head_dim),
    kv_lora_rank], head by head the rows of the key, then those of the value.
    Raises ValueError on a prefix that another layer has already.
    """

    kv_sharing_target_layer_name = None
    num_kv_heads = 1

    def __init__(
        self,
        num_heads: int,
        scale: float,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        v_head_dim: int,
        q_lora_rank: int | None,
        kv_lora_rank: int,
        kv_b_proj: ColumnParallelLinear,
        dcp_q_replicate: bool = False,
        cache_config: CacheConfig | None = None,
        quant_config: QuantizationConfig | None = None,
        prefix: str = "",
        attn_backend: Any = None,
        use_sparse: bool = False,
        indexer: Any = None,
        topk_indices_buffer: torch.Tensor | None = None,
        index_group_builder: Any = None,
        non_causal_multi_token_decode: bool = False,
        sliding_window: int | None = None,
        prefill_backend_cls: Any = None,
        **extra_impl_args: Any,
    ) -> None:
        super().__init__()
        refuse_quantization(quant_config, prefix)
        further = {
            "dcp_q_replicate": dcp_q_replicate,
            "attn_backend": attn_backend,
            "use_sparse": use_sparse,
            "indexer": indexer,
            "topk_indices_buffer": topk_indices_buffer,
            "index_group_builder": index_group_builder,
            "non_causal_multi_token_decode": non_causal_multi_token_decode,
            "sliding_window": sliding_window,
            "prefill_backend_cls": prefill_backend_cls,
            **extra_impl_args,
        }
        asked = [name for name, value in further.items() if value]
        if asked:
            raise CannotRun(
                f"layer {prefix}: the bundled runtime's MLAAttention has no "
                f"{', '.join(asked)}"
            )
        self.num_heads = num_heads
        self.scale = float(scale)
        self.qk_nope_head_dim = qk_nope_head_dim
        self.qk_rope_head_dim = qk_rope_head_dim
        self.v_head_dim = v_head_dim
        self.kv_lora_rank = kv_lora_rank
        self.head_size = kv_lora_rank + qk_rope_head_dim
        self.kv_b_proj = kv_b_proj
        self.layer_name = prefix
        self.dtype = torch.get_default_dtype()
        self.key_cache = self.value_cache = torch.tensor([])
        self.w_k = self.w_v = torch.tensor([])
        self._options = AttentionOptions(self.scale)
        layers = get_current_vllm_config().compilation_config.static_forward_context
        if prefix in layers:
            raise ValueError(f"Duplicate layer name: {prefix}")
        layers[prefix] = self

    @property
    def cache_sizes(self) -> tuple[int]:
        """Of a token: numbers in its one cache."""
        return (self.head_size,)

    def process_weights_after_loading(self) -> None:
        """Take the projection apart: w_k [heads, nope, rank], w_v [heads, v, rank]."""
        sizes = [self.qk_nope_head_dim, self.v_head_dim]
        weight = self.kv_b_proj.weight.detach()
        rows = weight.view(self.num_heads, sum(sizes), self.kv_lora_rank)
        self.w_k, self.w_v = (part.contiguous() for part in rows.split(sizes, dim=1))

    def bind_kv_cache(self, cache: torch.Tensor) -> None:
        """Give the layer its cache, [num_blocks, block_size, 1, head_size]."""
        self.key_cache = cache
        self.value_cache = cache[..., : self.kv_lora_rank]

    def forward(
        self,
        q: torch.Tensor,
        kv_c_normed: torch.Tensor,
        k_pe: torch.Tensor,
        output_shape: torch.Size | tuple[int, int] | None = None,
        q_dcp_replicated: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[num_tokens, num_heads * v_head_dim].

        q: [num_tokens, num_heads, qk_nope_head_dim + qk_rope_head_dim]. kv_c_normed:
        [num_tokens, kv_lora_rank], what the projection expands. k_pe: [num_tokens, 1,
        qk_rope_head_dim].
        """
        metadata = get_forward_context().attn_metadata
        rows = torch.cat((kv_c_normed, k_pe.squeeze(1)), dim=-1).unsqueeze(1)
        self.key_cache.flatten(0, 1).index_copy_(0, metadata.slot_mapping, rows)
        nope, rope = q.split([self.qk_nope_head_dim, self.qk_rope_head_dim], dim=-1)
        absorbed = torch.einsum("thn,hnr->thr", nope, self.w_k)
        latents = paged_attention(
            torch.cat((absorbed, rope), dim=-1),
            self.key_cache,
            self.value_cache,
            metadata,
            self._options,
        )
        return torch.einsum("thr,hvr->thv", latents, self.w_v).flatten(1)

    def extra_repr(self) -> str:
        return (
            f"num_heads={self.num_heads}, kv_lora_rank={self.kv_lora_rank}, "
            f"qk_rope_head_dim={self.qk_rope_head_dim}, scale={self.scale}"
        )
