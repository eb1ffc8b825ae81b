"""Goldens: `pytest --update-golden` writes them anew, for a person to read the diff.

Without a GPU, Triton's kernels run in its interpreter. Triton reads the variable when
it is first imported, its own library of device functions included, and torch's compiler
imports it: so it is set here, before any test module is.
"""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = Path(__file__).resolve().parent.parent

CompareGolden = Callable[[Path, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the goldens instead of comparing with them; refused under CI",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("--update-golden is refused under CI")


@pytest.fixture
def compare_golden(request: pytest.FixtureRequest) -> CompareGolden:
    """`compare_golden(path, text)`: fails with the diff where the file says otherwise.

    Under --update-golden it writes the file instead.
    """
    update = request.config.getoption("--update-golden")
    command = f"python -m pytest '{request.node.nodeid}' --update-golden"

    def compare(path: Path, text: str) -> None:
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        name = path.relative_to(ROOT)
        if not path.is_file():
            pytest.fail(
                f"{name} is missing; make it with\n    {command}", pytrace=False
            )
        expected = path.read_text(encoding="utf-8")
        if text == expected:
            return
        diff = difflib.unified_diff(
            expected.splitlines(), text.splitlines(), str(name), "now", lineterm=""
        )
        shown = "\n".join(diff)
        pytest.fail(
            f"{shown}\n\nIf this is what it should be, bless it with\n    {command}",
            pytrace=False,
        )

    return compare
