"""`convert --config`: branches are folded by one config, and the port holds others to it."""

import json
from pathlib import Path

import pytest

from porter.convert import convert
from porter.gap import UsageError


def fold(tmp_path: Path, source: str, **fields: object) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields), encoding="utf-8")
    return convert(source, config=path).text


def test_a_branch_is_folded_and_its_field_is_checked(tmp_path: Path) -> None:
    text = fold(tmp_path, "gpt_neox", use_parallel_residual=False)
    assert "if self.use_parallel_residual" not in text
    assert "if config.use_parallel_residual is not False:" in text
    assert f"--config {tmp_path / 'config.json'}" in text


def test_the_class_defaults_decide_what_the_file_leaves_out(tmp_path: Path) -> None:
    text = fold(tmp_path, "opt", hidden_size=64)
    assert "if config.do_layer_norm_before is not True:" in text
    assert "self.project_in" in text  # no default that is a number: the branch stays


def test_sizes_stay_the_configs(tmp_path: Path) -> None:
    assert "config.hidden_size" in fold(tmp_path, "opt", hidden_size=64)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_config_is_one_message(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"config\.json"):
        convert("opt", config=path)


def test_a_missing_config_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        convert("opt", config=tmp_path / "nothing.json")
