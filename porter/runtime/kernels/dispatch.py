"""The one place where a kernel's implementation is chosen."""

from collections.abc import Callable
from typing import Any

import torch


class Kernel:
    """A reference in plain torch, and faster versions by device type.

    `register("cuda")` decorates a version with the reference's signature; a call
    takes the version for the device of its first tensor argument.
    """

    def __init__(self, reference: Callable[..., Any]) -> None:
        self.reference = reference
        self.versions: dict[str, Callable[..., Any]] = {}
        self.__doc__ = reference.__doc__
        self.__name__ = reference.__name__

    def register(
        self, device_type: str
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def keep(function: Callable[..., Any]) -> Callable[..., Any]:
            self.versions[device_type] = function
            return function

        return keep

    def __call__(self, first: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        version = self.versions.get(first.device.type, self.reference)
        return version(first, *args, **kwargs)
