"""The tensors that one pipeline stage hands to the next."""

from collections.abc import ItemsView
from typing import Any

import torch


class IntermediateTensors:
    """Named tensors, each [num_tokens, ...]; a slice cuts all along the tokens."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def __getitem__(self, key: str | slice) -> Any:
        if isinstance(key, str):
            return self.tensors[key]
        return type(self)({name: t[key] for name, t in self.tensors.items()})

    def __setitem__(self, key: str, value: torch.Tensor) -> None:
        self.tensors[key] = value

    def items(self) -> ItemsView[str, torch.Tensor]:
        return self.tensors.items()

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"IntermediateTensors(tensors={self.tensors})"
