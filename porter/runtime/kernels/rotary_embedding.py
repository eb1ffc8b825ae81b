"""The rotation of query and key heads by position."""

import torch

from porter.runtime.kernels.dispatch import gpu_version


def apply_rotary(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_neox_style: bool
) -> torch.Tensor:
    """Rotate the pairs of the first axes of each head; the rest passes through.

    x: [num_tokens, heads, head_size]. cos, sin: [num_tokens, rotary_dim / 2].
    Pairs are (i, i + rotary_dim / 2) when neox, (2i, 2i + 1) otherwise.
    Su et al., arXiv 2104.09864.
    """
    rotary_dim = 2 * cos.shape[-1]
    cos = cos.unsqueeze(-2).to(x.dtype)
    sin = sin.unsqueeze(-2).to(x.dtype)
    rotated = x[..., :rotary_dim]
    if is_neox_style:
        first, second = torch.chunk(rotated, 2, dim=-1)
    else:
        first, second = rotated[..., ::2], rotated[..., 1::2]
    halves = (first * cos - second * sin, second * cos + first * sin)
    if is_neox_style:
        return torch.cat((*halves, x[..., rotary_dim:]), dim=-1)
    interleaved = torch.stack(halves, dim=-1).flatten(-2)
    return torch.cat((interleaved, x[..., rotary_dim:]), dim=-1)


@gpu_version("rotary_embedding:rotate_by_position")
def rotate_by_position(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    is_neox_style: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Query and key, each head rotated by its token's position, in their own shapes.

    positions: [num_tokens]. query, key: [num_tokens, heads * head_size] or with the
    heads apart. cos_sin_cache: [positions, rotary_dim], cosines first.
    """
    rows = cos_sin_cache.to(query.dtype).index_select(0, positions.flatten())
    cos, sin = rows.chunk(2, dim=-1)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        heads = x.view(len(cos), -1, head_size)
        return apply_rotary(heads, cos, sin, is_neox_style).reshape(x.shape)

    return rotate(query), None if key is None else rotate(key)
