"""Parameters with the attributes that weight loaders read."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

LoaderFunction = Callable[[torch.Tensor, torch.Tensor], None]


def set_weight_attrs(weight: torch.Tensor, weight_attrs: dict[str, Any] | None) -> None:
    """Set attributes on a tensor; AssertionError when it has one of them already."""
    for name, value in (weight_attrs or {}).items():
        assert not hasattr(weight, name), (
            f"Overwriting existing tensor attribute: {name}"
        )
        setattr(weight, name, value)


def make_parameter(
    shape: tuple[int, ...], dtype: torch.dtype, **attrs: Any
) -> nn.Parameter:
    """An uninitialised parameter without gradient; attrs become its attributes."""
    parameter = nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
    set_weight_attrs(parameter, attrs)
    return parameter


def copy_shard(
    param: torch.Tensor,
    loaded_weight: torch.Tensor,
    *,
    dim: int | None = None,
    shard: int = 0,
    offset: int = 0,
    size: int | None = None,
    shards: int = 1,
) -> None:
    """Copy one shard of a checkpoint tensor into a parameter or a part of it.

    dim: the sharded axis, None for a whole copy. shard: which equal part of the
    checkpoint tensor, of how many `shards`. offset, size: the part of the parameter;
    all of it by default. Raises ValueError when the shapes disagree.
    """
    data = param.data
    if getattr(param, "is_sharded_weight", False):  # the file holds the shard alone
        shard, shards = 0, 1
    if loaded_weight.dim() == 0:
        loaded_weight = loaded_weight.reshape(1)
    if dim is not None:
        size = data.shape[dim] if size is None else size
        data = data.narrow(dim, offset, size)
        if loaded_weight.dim() <= dim or loaded_weight.shape[dim] != size * shards:
            raise ValueError(_mismatch(loaded_weight, data, shards))
        loaded_weight = loaded_weight.narrow(dim, shard * size, size)
    if data.shape != loaded_weight.shape:
        raise ValueError(_mismatch(loaded_weight, data, shards))
    data.copy_(loaded_weight)


def _mismatch(loaded: torch.Tensor, target: torch.Tensor, shards: int) -> str:
    ranks = f" on each of {shards} ranks" if shards > 1 else ""
    return (
        f"Attempted to load weight of shape {tuple(loaded.shape)} "
        f"into a parameter of shape {tuple(target.shape)}{ranks}"
    )
