"""From the names in a checkpoint to the parameters of a model."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import nn

from porter.gap import UsageError
from porter.runtime.accounting import current_account, origins
from porter.runtime.layers.vocab_parallel_embedding import VocabParallelEmbedding
from porter.runtime.model_loader import default_weight_loader
from porter.runtime.models.stages import PPMissingLayer, maybe_prefix

Weights = Iterable[tuple[str, torch.Tensor]]
ShardId = str | int | tuple[int, ...]


@dataclass
class WeightsMapper:
    """Renames checkpoint names; a target of None drops the name.

    The rules run in this order, each on the result of those before: renaming, regex,
    substr, stacked, prefix, suffix; within a kind in the order written, all that
    match, each replacing its first occurrence. `stacked` also gives the shard id
    (or a list of them) under which the tensor goes into a fused parameter.
    """

    orig_to_new_renaming: list[Any] = field(default_factory=list)
    orig_to_new_regex: Mapping[re.Pattern[str], str | None] = field(
        default_factory=dict
    )
    orig_to_new_substr: Mapping[str, str | None] = field(default_factory=dict)
    orig_to_new_stacked: Mapping[str, tuple[str, ShardId | list[ShardId]]] = field(
        default_factory=dict
    )
    orig_to_new_prefix: Mapping[str, str | None] = field(default_factory=dict)
    orig_to_new_suffix: Mapping[str, str | None] = field(default_factory=dict)

    def __or__(self, other: "WeightsMapper") -> "WeightsMapper":
        merged: dict[str, Any] = {}
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            merged[item.name] = (
                [*mine, *theirs] if isinstance(mine, list) else {**mine, **theirs}
            )
        return WeightsMapper(**merged)

    def map_name(self, key: str) -> str | None:
        """The name in the model, or None for a name that is dropped."""
        mapped = self._map_name_with_shard(key)
        return None if mapped is None else mapped[0]

    def _map_name_with_shard(self, key: str) -> tuple[str, Any] | None:
        for renaming in self.orig_to_new_renaming:
            key, _ = renaming.rename_source_key(key)
        for pattern, target in self.orig_to_new_regex.items():
            if pattern.search(key):
                if target is None:
                    return None
                key = pattern.sub(target, key)
        for part, target in self.orig_to_new_substr.items():
            if part in key:
                if target is None:
                    return None
                key = key.replace(part, target, 1)
        shard_id = None
        for part, (stacked, part_id) in self.orig_to_new_stacked.items():
            if part in key:
                key, shard_id = key.replace(part, stacked, 1), part_id
        for part, target in self.orig_to_new_prefix.items():
            if key.startswith(part):
                if target is None:
                    return None
                key = target + key[len(part) :]
        for part, target in self.orig_to_new_suffix.items():
            if key.endswith(part):
                if target is None:
                    return None
                key = key[: len(key) - len(part)] + target
        return key, shard_id

    def apply(self, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
        """Rename each tensor; those for a fused parameter get a `shard_id`."""
        for name, data in weights:
            mapped = self._map_name_with_shard(name)
            if mapped is None:
                current_account().drop(name, data, "weights mapper")
                continue
            new_name, shard_id = mapped
            if shard_id is None:
                yield new_name, data
                continue
            for one in shard_id if isinstance(shard_id, list) else [shard_id]:
                shard = data.detach()  # its own object, to carry its own id
                shard.shard_id = one
                yield new_name, shard

    def apply_list(self, values: list[str]) -> list[str]:
        mapped = (self.map_name(value) for value in values)
        return [name for name in mapped if name is not None]

    def apply_dict(self, values: dict[str, Any]) -> dict[str, Any]:
        mapped = ((self.map_name(name), value) for name, value in values.items())
        return {name: value for name, value in mapped if name is not None}


class AutoWeightsLoader:
    """Loads by walking the module tree along the names.

    A submodule with a `load_weights` of its own gets its part of the weights; a
    parameter with a `weight_loader` is loaded by it. Tied embeddings are loaded
    once, under the first name. Unexpected names are an error unless they match the
    given prefixes or suffixes, or end in ".bias".
    """

    ROTARY_BUFFERS: ClassVar[WeightsMapper] = WeightsMapper(
        orig_to_new_substr={
            "rotary_pos_emb.inv_freq": None,
            "rotary_emb.inv_freq": None,
            "rotary_emb.cos_cached": None,
            "rotary_emb.sin_cached": None,
        }
    )

    def __init__(
        self,
        module: nn.Module,
        *,
        ignore_unexpected_prefixes: list[str] | None = None,
        ignore_unexpected_suffixes: list[str] | None = None,
    ) -> None:
        self.module = module
        self.ignore_unexpected_prefixes = ignore_unexpected_prefixes or []
        self.ignore_unexpected_suffixes = ignore_unexpected_suffixes or []
        self.aliased_params = _tied_names(module)
        self._skipped_aliases: set[str] = set()

    def load_weights(
        self, weights: Weights, *, mapper: WeightsMapper | None = None
    ) -> set[str]:
        """Load; returns the names of the parameters that were reached.

        Raises ValueError on a name that the model lacks, or a tied weight whose
        first name isn't in the checkpoint, and UsageError on a wrong shape.
        """
        mapper = (mapper or WeightsMapper()) | self.ROTARY_BUFFERS
        unaliased = self._without_aliases(mapper.apply(weights))
        loaded = set(self._load_module("", self.module, unaliased))
        for alias in self._skipped_aliases:
            canonical = self.aliased_params[alias]
            if canonical not in loaded:
                raise ValueError(
                    f"{alias!r} was skipped because it is tied to {canonical!r}, "
                    "which was not found in the checkpoint"
                )
        return loaded

    def _without_aliases(self, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
        for name, data in weights:
            if name in self.aliased_params:
                self._skipped_aliases.add(name)
                why = f"tied to {self.aliased_params[name]}"
                current_account().drop(name, data, why)
            else:
                yield name, data

    def _load_module(
        self, base: str, module: nn.Module, weights: Weights
    ) -> Iterator[str]:
        if isinstance(module, PPMissingLayer):
            for name, data in weights:
                current_account().drop(name, data, "on another pipeline stage")
            return
        own_loader = getattr(module, "load_weights", None)
        if module is not self.module and callable(own_loader):
            loaded = own_loader(weights)
            yield from (maybe_prefix(base, name) for name in loaded or ())
        children = dict(module.named_children())
        params = _loadable_tensors(module)
        for first, group in _by_first_part(weights):
            path = maybe_prefix(base, first)
            if first in children:
                yield from self._load_module(path, children[first], group)
            elif first in params:
                yield from self._load_param(path, params[first], group)
            else:
                for rest, data in group:
                    self._unexpected(maybe_prefix(path, rest) if rest else path, data)

    def _load_param(
        self, path: str, param: torch.Tensor, weights: Weights
    ) -> Iterator[str]:
        for rest, data in weights:
            if rest:
                self._unexpected(f"{path}.{rest}", data)
                continue
            loader = getattr(param, "weight_loader", default_weight_loader)
            try:
                loader(param, data)
            except (ValueError, AssertionError, RuntimeError) as error:
                source = ", ".join(sorted(origins(data))) or path
                raise UsageError(f"weight {source}: {error}") from error
            yield path

    def _unexpected(self, path: str, data: torch.Tensor) -> None:
        account = current_account()
        if any(path.startswith(p) for p in self.ignore_unexpected_prefixes) or any(
            path.endswith(s) for s in self.ignore_unexpected_suffixes
        ):
            account.drop(path, data, "ignored when unexpected")
        elif not path.endswith(".bias") and account.strict:
            # vLLM passes an unexpected bias over; the account lists it as unused.
            raise ValueError(
                f"There is no module or parameter named {path!r} "
                f"in {type(self.module).__name__}."
            )


def _loadable_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's own parameters and the buffers that a state dict has."""
    transient = module._non_persistent_buffers_set
    buffers = dict(module.named_buffers(recurse=False))
    kept = {name: b for name, b in buffers.items() if name not in transient}
    return {**kept, **dict(module.named_parameters(recurse=False))}


def _by_first_part(weights: Weights) -> Iterator[tuple[str, Weights]]:
    """Runs of names with the same first part, that part cut off."""
    split = ((name.partition("."), data) for name, data in weights)
    for first, group in itertools.groupby(split, key=lambda item: item[0][0]):
        yield first, ((parts[2], data) for parts, data in group)


def _tied_names(module: nn.Module) -> dict[str, str]:
    """Each further name of a shared embedding weight -> its first name."""
    first_names: dict[int, str] = {}
    tied = {}
    for path, child in module.named_modules(remove_duplicate=False):
        if not isinstance(child, VocabParallelEmbedding):
            continue
        for name, param in child.named_parameters(remove_duplicate=False):
            full = maybe_prefix(path, name)
            first = first_names.setdefault(id(param), full)
            if first != full:
                tied[full] = first
    return tied
