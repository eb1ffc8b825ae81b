"""The command line run in this process, and small sources and checkpoints for it."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from porter.cli import main

MODELS = Path(__file__).resolve().parents[2] / "fixtures" / "models"


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: its exit code and what it printed."""

    code: int
    out: str
    err: str


Porter = Callable[..., Outcome]


@pytest.fixture
def porter(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Porter:
    """`porter(*arguments)` in an empty current folder, `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PORTER_DEBUG", raising=False)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def heron(tmp_path: Path) -> Path:
    """A copy of a fixture's model folder: its code and config.json, no weights."""
    return copy_of("heron", tmp_path / "heron")


def copy_of(name: str, target: Path) -> Path:
    shutil.copytree(MODELS / name, target)
    (target / "expected.py").unlink(missing_ok=True)
    return target


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Make the files, and the folders they are in, below `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def source_of(name: str, kind: str = "modeling") -> str:
    return (MODELS / name / f"{kind}_{name}.py").read_text(encoding="utf-8")
