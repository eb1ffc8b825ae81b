"""What kind of model a specimen is: a label of the zoo's table, no evidence of anything.

Read from the fields that its config class declares, by transformers' names for them:
`state` (a recurrent mixer in some layer), `mla` (latent attention), `moe`, `mla+moe`,
else `attention`.
"""

import re

from porter.analyze.model import find_causal_lm, find_config_class
from porter.config_class import ConfigClass
from porter.gap import Refused, UsageError
from porter.source import SourceSet
from porter.zoo.listing import Specimen

CATEGORIES = ("attention", "moe", "mla", "mla+moe", "state", "unknown")

_EXPERTS = re.compile(
    r"(num|n)_(local_|routed_)?experts$|moe_num_experts$|^ffn_config$"
)
_LATENT = re.compile(r"^kv_lora_rank$")
_STATE = re.compile(
    r"d_state|ssm|state_size|d_conv|conv_kernel|conv_L|lru_|short_conv|linear_conv|"
    r"linear_attn|(?<!cross_)attention_hidden_size|chunkwise|block_type_window|^cca_"
)


def category(specimen: Specimen) -> str:
    """One of CATEGORIES; `unknown` where the config class can't be read."""
    sources = SourceSet()
    try:
        file = sources.load(specimen.path)
        cls = find_causal_lm(sources, file, specimen.architecture)
        return category_of(find_config_class(sources, cls))
    except (Refused, UsageError):
        return "unknown"


def category_of(config: ConfigClass) -> str:
    """The category by the fields of a config class and their defaults."""
    if _declares(config, _STATE):
        return "state"
    kinds = []
    if _declares(config, _LATENT):
        kinds.append("mla")
    if _declares(config, _EXPERTS, absent_by_default=False):
        kinds.append("moe")
    return "+".join(kinds) or "attention"


def _declares(
    config: ConfigClass, pattern: re.Pattern[str], absent_by_default: bool = True
) -> bool:
    """Whether a field of that name is there, and is not off by default.

    absent_by_default: whether a count that is None by default is there.
    """
    for name in (*config.fields, *config.aliases):
        default = config.fields.get(name, True)
        is_count = "int" in config.annotations.get(name, "")
        absent = default is None and is_count and not absent_by_default
        if pattern.search(name) and default not in (0, False) and not absent:
            return True
    return False
