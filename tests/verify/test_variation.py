"""The varied config is another model of the same class, and still a decoder."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from porter.verify.tiny_config import tiny_config
from porter.verify.variation import vary


def test_every_switch_that_changes_the_model_is_turned() -> None:
    varied = vary(LlamaForCausalLM)
    default = tiny_config(LlamaConfig)
    assert varied["attention_bias"] is True and varied["mlp_bias"] is True
    assert varied["tie_word_embeddings"] is not default.tie_word_embeddings
    assert varied["num_key_value_heads"] == 1
    assert varied["rope_parameters"]["rope_type"] == "linear"
    assert "use_cache" not in varied


class SwitchedConfig(LlamaConfig):
    model_type = "switched"
    looks_ahead: bool = False
    idle: bool = False
    broken: bool = False


class Switched(LlamaForCausalLM):
    config_class = SwitchedConfig

    def forward(self, input_ids, **kwargs):
        if self.config.broken:
            raise RuntimeError("not implemented")
        output = super().forward(input_ids, **kwargs)
        if self.config.looks_ahead:
            output.logits = output.logits + output.logits.mean(1, keepdim=True)
        return output


@pytest.mark.parametrize("switch", ["looks_ahead", "idle", "broken"])
def test_a_switch_stays_that_breaks_the_model_or_changes_nothing(switch: str) -> None:
    assert isinstance(Switched, type) and issubclass(Switched, nn.Module)
    assert getattr(tiny_config(SwitchedConfig), switch) is False
    assert switch not in vary(Switched)
    assert torch.is_grad_enabled()


def test_a_change_that_has_no_port_is_left_out_and_the_others_stay() -> None:
    asked = []

    def ported(overrides: dict) -> bool:
        asked.append(list(overrides)[-1])
        return "mlp_bias" not in overrides

    varied = vary(LlamaForCausalLM, ported=ported)
    assert "mlp_bias" in asked and "mlp_bias" not in varied
    assert varied["attention_bias"] is True and asked.index("mlp_bias") < len(asked) - 1
