"""Whole ports of the fixture models, byte for byte, or the gaps of those refused."""

import pytest

from porter.convert import convert
from porter.gap import Refused
from porter.profiles import DEFAULT, RELEASES
from tests.conftest import ROOT, CompareGolden
from tests.sources import FIXTURES, fixture_file


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("release", RELEASES)
def test_port_of_fixture(
    name: str,
    release: str,
    compare_golden: CompareGolden,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    folder = ROOT / "fixtures/models" / name
    try:
        port = convert(fixture_file(name), profile=release)
        suffix = "" if release == DEFAULT else f"_{release.replace('.', '_')}"
        text, golden, other = port.text, f"expected{suffix}.py", "refused.txt"
    except Refused as refusal:
        text, golden, other = f"{refusal}\n", "refused.txt", "expected.py"
    compare_golden(folder / golden, text)
    assert not (folder / other).exists(), f"{name} has both goldens: delete {other}"
