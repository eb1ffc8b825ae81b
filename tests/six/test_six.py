"""The six models equal their sources in every config, on one rank and on two."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.six.configs import CONFIGS

# one worker runs them, since they share one run of the matrix
pytestmark = pytest.mark.xdist_group("six")
ROOT = Path(__file__).resolve().parents[2]
CASES = [
    (model, config, setup)
    for model, configs in CONFIGS.items()
    for config in configs
    for setup in ("tp1", "tp2")
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Any]:
    """One run of the command, in a process that nothing else has touched."""
    file = tmp_path_factory.mktemp("six") / "rows.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.six", "--json", str(file)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert file.exists(), done.stdout + done.stderr
    records = json.loads(file.read_text())
    return {(row["model"], row["config"], row["setup"]): row for row in records}


def test_every_model_has_configs_enough() -> None:
    assert len(CONFIGS) == 6 and min(map(len, CONFIGS.values())) >= 4


@pytest.mark.parametrize(("model", "config", "setup"), CASES)
def test_port_equals_its_source(rows: Any, model: str, config: str, setup: str) -> None:
    row = rows[model, config, setup]
    assert row["passed"], row.get("failures") or row["error"]
    assert row["logits_rel_rmse"] <= 1e-4
    assert row["tokens_equal"] == [True] * 3 or row["ties"]
    assert not row["unused_weights"] and not row["uninitialised_weights"]
