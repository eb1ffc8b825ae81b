"""Tiny configs whose heads have a kernel in vLLM."""

from typing import Any

import pytest
from transformers import (
    DeepseekV3Config,
    Gemma4TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    LongcatFlashConfig,
    Olmo2Config,
)

from porter.vllm_engine import sizes

LATENT = {
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64,
    "v_head_dim": 128,
    # The same by other names.
    "head_dim": 64,
    "qk_head_dim": 128,
}


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "head_sizes", lambda: [32, 64])


@pytest.mark.parametrize(
    ("config_class", "overrides", "changed"),
    [
        (LlamaConfig, {}, {}),
        (LlamaConfig, {"head_dim": 16}, {"head_dim": 32}),
        (LlamaConfig, {"head_dim": 40}, {"head_dim": 64}),
        # No size of its own: the hidden size is what its heads share.
        (Olmo2Config, {"num_attention_heads": 8}, {"hidden_size": 256}),
        (GPTNeoXConfig, {"num_attention_heads": 8}, {"hidden_size": 256}),
        # Latent attention: the only sizes that vLLM's kernel for CPUs has.
        (DeepseekV3Config, {}, LATENT),
        (LongcatFlashConfig, {}, LATENT),
        # Heads of several sizes, of which transformers gives no one.
        (Gemma4TextConfig, {}, {}),
        # Larger than any kernel: left to vLLM to say so.
        (LlamaConfig, {"head_dim": 96}, {}),
    ],
)
def test_heads_get_the_next_size(
    config_class: Any, overrides: dict[str, int], changed: dict[str, int]
) -> None:
    assert sizes.fitting_sizes(config_class, overrides) == {**overrides, **changed}


def test_any_size_fits_where_no_list_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "head_sizes", lambda: [])
    assert sizes.fitting_sizes(LlamaConfig, {"head_dim": 16}) == {"head_dim": 16}
