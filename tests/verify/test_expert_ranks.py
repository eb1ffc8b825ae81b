"""Experts spread whole over two ranks, as `verify --enable-expert-parallel` runs them."""

from pathlib import Path

import pytest

from porter.convert import convert
from porter.verify import verify


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("port") / "mixtral.py"
    path.write_text(convert("mixtral").text)
    return path


def test_experts_are_spread(port: Path) -> None:
    result = verify(port, tp=2, ep=True, max_tokens=8)
    assert result.passed, result.failures
    assert result.ep and result.tp == 2 and result.fused["experts"] > 0


def test_a_port_counts_its_experts(port: Path, tmp_path: Path) -> None:
    """Those of a rank are what the fault leaves out: the count is read, not guessed."""
    text = port.read_text()
    right = "self.num_local_physical_experts = moe_config.num_local_experts"
    check = f"{right}\n            assert 2 * moe_config.num_local_experts == "
    check += "self.num_physical_experts"
    assert text.count(right) == 1
    port = tmp_path / "mixtral.py"
    port.write_text(text.replace(right, check))
    assert verify(port, tp=2, ep=True, max_tokens=2, invariances=False).passed
