"""Which tensor of a checkpoint went where, and which parameter got nothing.

Tensors of the checkpoint are handed to the model as CheckpointTensor, which carries
its name through every view, split and permutation; copying one into a parameter
counts as loading it. Parameters are filled with a marker before loading, so that one
that was filled in part only is seen too.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

# NaN bit patterns that no arithmetic produces, as (integer dtype, bits).
_MARKERS = {
    torch.float64: (torch.int64, 0x7FF8_DEAD_DEAD_DEAD),
    torch.float32: (torch.int32, 0x7FC0_DEAD),
    torch.bfloat16: (torch.int16, 0x7FDE),
    torch.float16: (torch.int16, 0x7EDE),
}


@dataclass(frozen=True)
class WeightReport:
    """The fate of every checkpoint tensor and parameter, as sorted lists of names.

    loaded: checkpoint tensors copied into a parameter. unused: those that went
    nowhere without a rule that says so. uninitialised: parameters, or parts of them,
    that no checkpoint tensor reached. dropped: checkpoint tensors left out by a rule,
    with the rule.
    """

    loaded: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    uninitialised: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)

    def merged(self, other: "WeightReport") -> "WeightReport":
        """The report of two ranks together: loaded on one is loaded."""
        loaded = set(self.loaded) | set(other.loaded)
        dropped = {**self.dropped, **other.dropped}
        dropped = {n: why for n, why in sorted(dropped.items()) if n not in loaded}
        unused = (set(self.unused) | set(other.unused)) - loaded - set(dropped)
        uninitialised = set(self.uninitialised) | set(other.uninitialised)
        return WeightReport(
            sorted(loaded), sorted(unused), sorted(uninitialised), dropped
        )


@dataclass
class WeightAccount:
    """Collects while a model loads. strict: an unknown name is an error."""

    strict: bool = True
    seen: set[str] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)
    dropped: dict[str, str] = field(default_factory=dict)

    def drop(self, name: str, tensor: torch.Tensor, why: str) -> None:
        """A tensor is left out by a rule; name is the one it goes by there."""
        for origin in origins(tensor) or {name}:
            self.dropped[origin] = why

    def report(self, model: nn.Module) -> WeightReport:
        """Call after loading; fails on nothing, reads the markers."""
        dropped = {n: w for n, w in self.dropped.items() if n not in self.loaded}
        unused = self.seen - self.loaded - set(dropped)
        missing = [n for n, p in model.named_parameters() if has_marker(p)]
        return WeightReport(
            sorted(self.loaded),
            sorted(unused),
            sorted(missing),
            dict(sorted(dropped.items())),
        )


_account: WeightAccount | None = None


def current_account() -> WeightAccount:
    """The account of the model that loads now; a fresh one outside of loading."""
    return _account if _account is not None else WeightAccount()


@contextmanager
def keep_account(account: WeightAccount) -> Iterator[None]:
    global _account
    previous, _account = _account, account
    try:
        yield
    finally:
        _account = previous


class CheckpointTensor(torch.Tensor):
    """A tensor that knows the checkpoint tensors it was made from."""

    checkpoint_names: frozenset[str]

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        names = frozenset().union(*(origins(x) for x in _tensors(args)))
        if func in (torch.Tensor.copy_, torch.Tensor.__setitem__):
            if not isinstance(args[0], CheckpointTensor):
                current_account().loaded.update(names)
            return result
        return _named(result, names)


def name_tensor(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as a CheckpointTensor of that name, noted as seen."""
    current_account().seen.add(name)
    return _named(tensor, frozenset({name}))


def origins(tensor: Any) -> frozenset[str]:
    return getattr(tensor, "checkpoint_names", frozenset())


def _named(result: Any, names: frozenset[str]) -> Any:
    if isinstance(result, torch.Tensor):
        named = result.as_subclass(CheckpointTensor)
        named.checkpoint_names = names
        return named
    if isinstance(result, (list, tuple)):
        return type(result)(_named(item, names) for item in result)
    return result


def _tensors(args: Iterable[Any]) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, (list, tuple)):
            yield from _tensors(arg)
        elif isinstance(arg, CheckpointTensor):
            yield arg


def set_markers(model: nn.Module) -> None:
    """Fill every floating parameter with the marker of its dtype."""
    for param in model.parameters():
        if param.dtype in _MARKERS:
            integer, bits = _MARKERS[param.dtype]
            param.data.view(integer).fill_(bits)


def has_marker(param: torch.Tensor) -> bool:
    """Whether any element still is the marker."""
    if param.dtype not in _MARKERS:
        return False
    integer, bits = _MARKERS[param.dtype]
    return bool((param.data.view(integer) == bits).any())
