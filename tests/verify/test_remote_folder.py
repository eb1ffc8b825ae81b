"""A folder with code of its own: several files, absolute and relative imports, a package
that isn't there, and what model files of 2023 do. It is read by convert and run by verify.
"""

import json
import shutil
from pathlib import Path

import pytest

from porter.convert import convert
from porter.gap import UsageError
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
    assert result.fused["rope"] == 2
    assert result.fused["qkv"] == 2


def test_its_own_code_is_on_no_path_afterwards(port: Path) -> None:
    import sys

    before = list(sys.path)
    verify(port, trust_remote_code=True, invariances=False)
    assert sys.path == before


def test_the_kind_of_rope_that_no_port_can_follow_is_refused_at_load(
    port: Path, tmp_path: Path
) -> None:
    text = port.read_text()
    assert "rope_type'] != 'default' isn't supported" in text
    folder = tmp_path / "stretched"
    shutil.copytree(FOLDER, folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"] = {"type": "linear", "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(config))
    result = convert(folder)
    assert "rope_type'] != 'default' isn't supported" in result.text
