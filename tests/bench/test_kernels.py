"""The figures of the kernels' table follow from its rows."""

import math
from pathlib import Path

import pytest
from transformers import LlamaConfig

from porter.bench.floor import decode_bytes, parameters
from porter.bench.kernels import summary


def row(kernel: str, mib: float, floor: float, **us: float | str) -> dict:
    engines = {
        name: {"failed": value} if isinstance(value, str) else {"us": value}
        for name, value in us.items()
    }
    return {"kernel": kernel, "cache_mib": mib, "floor_us": floor, "engines": engines}


def test_summary() -> None:
    rows = [
        row("decode attention", 64, 1.0, porter=10.0, fast=5.0, gone="not there"),
        row("decode attention", 65, 90.0, porter=100.0, fast=200.0, gone="not there"),
        row("decode attention", 900, 80.0, porter=100.0, fast="broke", gone="no"),
        row("prefill attention", 0, 1.0, porter=4.0, fast=3.0),
    ]
    figures = summary(rows)
    assert figures["decode_bandwidth"] == pytest.approx(0.8)
    assert figures["decode_vs_fast"] == pytest.approx(math.sqrt(0.5 * 2.0))
    assert figures["decode_vs_fast_least"] == pytest.approx(0.5)
    assert figures["prefill_vs_fast"] == pytest.approx(0.75)
    assert not any("gone" in name for name in figures)


@pytest.mark.parametrize("tied", [True, False])
def test_floor_counts_what_a_step_reads(tied: bool, tmp_path: Path) -> None:
    LlamaConfig(
        vocab_size=100,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    ).save_pretrained(tmp_path)
    layer = 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 12 + 2 * 8
    read = 3 * layer + 8 + 100 * 8
    assert parameters(tmp_path) == read + (0 if tied else 800)
    cached = 3 * 2 * 2 * 2 * 50
    assert decode_bytes(tmp_path, "bfloat16", 50) == 2 * (read + cached)
