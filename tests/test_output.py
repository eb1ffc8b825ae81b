"""What every port is like as a file: short, clean, and the same bytes each time."""

import json
import resource
from pathlib import Path

import pytest

from porter.convert import convert
from tests.processes import python
from tests.sources import PORTED, ROOT, SIX, fixture_file

MAX_LINES = 450
MAX_SECONDS = 1.0
# Reads the source of Python's own library: 0.4 s where a conversion takes 0.75 s. A loaded
# machine stretches both, and so does a slower one.
YARDSTICK = """
import ast, pathlib, statistics
folder = pathlib.Path(statistics.__file__).parent
for name in ("argparse", "inspect", "statistics", "typing", "tarfile") * 2:
    for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
        pass
"""
YARDSTICK_SECONDS = 0.4
# vLLM's own choice of rules, and those for unused arguments and dead branches.
RULES = "E,F,W,I,UP,B,SIM,ISC,ARG,PIE,RUF100"
# The source's licence header stays as its authors wrapped it.
IGNORED = "E501"
OURS = 'lint.isort.known-first-party = ["vllm"]'  # as in vLLM's own tree


def source_of(name: str) -> str:
    return fixture_file(name) if name in PORTED else name


@pytest.fixture(params=[*SIX, *PORTED])
def port_file(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.chdir(ROOT)
    port = convert(source_of(request.param))
    path = tmp_path / port.file_name
    path.write_text(port.text)
    return path


def test_port_is_short_and_narrow(port_file: Path) -> None:
    lines = port_file.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert [line for line in lines if len(line) > 88 and line[0] != "#"] == []


@pytest.mark.parametrize(
    "command",
    [
        ["check", "--isolated", "--select", RULES, "--ignore", IGNORED]
        + ["--line-length", "88", "--config", OURS],
        ["format", "--isolated", "--line-length", "88", "--check", "--diff"],
    ],
    ids=["check", "format"],
)
def test_ruff_finds_nothing_in_a_port(command: list[str], port_file: Path) -> None:
    done = python("-m", "ruff", *command, port_file)
    assert done.returncode == 0, done.stdout + done.stderr


DIGESTS = """
import hashlib, json, sys
from porter.convert import convert
from tests.processes import python
ports = {name: convert(name).text for name in sys.argv[1:]}
json.dump({n: hashlib.sha256(t.encode()).hexdigest() for n, t in ports.items()},
          sys.stdout)
"""


def test_same_bytes_in_every_process() -> None:
    """Two processes whose hash seeds differ, so that no set's order gets out."""
    names = [source_of(name) for name in (*SIX, *PORTED)]
    digests = []
    for seed in ("1", "2"):
        done = python("-c", DIGESTS, *names, PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        digests.append(json.loads(done.stdout))
    assert digests[0] == digests[1]


IMPORTS = """
import sys
from porter.cli import main
assert main(["convert", "llama", "-o", "-"]) == 0
heavy = {"torch", "transformers", "numpy", "safetensors"} & set(sys.modules)
assert not heavy, heavy
"""


def test_convert_imports_neither_torch_nor_transformers() -> None:
    done = python("-c", IMPORTS)
    assert done.returncode == 0, done.stderr


def test_convert_takes_at_most_a_second() -> None:
    """Of the processor's time in a fresh process, on a machine where the yardstick takes
    its usual time just before and after; figures/convert.py prints wall time."""
    ratios = []
    for _ in range(3):
        usual = seconds_of("-c", YARDSTICK)
        taken = seconds_of("-m", "porter", "convert", "llama", "-o", "-")
        usual = max(usual, seconds_of("-c", YARDSTICK), YARDSTICK_SECONDS)
        ratios.append(taken / usual)
    assert min(ratios) * YARDSTICK_SECONDS <= MAX_SECONDS


def seconds_of(*arguments: str) -> float:
    """Processor time of one Python process."""
    before = children_seconds()
    done = python(*arguments)
    assert done.returncode == 0, done.stderr
    return children_seconds() - before


def children_seconds() -> float:
    """Processor time of the ended child processes so far, theirs and the system's."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
