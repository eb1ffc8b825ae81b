"""Kernels compiled for an H200, no GPU needed: few spills, the right matrix unit."""

import functools
import json
from typing import Any

import pytest

from tests.processes import python


@functools.cache
def compiled() -> list[dict[str, Any]]:
    """All kernels of all cases, from a process of its own: here they interpret."""
    done = python("-m", "tests.kernels.compiled", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.xdist_group("compiled kernels")
def test_next_to_nothing_spills() -> None:
    """But for a few around the loops of the prefill that has to share an SM."""
    spilled = {r["case"]: r["spills"] for r in compiled() if r["spills"] > 24}
    assert not spilled


@pytest.mark.xdist_group("compiled kernels")
def test_attention_uses_the_matrix_units_and_loads_ahead() -> None:
    for result in compiled():
        case = result["case"]
        kind, size, *rest = case.split()
        if kind == "prefill" and "short" not in rest:
            assert "HGMMA" in result["products"], case  # the whole warpgroup's
        elif kind in ("decode", "prefill"):
            assert "HMMA" in result["products"], case  # 16 rows
        if kind in ("decode", "prefill"):
            assert result["async_copies"], case
        assert result["before_turn"] == (kind == "decode"), case


@pytest.mark.xdist_group("compiled kernels")
def test_products_of_experts_use_the_matrix_units_and_load_ahead() -> None:
    products = [r for r in compiled() if r["kernel"] == "_grouped_product"]
    assert len(products) == 2 * len({r["case"] for r in products}) > 0
    for result in products:
        many = int(result["case"].split()[1]) >= 500  # tokens, 8 of 128 experts each
        assert ("HGMMA" if many else "HMMA") in result["products"], result["case"]
        assert result["async_copies"], result["case"]


@pytest.mark.xdist_group("compiled kernels")
def test_hopper_computes_softmax_beside_its_products() -> None:
    hopper = [r for r in compiled() if "hopper" in r["case"].split()]
    assert hopper
    for result in hopper:
        case = result["case"]
        assert result["kernel"] == "_hopper_prefill", case
        assert result["products_overlap"], case


@pytest.mark.xdist_group("compiled kernels")
def test_programs_fit_beside_each_other() -> None:
    for result in compiled():
        case = result["case"]
        assert result["shared"] <= 227 * 1024, case
        registers = result["registers"] * result["warps"] * 32
        assert registers <= 65536, case
        if case.startswith("decode"):  # two an SM, to have enough bytes in flight
            assert result["shared"] <= 113 * 1024 and registers <= 32768, case
