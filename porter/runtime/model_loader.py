"""Weight loaders that model files attach to parameters or call themselves."""

from collections.abc import Callable

import torch

from porter.runtime.distributed import get_tensor_model_parallel_rank
from porter.runtime.parameter import LoaderFunction


def default_weight_loader(param: torch.Tensor, loaded_weight: torch.Tensor) -> None:
    """Copy the whole tensor; one element may come in any shape.

    Raises AssertionError when the shapes differ.
    """
    if param.numel() == 1 and loaded_weight.numel() == 1:
        param.data.copy_(loaded_weight.view(param.shape))
        return
    assert param.size() == loaded_weight.size(), (
        f"Attempted to load weight of shape {tuple(loaded_weight.size())} "
        f"into a parameter of shape {tuple(param.size())}"
    )
    param.data.copy_(loaded_weight)


def row_parallel_weight_loader(
    param: torch.Tensor, loaded_weight: torch.Tensor
) -> None:
    """Keep this rank's slice of the first axis; a vector is copied whole."""
    if param.dim() == 1:
        default_weight_loader(param, loaded_weight)
    else:
        sharded_weight_loader(0)(param, loaded_weight)


def sharded_weight_loader(shard_axis: int) -> LoaderFunction:
    """A loader that keeps this rank's slice of shard_axis."""

    def loader(param: torch.Tensor, loaded_weight: torch.Tensor) -> None:
        size = param.data.shape[shard_axis]
        start = get_tensor_model_parallel_rank() * size
        shard = loaded_weight.narrow(shard_axis, start, size)
        default_weight_loader(param, shard)

    return loader


def composed_weight_loader(
    loader: LoaderFunction, fn: Callable[[torch.Tensor], torch.Tensor]
) -> LoaderFunction:
    """A loader that puts the loaded parameter through fn."""

    def composed_loader(param: torch.Tensor, loaded_weight: torch.Tensor) -> None:
        loader(param, loaded_weight)
        param.data.copy_(fn(param))

    return composed_loader
