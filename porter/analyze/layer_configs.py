"""transformers' `config.per_layer_config[i]`: the config as one layer has it.

A config may give single layers other values than the rest (heterogeneous configs of
transformers 5): item i is then a config of the layer's own, and so is the item of a layer
type, which exists only where all layers of that type have the same values. What is read of
either is an expression of the config object, which vLLM has as well:
`config.per_layer_config[layer_idx].head_dim`.
"""

from dataclasses import dataclass
from typing import Any

from porter.analyze.symbols import Sym, config_field, unwrap
from porter.analyze.values import Config

ITEMS = "per_layer_config"


@dataclass(frozen=True)
class LayerConfig:
    """The config of the layer (or type of layer) that `holder` picks out of `config`."""

    config: Config
    holder: Sym

    def attribute(self, name: str) -> Any:
        fields = self.config.fields
        if fields is not None:
            name = fields.canonical(name)
        plain = config_field(self.config.path, name)
        if name in ("rope_parameters", "layer_types"):  # by layer, or by type, already
            return plain
        return Sym("of", (self.holder, name))

    def declares(self, name: str) -> bool:
        fields = self.config.fields
        return fields is not None and fields.declares(name)


def is_layer_configs(value) -> bool:
    """Whether a value is `config.per_layer_config`."""
    inner = unwrap(value)
    return isinstance(inner, Sym) and inner.op == "field" and inner.args[1] == ITEMS


def layer_config(config: Config, configs, index) -> LayerConfig | None:
    """`configs[index]`, None where configs are something else. config: the model's."""
    if not is_layer_configs(configs):
        return None
    inner = unwrap(configs)
    path = inner.args[0]
    of = config if path == config.path else Config(path, None)
    return LayerConfig(of, Sym("item", (inner, index)))
