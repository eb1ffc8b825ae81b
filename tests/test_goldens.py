"""Whole ports of the fixture models, byte for byte."""

import pytest

from porter.convert import convert
from tests.conftest import ROOT, CompareGolden
from tests.sources import FIXTURES, fixture_file


@pytest.mark.parametrize("name", FIXTURES)
def test_port_of_fixture(
    name: str, compare_golden: CompareGolden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    port = convert(fixture_file(name))
    compare_golden(ROOT / "fixtures/models" / name / "expected.py", port.text)
