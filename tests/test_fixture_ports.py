"""The goldens of the fixture models compute what the models compute."""

import pytest

from porter.verify import verify
from tests.sources import PORTED, ROOT


@pytest.mark.parametrize("name", PORTED)
def test_golden_equals_its_source(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    port = ROOT / "fixtures/models" / name / "expected.py"
    result = verify(port, trust_remote_code=True, invariances=False)
    assert result.passed, result.failures
    assert result.logits_rel_rmse <= 1e-4
    assert all(result.tokens_equal)
    assert result.unused_weights == result.uninitialised_weights == []
