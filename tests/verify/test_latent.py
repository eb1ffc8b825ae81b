"""Latent attention on the bundled runtime: both caches, against the source."""

from pathlib import Path
from typing import Any

import pytest

from porter.convert import convert
from porter.gap import CannotRun, UsageError
from porter.verify import verify
from porter.verify.cache_forms import multi_head_form
from porter.vllm_engine.llm import cannot


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("port") / "youtu.py"
    path.write_text(convert("youtu").text)
    return path


def test_both_forms_and_both_numbers_of_ranks(port: Path) -> None:
    result = verify(port)
    assert result.passed, result.failures
    assert result.fused["latent_attention"] > 0 and "attention" not in result.fused
    assert {"multi_head", "tp2", "chunked_prefill"} <= set(result.invariances)
    assert all(result.invariances.values())
    cache = result.cache_bytes_per_token
    latent, plain = cache["latent_attention"], cache["attention"]
    assert latent and plain and 0 < latent < plain


def test_a_fault_of_either_form_is_found(port: Path, tmp_path: Path) -> None:
    text = port.read_text()
    latent, plain = "                scale,\n", "                scale=scale,\n"
    for name, right in (("latent", latent), ("plain", plain)):
        assert text.count(right) == 1
        wrong = tmp_path / f"{name}.py"
        wrong.write_text(text.replace(right, right.replace("scale,", "2 * scale,")))
        result = verify(wrong, max_tokens=8)
        assert not result.passed
        assert ("not the same with multi_head" in result.failures) == (name == "plain")


@pytest.mark.parametrize("error", [CannotRun("it fails"), UsageError("it doesn't fit")])
def test_a_form_that_fails_is_no_missing_kernel(error: Exception) -> None:
    def make_engine(**options: Any) -> Any:
        raise error

    with pytest.raises(type(error)):
        multi_head_form(make_engine, [], 1e-4, tp=1)


def test_a_form_without_a_kernel_is_left_out() -> None:
    said = "vLLM can't run x.py: RuntimeError: Unsupported CPU attention configuration"

    def make_engine(**options: Any) -> Any:
        raise cannot(f"{said}: head_dim=144")

    assert multi_head_form(make_engine, [], 1e-4, tp=1) is None
    assert type(cannot(said)) is CannotRun
