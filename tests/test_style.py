"""ruff, mypy, and the rules of this repository that neither of them knows."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.processes import ROOT, python

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
COPYRIGHT = re.compile(
    r"(?i)copyright[^\n]*(hugging ?face|vllm|eleuther|google|meta ai|facebook)"
)


def tracked_files() -> list[Path]:
    """Every file that git tracks or would track, as it is in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted({ROOT / name for name in listed.split("\0") if name})


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
    ],
    ids=" ".join,
)
def test_tool_finds_nothing(command: list[str]) -> None:
    done = python("-m", *command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_file_names_tell_something() -> None:
    vague = [
        path.relative_to(ROOT)
        for path in tracked_files()
        if {part.lower() for part in path.relative_to(ROOT).with_suffix("").parts}
        & VAGUE_NAMES
    ]
    assert not vague


def test_nothing_carries_another_projects_copyright() -> None:
    found = []
    for path in tracked_files():
        if not path.is_file() or path == Path(__file__).resolve():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [
            f"{path.relative_to(ROOT)}: {match[0]}"
            for match in COPYRIGHT.finditer(text)
        ]
    assert not found
