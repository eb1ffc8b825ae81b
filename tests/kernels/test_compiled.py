"""Kernels compiled for an H200, no GPU needed: few spills, the right matrix unit."""

import functools
import json
from typing import Any

import pytest

from tests.processes import python


@functools.cache
def compiled() -> dict[str, dict[str, Any]]:
    """By case. A process of its own: this one's kernels are the interpreter's."""
    done = python("-m", "tests.kernels.compiled", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return {result["case"]: result for result in json.loads(done.stdout)}


@pytest.mark.xdist_group("compiled kernels")
def test_next_to_nothing_spills() -> None:
    """But for a few around the loops of the prefill that has to share an SM."""
    spilled = {c: r["spills"] for c, r in compiled().items() if r["spills"] > 24}
    assert not spilled


@pytest.mark.xdist_group("compiled kernels")
def test_attention_uses_the_matrix_units_and_loads_ahead() -> None:
    for case, result in compiled().items():
        kind, size, *rest = case.split()
        if kind == "prefill" and "short" not in rest:
            assert "HGMMA" in result["products"], case  # the whole warpgroup's
        elif kind in ("decode", "prefill"):
            assert "HMMA" in result["products"], case  # 16 rows
        if kind in ("decode", "prefill"):
            assert result["async_copies"], case
        assert result["before_turn"] == (kind == "decode"), case


@pytest.mark.xdist_group("compiled kernels")
def test_hopper_computes_softmax_beside_its_products() -> None:
    hopper = {c: r for c, r in compiled().items() if "hopper" in c.split()}
    assert hopper
    for case, result in hopper.items():
        assert result["kernel"] == "_hopper_prefill", case
        assert result["products_overlap"], case


@pytest.mark.xdist_group("compiled kernels")
def test_programs_fit_beside_each_other() -> None:
    for case, result in compiled().items():
        assert result["shared"] <= 227 * 1024, case
        registers = result["registers"] * result["warps"] * 32
        assert registers <= 65536, case
        if case.startswith("decode"):  # two an SM, to have enough bytes in flight
            assert result["shared"] <= 113 * 1024 and registers <= 32768, case
