"""Weights that a source stores and never reads: a port leaves them out as it loads."""

from pathlib import Path

import transformers

from porter.convert import convert

SOURCE = Path(transformers.__file__).parent / "models" / "ctrl" / "modeling_ctrl.py"
SUM = "out1 + ffn_output"
PATTERN = r"\.ffn("


def test_a_sequential_whose_result_is_dropped() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    assert text.count(SUM) == 1
    port = convert(SOURCE, arch="CTRLLMHeadModel", text=text.replace(SUM, "out1"))
    assert PATTERN in port.text


def test_one_that_is_read_is_loaded() -> None:
    assert PATTERN not in convert(SOURCE, arch="CTRLLMHeadModel").text
