"""What models and configs of earlier releases accept, which today's take as a matter of
course."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import ModelOutput

from porter.verify.other_release import read_otherwise
from porter.verify.reference import trace_reference
from porter.verify.tiny_config import LAYERS, tiny_config


class WithoutMemory(nn.Module):
    """A model that takes tokens alone: it has no cache to ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 11)

    def forward(self, input_ids: torch.Tensor) -> CausalLMOutput:
        return CausalLMOutput(logits=self.table(input_ids))


def test_a_model_that_takes_no_use_cache_is_traced() -> None:
    (trace,) = trace_reference(WithoutMemory(), [[1, 2, 3]], 4)
    assert len(trace.tokens) == 4


class WithCache(nn.Module):
    """A model as of transformers 5.24, which names its memory `cache`."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 11)
        self.given: list[int] = []

    def forward(
        self,
        input_ids: torch.Tensor,
        cache: list[torch.Tensor] | None = None,
        use_cache: bool = False,
    ) -> ModelOutput:
        self.given.append(input_ids.shape[1])
        seen = [*(cache or []), input_ids]
        return ModelOutput(logits=self.table(input_ids), cache=seen)


def test_a_cache_is_handed_back_under_its_name() -> None:
    model = WithCache()
    trace_reference(model, [[1, 2, 3]], 4)
    assert model.given == [3, 3, 1, 1, 1]  # the prompt's logits, then step by step


class CountedConfig(PreTrainedConfig):
    """Its layers are counted by a field of a form of its own."""

    model_type = "counted"

    def __init__(self, num_hidden_layers=6, kinds=(("near", 3), ("far", 3)), **kwargs):
        if sum(n for _, n in kinds) != num_hidden_layers:
            raise ValueError("kinds of another number of layers")
        self.num_hidden_layers = num_hidden_layers
        self.hidden_size = kwargs.pop("hidden_size", 512)
        self.kinds = kinds
        super().__init__(**kwargs)


def test_layers_that_another_field_counts_stay_as_many() -> None:
    config = tiny_config(CountedConfig)
    assert config.num_hidden_layers == 6 != LAYERS
    assert config.hidden_size < 512


@pytest.mark.parametrize(
    ("used", "expected"), [(False, {"sliding_window": None}), (True, {})]
)
def test_a_window_that_this_release_turns_off(
    tmp_path: Path, used: bool, expected: dict[str, None]
) -> None:
    stated = {"model_type": "qwen2", "sliding_window": 24, "use_sliding_window": used}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    assert read_otherwise(tmp_path / "config.json") == expected
