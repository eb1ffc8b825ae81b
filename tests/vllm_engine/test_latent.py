"""Latent attention in vLLM: its MLA layers, and with VLLM_MLA_DISABLE the other form."""

from pathlib import Path

import pytest

from porter.convert import convert
from porter.verify import verify
from tests.vllm_engine.marks import WITH_VLLM

pytestmark = WITH_VLLM
SMALL = {"num_hidden_layers": 2}
NUMBER = 4  # bytes of a float32


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("port") / "deepseek_v3.py"
    path.write_text(convert("deepseek_v3").text)
    return path


def test_vllm_caches_latents(port: Path) -> None:
    result = verify(port, engine="vllm", config_overrides=SMALL, max_tokens=8)
    assert result.passed, result.failures
    assert result.fused["latent_attention"] == 2 and "attention" not in result.fused
    assert result.invariances["multi_head"]
    cache = result.cache_bytes_per_token
    assert cache["latent_attention"] == 2 * (512 + 64) * NUMBER
    assert cache["attention"] == 2 * 4 * (128 + 128) * NUMBER
