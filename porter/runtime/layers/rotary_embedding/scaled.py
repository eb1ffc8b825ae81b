"""Rotary embeddings that stretch the frequencies for longer contexts."""

import math

import torch

from porter.runtime.layers.rotary_embedding.base import RotaryEmbedding, cos_sin


class LinearScalingRotaryEmbedding(RotaryEmbedding):
    """Positions divided by a float factor; serves factor times as many of them."""

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        base: float,
        is_neox_style: bool,
        scaling_factors: list[float] | float,
        dtype: torch.dtype,
    ) -> None:
        if isinstance(scaling_factors, float):
            scaling_factors = [scaling_factors]
        elif isinstance(scaling_factors, int):
            # vLLM fails on one too; a port has to pass float(factor).
            raise TypeError("the factor of linear rope scaling must be a float")
        self.scaling_factors = scaling_factors
        super().__init__(
            head_size, rotary_dim, max_position_embeddings, base, is_neox_style, dtype
        )

    def _compute_cos_sin_cache(self) -> torch.Tensor:
        inv_freq = self._compute_inv_freq(self.base)
        tables = []
        for factor in self.scaling_factors:
            count = self.max_position_embeddings * factor
            positions = torch.arange(count, dtype=torch.float) / factor
            tables.append(cos_sin(positions, inv_freq))
        return torch.cat(tables)


class DynamicNTKScalingRotaryEmbedding(RotaryEmbedding):
    """The base grown once for max_position_embeddings over the trained length.

    Nothing depends on the length of a sequence: with max_trained_positions equal to
    max_position_embeddings, the default, the frequencies are the unscaled ones.
    """

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        max_trained_positions: int,
        base: float,
        is_neox_style: bool,
        scaling_factor: float,
        dtype: torch.dtype,
    ) -> None:
        self.scaling_factor = scaling_factor
        self.max_trained_positions = max_trained_positions
        super().__init__(
            head_size, rotary_dim, max_position_embeddings, base, is_neox_style, dtype
        )

    def _compute_inv_freq(self, base: float) -> torch.Tensor:
        length = self.max_position_embeddings / self.max_trained_positions
        growth = self.scaling_factor * length - (self.scaling_factor - 1)
        exponent = self.rotary_dim / (self.rotary_dim - 2)
        return super()._compute_inv_freq(base * growth**exponent)


class DynamicNTKAlphaRotaryEmbedding(RotaryEmbedding):
    """The base times alpha^(d / (d - 2))."""

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        base: float,
        is_neox_style: bool,
        scaling_alpha: float,
        dtype: torch.dtype,
    ) -> None:
        self.scaling_alpha = scaling_alpha
        super().__init__(
            head_size, rotary_dim, max_position_embeddings, base, is_neox_style, dtype
        )

    def _compute_inv_freq(self, base: float) -> torch.Tensor:
        exponent = self.rotary_dim / (self.rotary_dim - 2)
        return super()._compute_inv_freq(base * self.scaling_alpha**exponent)


class NTKScalingRotaryEmbedding(RotaryEmbedding):
    """Fixed scaling of the base, or mixed over the frequencies when mixed_b is given.

    Formulas: kexue.fm/archives/9706.
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
        mixed_b: float | None = None,
    ) -> None:
        self.scaling_factor = scaling_factor
        self.mixed_b = mixed_b
        super().__init__(
            head_size, rotary_dim, max_position_embeddings, base, is_neox_style, dtype
        )

    def _compute_inv_freq(self, base: float) -> torch.Tensor:
        if self.mixed_b is None:
            inv_freq = super()._compute_inv_freq(base * self.scaling_factor)
            return inv_freq / self.scaling_factor ** (2 / self.rotary_dim)
        half = self.rotary_dim // 2
        a = torch.tensor(self.scaling_factor).log() / half**self.mixed_b
        steps = torch.arange(1, half + 1).float()
        return super()._compute_inv_freq(base) / (a * steps**self.mixed_b).exp()


class Llama3RotaryEmbedding(RotaryEmbedding):
    """Long wavelengths divided by a factor, short ones kept, a blend in between."""

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        base: float,
        is_neox_style: bool,
        dtype: torch.dtype,
        scaling_factor: float,
        low_freq_factor: float,
        high_freq_factor: float,
        orig_max_position: int,
    ) -> None:
        self.scaling_factor = scaling_factor
        self.low_freq_factor = low_freq_factor
        self.high_freq_factor = high_freq_factor
        self.orig_max_position = orig_max_position
        super().__init__(
            head_size, rotary_dim, max_position_embeddings, base, is_neox_style, dtype
        )

    def _compute_inv_freq(self, base: float) -> torch.Tensor:
        inv_freq = super()._compute_inv_freq(base)
        wavelength = 2 * math.pi / inv_freq
        low, high = self.low_freq_factor, self.high_freq_factor
        smooth: torch.Tensor | float = 0.0
        if low != high:
            smooth = (self.orig_max_position / wavelength - low) / (high - low)
        scaled = inv_freq / self.scaling_factor
        blend = (1 - smooth) * inv_freq / self.scaling_factor + smooth * inv_freq
        long = wavelength > self.orig_max_position / low
        short = wavelength < self.orig_max_position / high
        return torch.where(short, inv_freq, torch.where(long, scaled, blend))
