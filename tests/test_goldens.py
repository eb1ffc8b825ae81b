"""Whole ports of the fixture models, byte for byte, or the gaps of those refused."""

import pytest

from porter.convert import convert
from porter.gap import Refused
from tests.conftest import ROOT, CompareGolden
from tests.sources import FIXTURES, fixture_file


@pytest.mark.parametrize("name", FIXTURES)
def test_port_of_fixture(
    name: str, compare_golden: CompareGolden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    folder = ROOT / "fixtures/models" / name
    try:
        text, golden, other = (
            convert(fixture_file(name)).text,
            "expected.py",
            "refused.txt",
        )
    except Refused as refusal:
        text, golden, other = f"{refusal}\n", "refused.txt", "expected.py"
    compare_golden(folder / golden, text)
    assert not (folder / other).exists(), f"{name} has both goldens: delete {other}"
