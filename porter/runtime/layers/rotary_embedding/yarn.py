"""YaRN, arXiv 2309.00071: interpolate slow frequencies, keep fast ones."""

import math

import torch

from porter.runtime.layers.rotary_embedding.base import RotaryEmbedding, cos_sin


def yarn_get_mscale(scale: float = 1, mscale: float = 1) -> float:
    """How much attention is sharpened for a stretch of `scale`."""
    return 1.0 if scale <= 1 else 0.1 * mscale * math.log(scale) + 1.0


class YaRNScalingRotaryEmbedding(RotaryEmbedding):
    """max_position_embeddings is the original length; factor times it is served.

    beta_fast, beta_slow: rotations over the original length that bound the blend.
    truncate: whether those bounds are rounded outwards to whole dimensions.
    """

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        base: float,
        is_neox_style: bool,
        scaling_factor: float,
        dtype: torch.dtype,
        *,
        beta_fast: int = 32,
        beta_slow: int = 1,
        mscale: float | None = None,
        mscale_all_dim: float | None = None,
        attention_factor: float | None = None,
        truncate: bool = True,
    ) -> None:
        self.scaling_factor = scaling_factor
        self.beta_fast = beta_fast
        self.beta_slow = beta_slow
        self.truncate = truncate
        if attention_factor is not None:
            self.mscale = float(attention_factor)
        elif mscale and mscale_all_dim:
            self.mscale = yarn_get_mscale(scaling_factor, mscale) / yarn_get_mscale(
                scaling_factor, mscale_all_dim
            )
        else:
            self.mscale = yarn_get_mscale(scaling_factor)
        super().__init__(
            head_size, rotary_dim, max_position_embeddings, base, is_neox_style, dtype
        )

    def _bound(self, rotations: float) -> float:
        """The dimension that turns so many times over the original length."""
        ratio = self.max_position_embeddings / (rotations * 2 * math.pi)
        return self.rotary_dim * math.log(ratio) / (2 * math.log(self.base))

    def _compute_inv_freq(self, base: float) -> torch.Tensor:
        exponents = torch.arange(0, self.rotary_dim, 2, dtype=torch.float)
        wavelengths = base ** (exponents / self.rotary_dim)
        low, high = self._bound(self.beta_fast), self._bound(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.rotary_dim - 1)
        if low == high:
            high += 0.001
        steps = torch.arange(self.rotary_dim // 2, dtype=torch.float)
        kept = 1 - ((steps - low) / (high - low)).clamp(0, 1)
        interpolated = 1.0 / (self.scaling_factor * wavelengths)
        return interpolated * (1 - kept) + 1.0 / wavelengths * kept

    def _compute_cos_sin_cache(self) -> torch.Tensor:
        count = self.max_position_embeddings * self.scaling_factor
        positions = torch.arange(count, dtype=torch.float)
        return cos_sin(positions, self._compute_inv_freq(self.base), self.mscale)


class DeepseekScalingRotaryEmbedding(YaRNScalingRotaryEmbedding):
    """YaRN with the attention factor always mscale over mscale_all_dim."""

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        base: float,
        is_neox_style: bool,
        scaling_factor: float,
        dtype: torch.dtype,
        *,
        beta_fast: int = 32,
        beta_slow: int = 1,
        mscale: float = 1,
        mscale_all_dim: float = 0,
    ) -> None:
        super().__init__(
            head_size,
            rotary_dim,
            max_position_embeddings,
            base,
            is_neox_style,
            scaling_factor,
            dtype,
            beta_fast=beta_fast,
            beta_slow=beta_slow,
            attention_factor=yarn_get_mscale(scaling_factor, float(mscale))
            / yarn_get_mscale(scaling_factor, float(mscale_all_dim)),
        )
