"""Ports of real models on a GPU's kernels, captured, equal their sources."""

from pathlib import Path

import pytest
import torch

from porter.convert import convert
from porter.verify import verify
from tests.reference.sources import source_path

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("error:decode steps aren't captured"),
]
MODELS = ["bloom", "deepseek_v3", "gemma2", "glm", "gpt_neox", "gpt_oss", "llama",
          "mixtral", "olmo2", "opt", "phi3", "qwen3", "qwen3_moe"]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_port_passes(model: str, tmp_path: Path) -> None:
    port = tmp_path / f"{model}.py"
    port.write_text(convert(source_path(model)).text)
    result = verify(port, device="cuda")
    assert result.passed, result.failures
    assert result.logits_rel_rmse < 1e-5
