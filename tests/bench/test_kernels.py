"""The figures of the kernels' table follow from its rows."""

import math
from pathlib import Path

import pytest
from transformers import LlamaConfig

from porter.bench.floor import decode_bytes, parameters
from porter.bench.kernels import summary
from porter.commands.bench import show_kernels


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


def test_a_table_a_kernel_within_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whole names, and no column for who doesn't have the kernel."""
    peers = {"decode attention": ("flashinfer", "fa3"), "expert products": ("vllm",)}
    rows = []
    for kernel, names in peers.items():
        us = dict.fromkeys(("porter", *names), 2e4)
        rows.append(row(kernel, 65, 1e4, **us) | {"case": "256 x 32768, group 8"})
    limits = {"bytes_per_second": 4e12, "flops_per_second": 8e14}
    show_kernels(
        {"gpu": "GPU", "ceilings": limits, "rows": rows, "summary": summary(rows)}
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for kernel, names in peers.items():
        head = next(at for at, line in enumerate(lines) if f"{kernel}, us" in line)
        heads = lines[head].split(", us")[1].split()
        assert heads == ["floor", "porter", *names, "floor/porter"]
        assert lines[head + 2].split() == [
            *"256 x 32768, group 8".split(), "10000.0",
            *["20000.0"] * (1 + len(names)), "0.50",
        ]  # fmt: skip


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
