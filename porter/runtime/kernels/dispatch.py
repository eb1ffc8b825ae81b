"""The one place where a kernel's implementation is chosen."""

import importlib
from collections.abc import Callable
from typing import Any

import torch


class Kernel:
    """A reference in plain torch, and a version for GPUs.

    `Kernel(reference)` runs the reference everywhere. `@gpu_version("module:function")`
    names a version of the same signature that calls with CUDA tensors get: the device
    of the first tensor argument decides. Its module is imported when it is first
    wanted, so a machine without a GPU needs no Triton.
    """

    def __init__(self, reference: Callable[..., Any], gpu: str | None = None) -> None:
        self.reference = reference
        self._gpu_path = gpu
        self._gpu: Callable[..., Any] | None = None
        self.__doc__ = reference.__doc__
        self.__name__ = reference.__name__

    def __call__(self, first: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if first.is_cuda and self._gpu_path is not None:
            return self.on_gpu(first, *args, **kwargs)
        return self.reference(first, *args, **kwargs)

    @property
    def on_gpu(self) -> Callable[..., Any]:
        """The version for GPUs; AssertionError where there is none."""
        if self._gpu is None:
            assert self._gpu_path is not None, f"{self.__name__} has one version"
            module, _, name = self._gpu_path.partition(":")
            full = f"porter.runtime.kernels.gpu.{module}"
            self._gpu = getattr(importlib.import_module(full), name)
        return self._gpu


def gpu_version(path: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorates a reference; path is "module:function" below `kernels.gpu`."""
    return lambda reference: Kernel(reference, path)
