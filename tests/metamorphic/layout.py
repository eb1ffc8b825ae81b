"""Variants that only lay the file out differently."""

import ast
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.metamorphic.rename import Names


def unparsed(text: str) -> tuple[str, Names]:
    """One statement a line, however long; no comments."""
    return ast.unparse(ast.parse(text)) + "\n", Names()


def narrow(text: str) -> tuple[str, Names]:
    """Formatted to 52 columns with single quotes."""
    return _formatted(text, 52, "single"), Names()


def wide(text: str) -> tuple[str, Names]:
    """Formatted to 200 columns, magic trailing commas ignored."""
    return _formatted(text, 200, "double"), Names()


def _formatted(text: str, width: int, quotes: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "ruff.toml"
        config.write_text(
            f"line-length = {width}\n[format]\nquote-style = '{quotes}'\n"
            "skip-magic-trailing-comma = true\n"
        )
        command = [sys.executable, "-m", "ruff", "format", "-", "--config", str(config)]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=True
        )
    return done.stdout
