"""Models of our own writing, as foreign code: converted, then verified on their own."""

from pathlib import Path

import pytest

from porter.convert import convert
from porter.gap import Refused, UsageError
from porter.verify import verify

MODELS = Path(__file__).resolve().parents[2] / "fixtures" / "models"
NAMES = sorted(path.name for path in MODELS.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", NAMES)
def test_a_fixture_model_equals_its_source(name: str, tmp_path: Path) -> None:
    port = tmp_path / f"{name}.py"
    try:
        port.write_text(convert(MODELS / name).text)
    except Refused as refusal:
        pytest.skip(f"refused: {refusal.gaps[0]}")
    with pytest.raises(UsageError, match="--trust-remote-code"):
        verify(port)
    result = verify(port, trust_remote_code=True, invariances=False)
    assert result.passed, result.failures
