"""`porter check` finds ports that are not what porter writes now, and mends them."""

from pathlib import Path

import pytest

from tests.cli.conftest import Porter, copy_of


@pytest.fixture
def ports(porter: Porter, tmp_path: Path) -> Path:
    """A folder with two fresh ports, and their sources beside it."""
    (tmp_path / "ports").mkdir()
    for name in ("heron", "plover"):
        copy_of(name, tmp_path / "sources" / name)
        source = f"sources/{name}/modeling_{name}.py"
        outcome = porter("convert", source, "-o", f"ports/{name}.py")
        assert outcome.code == 0, outcome.err
    return tmp_path / "ports"


def test_fresh_ports_pass(ports: Path, porter: Porter) -> None:
    outcome = porter("check", "ports")
    assert (outcome.code, outcome.out) == (0, "")
    assert "2 ports checked" in outcome.err


def test_edit_is_shown_as_a_diff(ports: Path, porter: Porter) -> None:
    edit(ports / "heron.py")
    outcome = porter("check", "ports")
    assert outcome.code == 1
    assert "--- ports/heron.py\n" in outcome.out
    assert "-# edited\n" in outcome.out
    assert "plover" not in outcome.out


def test_fix_rewrites_what_differs(ports: Path, porter: Porter) -> None:
    fresh = (ports / "heron.py").read_text()
    untouched = (ports / "plover.py").stat().st_mtime_ns
    edit(ports / "heron.py")
    assert porter("check", "--fix", "ports").code == 0
    assert (ports / "heron.py").read_text() == fresh
    assert (ports / "plover.py").stat().st_mtime_ns == untouched
    assert porter("check", "ports").code == 0


def test_changed_source_is_noticed(ports: Path, porter: Porter) -> None:
    source = Path("sources/heron/modeling_heron.py")
    source.write_text(source.read_text().replace("head_dim**-0.5", "head_dim**-0.25"))
    outcome = porter("check", "ports/heron.py")
    assert outcome.code == 1
    assert "-0.25" in outcome.out


def test_source_that_is_refused_now(ports: Path, porter: Porter) -> None:
    source = Path("sources/heron/modeling_heron.py")
    line = "        hidden_states = residual + hidden_states\n"
    mixed = line + "        hidden_states = hidden_states.flip(1)\n"
    source.write_text(source.read_text().replace(line, mixed, 1))
    before = (ports / "heron.py").read_text()
    outcome = porter("check", "--fix", "ports")
    assert outcome.code == 3
    assert "modeling_heron.py:" in outcome.err
    assert (ports / "heron.py").read_text() == before


def test_files_that_are_no_ports_are_passed_over(ports: Path, porter: Porter) -> None:
    (ports / "__init__.py").write_text("import os\n")
    (ports / ".hidden").mkdir()
    (ports / ".hidden/old.py").write_text((ports / "heron.py").read_text() + "# old\n")
    assert porter("check", "ports").code == 0


def test_source_whose_path_has_a_blank(porter: Porter, tmp_path: Path) -> None:
    copy_of("heron", tmp_path / "my models")
    outcome = porter("convert", "my models/modeling_heron.py", "-o", "heron.py")
    assert outcome.code == 0, outcome.err
    assert porter("check", "heron.py").code == 0


def edit(port: Path) -> None:
    port.write_text(port.read_text() + "# edited\n")
