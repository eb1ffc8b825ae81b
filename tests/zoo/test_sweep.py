"""The sweep, with compilers that refuse, fail, hang, die and are right or wrong."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import porter.convert
from porter.gap import Gap, Refused
from porter.zoo import zoo
from porter.zoo.backend import Backend
from porter.zoo.processes import TaskFailed, run_each
from porter.zoo.report import print_entries, to_html
from porter.zoo.sweep import Entry

BEHAVIOUR = {
    "OPTForCausalLM": "converts",
    "LlamaForCausalLM": "refuses",
    "Qwen3ForCausalLM": "raises",
    "Olmo2ForCausalLM": "dies",
}


def fake_convert(source: Path, *, arch: str) -> Any:
    match BEHAVIOUR[arch]:
        case "refuses":
            raise Refused(
                [
                    Gap(str(source), 12, "<b>cumsum</b> along the sequence " * 8),
                    Gap(str(source), 15, "another"),
                ]
            )
        case "raises":
            raise KeyError("a bug")
        case "dies":
            os._exit(9)
    return SimpleNamespace(text="a = 1\nb = 2\n", settled_by=[])


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(porter.convert, "convert", fake_convert, raising=False)


def test_every_outcome_has_its_status(
    compiler: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "zoo.json", tmp_path / "zoo.html"
    entries = zoo(list(BEHAVIOUR), convert_only=True, json=file, html=page)
    assert [e.status for e in entries] == ["converted", "refused", "failed", "failed"]
    assert entries[0].lines == 2 and entries[0].ms >= 0
    assert "a bug" in entries[2].reason and "code 9" in entries[3].reason
    record = json.loads(file.read_text())
    assert record["version"] == 2 and record["counts"]["failed"] == 2
    assert record["models"][1]["gaps"][0]["line"] == 12
    assert "&lt;b&gt;" in page.read_text() and "<b>" not in page.read_text()
    printed = capsys.readouterr().out
    assert ":12: <b>cumsum" in printed and "(+1)" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_json_on_standard_output_is_alone(
    compiler: None, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo(["opt"], convert_only=True, json=Path("-"))
    assert json.loads(capsys.readouterr().out)["models"][0]["status"] == "converted"


def test_a_task_that_hangs_is_ended_with_its_children() -> None:
    def hang(seconds: float) -> float:
        if os.fork() == 0:
            time.sleep(60)
        time.sleep(seconds)
        return seconds

    started = time.monotonic()
    results = dict(run_each(hang, [60.0, 0.0], workers=2, timeout=1.0))
    assert isinstance(results[0], TaskFailed) and "1 s" in str(results[0])
    assert results[1] == 0.0
    assert time.monotonic() - started < 10


def test_results_come_for_every_item() -> None:
    results = dict(run_each(lambda x: x * x, range(20), workers=3, timeout=10))
    assert results == {i: i * i for i in range(20)}


def test_statuses_of_a_verification_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = Entry("AForCausalLM", "a", "models/a/modeling_a.py", "differs", reason="x")
    print_entries([entry], 1.0)
    assert "1 differs" in capsys.readouterr().out
    assert "differs" in to_html([entry], transformers="5", engine="porter")


def test_the_backend_is_a_column_where_it_was_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = Entry("AForCausalLM", "a", "models/a/modeling_a.py", "verified")
    print_entries([ours], 1.0)
    assert "backend" not in capsys.readouterr().out
    theirs = replace(ours, backend=Backend("differs", "logits <b>"))
    print_entries([theirs], 1.0)
    printed = capsys.readouterr().out
    assert "backend" in printed and "1 differs" in printed
    assert "differs: logits &lt;b&gt;" in to_html(
        [theirs], transformers="5", engine="vllm"
    )
