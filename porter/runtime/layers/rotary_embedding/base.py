"""The rotary embedding without scaling, and what all kinds share."""

import torch
from torch import nn

from porter.runtime.kernels.rotary_embedding import rotate_by_position


class RotaryEmbedding(nn.Module):
    """Rotates the first rotary_dim elements of each head by its token's position.

    cos_sin_cache: [positions, rotary_dim], cosines in the first half, sines in the
    second. Frequency i is base^(-2i / rotary_dim), arXiv 2104.09864.
    """

    cos_sin_cache: torch.Tensor

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        base: float,
        is_neox_style: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.head_size = head_size
        self.rotary_dim = rotary_dim
        self.max_position_embeddings = max_position_embeddings
        self.base = base
        self.is_neox_style = is_neox_style
        self.dtype = dtype
        cache = self._compute_cos_sin_cache().to(dtype)
        self.register_buffer("cos_sin_cache", cache, persistent=False)

    def _compute_inv_freq(self, base: float) -> torch.Tensor:
        exponents = torch.arange(0, self.rotary_dim, 2, dtype=torch.float)
        return 1.0 / base ** (exponents / self.rotary_dim)

    def _compute_cos_sin_cache(self) -> torch.Tensor:
        positions = torch.arange(self.max_position_embeddings, dtype=torch.float)
        return cos_sin(positions, self._compute_inv_freq(self.base))

    def get_cos_sin(self, seqlen: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the first seqlen positions, [seqlen, rotary_dim / 2]."""
        cos, sin = self.cos_sin_cache[:seqlen].chunk(2, dim=-1)
        return cos, sin

    def forward(
        self,
        positions: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """query, key: [num_tokens, heads * head_size] or with the heads apart."""
        return rotate_by_position(
            positions,
            query,
            key,
            self.cos_sin_cache,
            self.head_size,
            self.is_neox_style,
        )

    def extra_repr(self) -> str:
        return (
            f"head_size={self.head_size}, rotary_dim={self.rotary_dim}, "
            f"base={self.base}, is_neox_style={self.is_neox_style}"
        )


class ProportionalRotaryEmbedding(RotaryEmbedding):
    """Frequencies spread over the whole head; those past rotary_dim are zero."""

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        base: float,
        is_neox_style: bool,
        dtype: torch.dtype,
    ) -> None:
        self.rope_angles = rotary_dim // 2
        super().__init__(
            head_size, head_size, max_position_embeddings, base, is_neox_style, dtype
        )

    def _compute_inv_freq(self, base: float) -> torch.Tensor:
        turning = super()._compute_inv_freq(base)[: self.rope_angles]
        still = torch.zeros(self.head_size // 2 - self.rope_angles)
        return torch.cat((turning, still))


def cos_sin(
    positions: torch.Tensor, inv_freq: torch.Tensor, scale: float = 1.0
) -> torch.Tensor:
    """[len(positions), 2 * len(inv_freq)] fp32: cosines, then sines, times scale."""
    angles = torch.outer(positions, inv_freq)
    return torch.cat((angles.cos() * scale, angles.sin() * scale), dim=-1)
