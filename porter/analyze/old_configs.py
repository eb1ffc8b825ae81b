"""Rope fields of configs from before transformers 5, by the names that they have now.

transformers 5, and vLLM for any config, keep what was `rope_theta`, `rope_scaling` and
`partial_rotary_factor` (and older spellings) in one dictionary, `rope_parameters`. A port
runs with the config as they hold it, so that it reads the new places.
"""

from typing import Any

from porter.analyze.symbols import Sym, compare, config_field, unwrap
from porter.analyze.values import Config
from porter.config_class import ConfigClass

_THETA = ("rope_theta", "rotary_emb_base")
_PARTIAL = ("partial_rotary_factor", "rotary_pct", "rotary_emb_fraction")
_SCALING = "rope_scaling"


def is_old(config: Config) -> bool:
    """Whether the config class is written as before `rope_parameters`."""
    return config.fields is not None and written_before(config.fields)


def written_before(fields: ConfigClass) -> bool:
    own = any(name in fields.fields for name in _THETA)
    return own or not fields.declares("rope_parameters")


def standardized(values: dict[str, Any]) -> dict[str, Any]:
    """The `rope_parameters` that transformers 5 makes of a config's old fields."""
    scaling = values.get(_SCALING) or {}
    made = {"rope_type": scaling.get("type", "default"), **scaling}
    theta = next((values[n] for n in _THETA if values.get(n) is not None), None)
    return made if theta is None else {"rope_theta": theta, **made}


def parameters_of(config: Config) -> Sym:
    return config_field(config.path, "rope_parameters")


def rope_field(config: Config, name: str) -> Any:
    """Where an old rope field is now, None for any other field."""
    if not is_old(config):
        return None
    parameters = parameters_of(config)
    if name in _THETA:
        return Sym("item", (parameters, "rope_theta"))
    if name in _PARTIAL and config.fields.declares(name):
        return Sym("get", (parameters, "partial_rotary_factor", 1.0))
    return parameters if name == _SCALING else None


def lacks(config: Config, name: str) -> bool:
    """An old rope field that neither the class nor transformers sets."""
    return is_old(config) and name in _PARTIAL and not config.fields.declares(name)


def scaling_is_none(config: Config, value: Any) -> Any:
    """`config.rope_scaling is None`: the type is the default one. None for others."""
    inner = unwrap(value)
    if is_old(config) and isinstance(inner, Sym):
        if inner.key == parameters_of(config).key:
            return compare("eq", Sym("item", (inner, "rope_type")), "default")
    return None


def scaling_item(config: Config, value: Any, name: Any) -> Any:
    """`rope_scaling["type"]`, by item or get; None for anything else."""
    inner = unwrap(value)
    if is_old(config) and isinstance(inner, Sym) and name in ("type", "rope_type"):
        if inner.key == parameters_of(config).key:
            return Sym("item", (inner, "rope_type"))
    return None
