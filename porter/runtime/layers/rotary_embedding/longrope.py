"""LongRoPE, arXiv 2402.13753: a factor for each frequency."""

import math

import torch
from torch import nn

from porter.runtime.config import get_current_vllm_config
from porter.runtime.kernels.rotary_embedding import rotate_by_position
from porter.runtime.layers.rotary_embedding.base import cos_sin


class LongRotaryEmbedding(nn.Module):
    """Short or long factors for every sequence of an engine alike.

    Long ones when the engine's max_model_len exceeds the original length: a choice
    by the length of each sequence would invalidate keys that are in the cache.
    long_short_cos_sin_cache: the short table, then the long one.
    Neox style only; query and key are [num_tokens, heads * head_size].
    """

    long_short_cos_sin_cache: torch.Tensor

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        original_max_position_embeddings: int,
        base: float,
        is_neox_style: bool,
        dtype: torch.dtype,
        short_factor: list[float],
        long_factor: list[float],
        short_mscale: float | None = None,
        long_mscale: float | None = None,
    ) -> None:
        super().__init__()
        if is_neox_style is False:
            raise ValueError("longrope only supports neox_style.")
        self.head_size = head_size
        self.rotary_dim = rotary_dim
        self.base = base
        self.is_neox_style = True
        self.max_position_embeddings = max_position_embeddings
        self.original_max_position_embeddings = original_max_position_embeddings
        max_model_len = get_current_vllm_config().model_config.max_model_len
        self.use_long_rope = max_model_len > original_max_position_embeddings
        default = self._default_mscale()
        self.short_mscale = default if short_mscale is None else short_mscale
        self.long_mscale = default if long_mscale is None else long_mscale
        short = self._table(
            original_max_position_embeddings, short_factor, self.short_mscale
        )
        long = self._table(max_position_embeddings, long_factor, self.long_mscale)
        tables = torch.cat((short, long)).to(dtype)
        self.register_buffer("long_short_cos_sin_cache", tables, persistent=False)

    def _default_mscale(self) -> float:
        original = self.original_max_position_embeddings
        scale = self.max_position_embeddings / original
        if scale <= 1.0:
            return 1.0
        return math.sqrt(1 + math.log(scale) / math.log(original))

    def _table(self, count: int, factors: list[float], mscale: float) -> torch.Tensor:
        exponents = torch.arange(0, self.rotary_dim, 2, dtype=torch.float)
        wavelengths = self.base ** (exponents / self.rotary_dim)
        inv_freq = 1.0 / (torch.tensor(factors, dtype=torch.float32) * wavelengths)
        return cos_sin(torch.arange(count, dtype=torch.float), inv_freq, mscale)

    def forward(
        self,
        positions: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor | None = None,
        offsets: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert key is not None and query.dim() == 2, "longrope takes flat heads"
        rows = positions
        if self.use_long_rope:
            rows = rows + self.original_max_position_embeddings
        if offsets is not None:
            rows = rows + offsets
        rotated, rotated_key = rotate_by_position(
            rows, query, key, self.long_short_cos_sin_cache, self.head_size, True
        )
        return rotated.flatten(1), rotated_key.flatten(1)
