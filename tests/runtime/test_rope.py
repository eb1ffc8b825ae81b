"""Rotary embeddings against numbers that vLLM itself printed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from porter.gap import CannotRun
from porter.runtime.layers.rotary_embedding import forget_ropes, get_rope
from tests.runtime.conftest import current_config

OF_VLLM = json.loads((Path(__file__).parent / "rope_of_vllm.json").read_text())
POSITIONS = torch.tensor([0, 1, 7, 40, 63])
QUERY = torch.arange(160.0).view(5, 32).sin()
KEY = torch.arange(80.0).view(5, 16).cos()


@pytest.mark.parametrize("name", OF_VLLM["cases"])
def test_turns_as_vllm_does(name: str) -> None:
    case = OF_VLLM["cases"][name]
    forget_ropes()
    with current_config(case["max_model_len"]):
        rope: Any = get_rope(16, 256, case["neox"], case["parameters"])
    table = getattr(rope, "cos_sin_cache", None)
    if table is None:
        table = rope.long_short_cos_sin_cache
    assert len(table) == case["rows"]
    query, key = rope(POSITIONS, QUERY, KEY)
    expected = torch.tensor(case["query_last"])
    torch.testing.assert_close(query[-1], expected, rtol=0, atol=2e-5)
    expected = torch.tensor(case["key_third"])
    torch.testing.assert_close(key[2], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("neox", [True, False])
def test_keeps_the_shape_it_gets(neox: bool) -> None:
    with current_config():
        rope: Any = get_rope(16, 256, neox, {"partial_rotary_factor": 0.5})
    flat, none = rope(POSITIONS, QUERY)
    assert none is None
    apart, key = rope(POSITIONS, QUERY.view(5, 2, 16), KEY.view(5, 1, 16))
    assert apart.shape == (5, 2, 16) and key.shape == (5, 1, 16)
    assert torch.equal(apart.flatten(1), flat)
    assert torch.equal(apart[..., 8:], QUERY.view(5, 2, 16)[..., 8:])


def test_equal_parameters_share_a_module() -> None:
    with current_config():
        first = get_rope(16, 64, True, {"rope_type": "default", "rope_theta": 10.0})
        again = get_rope(16, 64, True, {"rope_type": "default", "rope_theta": 10.0})
        other = get_rope(16, 64, True, {"rope_type": "default", "rope_theta": 11.0})
    assert first is again and first is not other


def test_what_vllm_refuses_is_refused() -> None:
    with current_config():
        with pytest.raises(ValueError, match="Unknown RoPE scaling type mystery"):
            get_rope(16, 64, True, {"rope_type": "mystery"})
        with pytest.raises(ValueError, match="between 0.0 and 1.0"):
            get_rope(16, 64, True, {"partial_rotary_factor": 1.5})
        with pytest.raises(TypeError, match="float"):
            get_rope(16, 64, True, {"rope_type": "linear", "factor": 2})
        with pytest.raises(ValueError, match="neox"):
            get_rope(16, 64, False, _longrope())
        with pytest.raises(CannotRun, match="multi-axis"):
            get_rope(16, 64, True, {"mrope_section": [2, 3, 3]})


def test_longrope_wants_flat_heads_as_vllm_does() -> None:
    with current_config():
        rope: Any = get_rope(16, 64, True, _longrope())
    with pytest.raises(AssertionError, match="flat"):
        rope(POSITIONS, QUERY.view(5, 2, 16), KEY)


def _longrope() -> dict[str, Any]:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    return {
        "rope_type": "longrope",
        "original_max_position_embeddings": 32,
        **factors,
    }
