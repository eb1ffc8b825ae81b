"""vLLM's own loader, with an account of every tensor and every parameter.

It reads and loads as vLLM does. Around that, each parameter is filled with a marker
before, so that one that was filled in part is seen, and each tensor of the checkpoint
carries its name to where it is copied.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    PPMissingLayer,
    WeightsMapper,
    _get_tied_embedding_params,
)

from porter.runtime.accounting import (
    WeightAccount,
    WeightReport,
    current_account,
    keep_account,
    name_tensor,
    set_markers,
)

LOAD_FORMAT = "porter_accounting"


@register_model_loader(LOAD_FORMAT)
class AccountingLoader(DefaultModelLoader):
    """Loads as `auto` does and leaves a WeightReport at the model's `weight_report`.

    A parameter that got nothing is told by the report, not raised. Quantized
    checkpoints have parameters that vLLM fills itself: there no marker is set.
    """

    def __init__(self, load_config: Any) -> None:
        super().__init__(replace(load_config, load_format="auto"))

    def get_all_weights(
        self, model_config: Any, model: nn.Module
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        for name, tensor in super().get_all_weights(model_config, model):
            yield name, name_tensor(name, tensor)

    def load_weights(self, model: nn.Module, model_config: Any) -> None:
        account = WeightAccount()
        if model_config.quantization is None:
            set_markers(model)
        self.enable_weights_track = False
        with keep_account(account), drops_noted():
            super().load_weights(model, model_config)
        report = account.report(model)
        model.weight_report = without_rules(report, model)


@contextmanager
def drops_noted() -> Iterator[None]:
    """What a mapper leaves out is noted as dropped, under the checkpoint's own name.

    A port may hand a tensor on under another name, so the name alone doesn't tell.
    """
    original = WeightsMapper.apply

    def apply(self: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
        def noted() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                if self.map_name(name) is None:
                    current_account().drop(name, tensor, _why_unmapped(name))
                yield name, tensor

        return original(self, noted())

    WeightsMapper.apply = apply
    try:
        yield
    finally:
        WeightsMapper.apply = original


def _why_unmapped(name: str) -> str:
    """vLLM's loader adds its own rule to the port's mapper."""
    rotary = AutoWeightsLoader.REMOVE_UNUSED_ROTARY_EMBEDS_MAPPER
    if rotary.map_name(name) is None:
        return "a rotary buffer"
    return "the port's mapper drops it"


def without_rules(report: WeightReport, model: nn.Module) -> WeightReport:
    """The report with what a rule leaves out moved from `unused` to `dropped`."""
    dropped = dict(report.dropped)
    for name in report.unused:
        why = rule_for(name, model)
        if why is not None:
            dropped[name] = why
    unused = [name for name in report.unused if name not in dropped]
    return replace(report, unused=unused, dropped=dict(sorted(dropped.items())))


def rule_for(name: str, model: Any) -> str | None:
    """Why the model or vLLM's loader leaves a checkpoint tensor out, None if neither."""
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    mapped = name if mapper is None else mapper.map_name(name)
    if mapped is None:
        return _why_unmapped(name)
    if mapped in _get_tied_embedding_params(model):
        return "tied to another parameter"
    for path, module in model.named_modules():
        if isinstance(module, PPMissingLayer) and mapped.startswith(f"{path}."):
            return "no layer of this rank stands there"
    return None
