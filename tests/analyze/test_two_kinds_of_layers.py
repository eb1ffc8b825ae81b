"""Layers of two kinds by their index, and layers that are skipped while uncached."""

import pytest

from porter.convert import convert
from porter.gap import Refused
from tests.transforms.cases import SCAFFOLD, splice

BUILT = """class TernConfig:
    other_layers: list | None = None


class OtherLayer(nn.Module):
    def __init__(self, config: TernConfig, layer_idx: int):
        super().__init__()
        self.norm = TernNorm(config.hidden_size, config.norm_eps)
        self.mlp = TernMLP(config)

    def forward(self, x, attention_mask, position_embeddings, past_key_values):
        return x + 2.0 * self.mlp(self.norm(x))


class TernModel:
    def __init__(self, config: TernConfig):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = []
        for i in range(config.num_hidden_layers):
            if i in config.other_layers:
                layers.append(OtherLayer(config, i))
            else:
                layers.append(TernLayer(config, i))
        self.layers = nn.ModuleList(layers)
        self.last_norm = TernNorm(config.hidden_size, config.norm_eps)
        self.rotary_emb = TernRotaryEmbedding(config)
        self.post_init()
"""
FORWARD = """
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ):
        hidden_states = self.embed(input_ids)
        past_key_values = past_key_values or DynamicCache(config=self.config)
        position_ids = torch.arange(hidden_states.shape[1])[None]
        position_ids = position_ids + past_key_values.get_seq_length()
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        tables = self.rotary_emb(hidden_states, position_ids)
        for i, layer in enumerate(self.layers):
            filled = past_key_values.layers[i].is_initialized
            if {test} and not filled:
                continue
            hidden_states = layer(hidden_states, mask, tables, past_key_values)
        hidden_states = self.last_norm(hidden_states)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_states, past_key_values=past_key_values
        )
"""


def port(case: str) -> str:
    text, _ = splice(SCAFFOLD.read_text(encoding="utf-8"), case)
    return convert(SCAFFOLD, text=text).text


def test_each_layer_is_one_of_two_kinds_by_its_index() -> None:
    text = port(BUILT)
    assert "if extract_layer_index(prefix) in " in text
    assert "class OtherLayer" in text and "class TernLayer" in text
    assert "else PPMissingLayer()" not in text


def test_layers_whose_cache_stays_empty_are_left_out() -> None:
    text = port(BUILT + FORWARD.replace("{test}", "i in self.config.other_layers"))
    assert "class OtherLayer" not in text
    assert "layer_idx not in " in text
    assert "PPMissingLayer()\n                if extract_layer_index(prefix) in" in text


def test_a_cache_that_is_written_decides_nothing() -> None:
    forward = FORWARD.replace("{test}", "i in self.config.other_layers")
    forward = forward.replace("continue", "hidden_states = 2.0 * hidden_states")
    plain = BUILT.replace("OtherLayer(config, i)", "TernLayer(config, i)")
    with pytest.raises(Refused, match="whether its cache is empty"):
        port(plain + forward)
