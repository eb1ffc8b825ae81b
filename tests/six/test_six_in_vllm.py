"""The six models equal their sources in vLLM: a part of `python -m tests.six`.

All configs in all setups take an hour; here each model is run eager and compiled, and
two of them on two ranks.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.processes import python
from tests.six.configs import CONFIGS
from tests.vllm_engine.marks import WITH_VLLM

pytestmark = WITH_VLLM


def rows_of(file: Path, *arguments: str) -> list[dict[str, Any]]:
    done = python(
        *("-m", "tests.six", "--engine", "vllm", "--configs", "1", "--json", file),
        *("--workers", "1", *arguments),
        OMP_NUM_THREADS="1",
    )
    assert file.exists(), done.stdout + done.stderr
    return json.loads(file.read_text())


def check(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["passed"], (row["model"], row.get("failures") or row["error"])
        assert row["engine"] == "vllm" and row["logits_rel_rmse"] <= 1e-4
        assert row["tokens_equal"] == [True] * 3
        assert not row["unused_weights"] and not row["uninitialised_weights"]


def test_each_model_eager_and_compiled(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "rows.json", "--setup", "tp1", "tp1-compiled")
    assert {row["model"] for row in rows} == set(CONFIGS)
    assert {row["setup"] for row in rows} == {"tp1", "tp1 compiled"}
    check(rows)


@pytest.mark.parametrize(
    ("model", "setup", "ranks"),
    [("gemma2", "tp2-compiled", (2, 1)), ("opt", "pp2", (1, 2))],
)
def test_two_ranks(
    tmp_path: Path, model: str, setup: str, ranks: tuple[int, int]
) -> None:
    rows = rows_of(tmp_path / "rows.json", model, "--setup", setup)
    assert [(row["tp"], row["pp"]) for row in rows] == [ranks]
    check(rows)
