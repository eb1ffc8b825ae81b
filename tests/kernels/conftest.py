"""Kernels run on the GPU where there is one, else in Triton's interpreter."""

import importlib.util

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.manual_seed(0)
