"""`porter explain`: transforms by name, lines of a port by their origin."""

from pathlib import Path

import pytest

from porter.explanation import generated_line, transform_docs
from tests.cli.conftest import Porter, source_of


@pytest.fixture
def port(heron: Path, porter: Porter) -> Path:
    outcome = porter("convert", "heron/modeling_heron.py", "-o", "heron.py")
    assert outcome.code == 0, outcome.err
    return Path("heron.py")


def test_every_transform_is_listed_with_what_it_does(porter: Porter) -> None:
    outcome = porter("explain")
    assert outcome.code == 0
    assert transform_docs()
    for name, docs in transform_docs().items():
        assert docs, f"{name} has no docstring"
        assert name in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80


@pytest.mark.parametrize("name", transform_docs())
def test_transform_is_explained_by_its_specification(name: str, porter: Porter) -> None:
    outcome = porter("explain", name)
    assert outcome.code == 0
    assert outcome.out == transform_docs()[name] + "\n"


def test_near_miss_is_guessed(porter: Porter) -> None:
    name = next(iter(transform_docs()))
    outcome = porter("explain", name[:-1])
    assert outcome.code == 2
    assert f"Did you mean {name}?" in outcome.err


def test_every_line_of_a_port_can_be_asked_for(port: Path, porter: Porter) -> None:
    lines = port.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if "Linear(" in line or "class " in line:
            outcome = porter("explain", f"{port}:{number}")
            assert outcome.code == 0, outcome.err
            assert line.strip() in outcome.out


def test_line_leads_back_to_its_source(port: Path, porter: Porter) -> None:
    ours = line_with(port.read_text(), "= self.qkv_proj(")
    theirs = line_with(source_of("heron"), "q = self.wq(hidden_states)")
    outcome = porter("explain", f"{port}:{ours}")
    assert f"heron/modeling_heron.py:{theirs}: q = self.wq(" in outcome.out
    assert "fuse_qkv: " in outcome.out


def test_line_without_a_source_says_so(port: Path, porter: Porter) -> None:
    ours = line_with(port.read_text(), "from vllm.sequence import")
    assert "no source line" in porter("explain", f"{port}:{ours}").out


def test_edit_by_hand_is_not_explained_away(port: Path, porter: Porter) -> None:
    text = port.read_text()
    at = line_with(text, "self.head_dim = ")
    lines = text.splitlines()
    lines.insert(at, "        self.mine = 1")
    port.write_text("\n".join(lines) + "\n")
    assert "edited by hand" in porter("explain", f"{port}:{at + 1}").out

    last = line_with(port.read_text(), "def load_weights")
    before = porter("explain", f"{port}:{last}").out
    assert "edited by hand" not in before


def test_port_without_a_line_asks_for_one(port: Path, porter: Porter) -> None:
    outcome = porter("explain", port)
    assert outcome.code == 2
    assert "heron.py:LINE" in outcome.err


@pytest.mark.parametrize(
    ("written", "line", "expected"),
    [
        ("abc", 1, 1),
        ("abc", 3, 3),
        ("aXbc", 1, 1),
        ("aXbc", 2, None),
        ("aXbc", 4, 3),
        ("bc", 1, 2),
        ("aXc", 2, None),
    ],
)
def test_lines_are_found_again_around_edits(
    written: str, line: int, expected: int | None
) -> None:
    assert generated_line(list(written), list("abc"), line) == expected


def line_with(text: str, words: str) -> int:
    """The only line, from 1, that has these words."""
    (number,) = [n for n, line in enumerate(text.splitlines(), 1) if words in line]
    return number
