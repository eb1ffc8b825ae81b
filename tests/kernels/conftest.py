"""Kernels run on the GPU where there is one, else in Triton's interpreter on the CPU.

The interpreter is chosen before a kernel's module is imported, so this comes first.
"""

import importlib.util
import os

import pytest
import torch

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.manual_seed(0)
