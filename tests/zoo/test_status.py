"""What becomes of every model of transformers: verified, or refused with a gap.

The golden says which. A model that is verified may not be refused again unnoticed, and
none may differ from its source, fail, or stay unverified.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from porter.zoo.listing import transformers_version
from tests.conftest import ROOT, CompareGolden

# one worker runs it, since both tests read one sweep
pytestmark = pytest.mark.xdist_group("zoo")
GOLDEN = ROOT / "tests" / "goldens" / f"transformers-{transformers_version()}"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One sweep by the command, each model in its own tiny config on one rank."""
    file = tmp_path_factory.mktemp("zoo") / "zoo.json"
    command = [sys.executable, "-m", "porter", "zoo", "--configs", "1", "--json"]
    done = subprocess.run(
        [*command, str(file), "--workers", "1"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert file.exists(), done.stdout + done.stderr
    return json.loads(file.read_text())


def test_none_is_wrong(record: dict[str, Any]) -> None:
    bad = ("differs", "failed", "unverified")
    found = {
        entry["architecture"]: entry["reason"]
        for entry in record["models"]
        if entry["status"] in bad
    }
    assert found == {}
    assert record["counts"]["verified"] + record["counts"]["refused"] >= 125


def test_statuses(record: dict[str, Any], compare_golden: CompareGolden) -> None:
    rows = [
        f"{entry['architecture']:32} {entry['category']:10} {entry['status']}"
        for entry in record["models"]
    ]
    compare_golden(Path(GOLDEN / "zoo.txt"), "\n".join(rows) + "\n")
