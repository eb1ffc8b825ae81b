"""Pipeline stages: which layers this process has, and placeholders for the others."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from porter.runtime.distributed import get_pp_group, get_pp_indices
from porter.runtime.sequence import IntermediateTensors


class PPMissingLayer(nn.Identity):
    """Stands for a layer of another stage; returns its first argument."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else next(iter(kwargs.values()))


def make_layers(
    num_hidden_layers: int, layer_fn: Callable[..., nn.Module], prefix: str
) -> tuple[int, int, nn.ModuleList]:
    """First and one-past-last layer of this stage, and the list of all layers."""
    group = get_pp_group()
    start, end = get_pp_indices(
        num_hidden_layers, group.rank_in_group, group.world_size
    )
    layers = [
        layer_fn(prefix=f"{prefix}.{i}") if start <= i < end else PPMissingLayer()
        for i in range(num_hidden_layers)
    ]
    return start, end, nn.ModuleList(layers)


def is_pp_missing_parameter(name: str, model: nn.Module) -> bool:
    """Whether a parameter belongs to a layer of another stage."""
    if isinstance(model, PPMissingLayer):
        return True
    return any(
        name.startswith(f"{path}.")
        for path, module in model.named_modules()
        if isinstance(module, PPMissingLayer)
    )


def make_empty_intermediate_tensors_factory(
    keys: list[str], hidden_size: int
) -> Callable[[int, torch.dtype, torch.device], IntermediateTensors]:
    """A function (batch_size, dtype, device) -> zeros of [batch_size, hidden_size]."""

    def make_empty_intermediate_tensors(
        batch_size: int, dtype: torch.dtype, device: torch.device
    ) -> IntermediateTensors:
        shape = (batch_size, hidden_size)
        return IntermediateTensors(
            {key: torch.zeros(shape, dtype=dtype, device=device) for key in keys}
        )

    return make_empty_intermediate_tensors


def maybe_prefix(prefix: str, name: str) -> str:
    """name under prefix; name alone when the prefix is empty."""
    return f"{prefix}.{name}" if prefix else name


def extract_layer_index(layer_name: str, num_attn_module: int = 1) -> int:
    """The number in a dotted name: "model.layers.3.self_attn" -> 3.

    num_attn_module: attention modules a layer; with more than one, a name may have a
    second number, that of the module. AssertionError on any other count.
    """
    numbers = [int(part) for part in layer_name.split(".") if part.isdecimal()]
    if num_attn_module == 1 or "attn" not in layer_name:
        assert len(numbers) == 1, (
            f"layer name {layer_name} should only contain one integer"
        )
        return numbers[0]
    assert len(numbers) <= 2, (
        f"layer name {layer_name} should contain most two integers"
    )
    if len(numbers) == 2:
        return numbers[0] * num_attn_module + numbers[1]
    return numbers[0]
