"""A folder with code of its own: several files, absolute and relative imports, a package
that isn't there, and what model files of 2023 do. It is read by convert and run by verify.
"""

import shutil
import sys
from pathlib import Path

import pytest

from porter.convert import convert
from porter.gap import Refused, UsageError
from porter.verify import verify

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "remote" / "dunlin"


@pytest.fixture
def port(tmp_path: Path) -> Path:
    path = tmp_path / "dunlin.py"
    path.write_text(convert(FOLDER).text)
    return path


def test_its_port_equals_it(port: Path) -> None:
    with pytest.raises(UsageError, match="--trust-remote-code"):
        verify(port)
    result = verify(port, trust_remote_code=True)
    assert result.passed, result.failures
    assert result.fused["rope"] == 4
    assert result.fused["qkv"] == 4


def test_its_own_code_is_on_no_path_afterwards(port: Path) -> None:
    before = list(sys.path)
    verify(port, trust_remote_code=True, invariances=False)
    assert sys.path == before


def test_the_kind_of_rope_that_no_port_can_follow_is_refused_at_load(
    port: Path,
) -> None:
    """It isn't that of the config class's defaults, so the port is made without it."""
    with pytest.raises(Exception, match="stretched isn't supported"):
        verify(port, trust_remote_code=True, config_overrides={"stretched": True})


def test_a_folder_that_asks_for_it_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "dunlin"
    shutil.copytree(FOLDER, folder)
    text = (folder / "configuration_dunlin.py").read_text()
    text = text.replace("stretched=False", "stretched=True")
    (folder / "configuration_dunlin.py").write_text(text)
    with pytest.raises(Refused, match="mixes tokens"):
        convert(folder)
