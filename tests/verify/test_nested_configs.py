"""Configs inside a config, in small."""

from transformers import DbrxConfig, MptConfig

from porter.verify.nested_configs import completed
from porter.verify.tiny_config import HIDDEN, KV_HEADS, tiny_configs


def test_a_nested_config_has_tiny_sizes_too() -> None:
    config = next(tiny_configs(DbrxConfig))
    assert config.attn_config.kv_n_heads == KV_HEADS
    assert config.ffn_config.moe_num_experts == 8
    assert config.ffn_config.hidden_size == HIDDEN


def test_what_published_configs_say_comes_second() -> None:
    plain, full = list(completed(DbrxConfig()))
    assert plain.attn_config.clip_qkv is None
    assert full.attn_config.clip_qkv == 1.0 and full.attn_config.rope_theta == 10000.0
    assert not hasattr(plain.attn_config, "rope_theta")


def test_what_is_off_by_default_is_off_at_first() -> None:
    assert next(tiny_configs(MptConfig)).attn_config.clip_qkv is None
