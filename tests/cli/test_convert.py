"""`porter convert`: where the port goes, what is said, and a caller's mistakes."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from tests.cli.conftest import Porter, source_of, write_files
from tests.processes import python

HEAD = "@auto_docstring\nclass HeronForCausalLM"
MIXES_TOKENS = "hidden_states = hidden_states.cumsum(dim=1)"


def test_writes_the_port_beside_us(porter: Porter, heron: Path) -> None:
    outcome = porter("convert", heron / "modeling_heron.py")
    assert outcome.code == 0, outcome.err
    port = Path("heron.py").read_text()
    assert "class HeronForCausalLM" in port
    assert "HeronForCausalLM of" in outcome.out
    *table, source, _ = outcome.out.splitlines()
    assert max(map(len, table)) <= 80


@pytest.mark.parametrize("source", ["file", "folder"])
def test_file_and_folder_are_the_same_source(
    source: str, porter: Porter, heron: Path
) -> None:
    where = heron / "modeling_heron.py" if source == "file" else heron
    outcome = porter("convert", where, "-o", "out.py")
    assert outcome.code == 0, outcome.err
    assert "class HeronForCausalLM" in Path("out.py").read_text()


def test_dash_is_standard_output(porter: Porter, heron: Path) -> None:
    written = porter("convert", heron, "-o", "out.py")
    assert written.code == 0, written.err
    outcome = porter("convert", heron, "-o", "-")
    assert outcome.out == Path("out.py").read_text()
    assert "HeronForCausalLM of" in outcome.err


def test_report_tells_every_change(porter: Porter, heron: Path) -> None:
    outcome = porter("convert", heron, "-o", "out.py", "--report", "out.json")
    assert outcome.code == 0, outcome.err
    report = json.loads(Path("out.json").read_text())
    assert report["changes"]
    for change in report["changes"]:
        assert {"transform", "file", "source_line", "why"} <= set(change)


def test_existing_port_is_replaced_and_keeps_its_mode(
    porter: Porter, heron: Path
) -> None:
    assert porter("convert", heron).code == 0
    port = Path("heron.py")
    port.chmod(0o640)
    port.write_text(port.read_text() + "\n# edited\n")
    assert porter("convert", heron).code == 0
    assert "# edited" not in port.read_text()
    assert port.stat().st_mode & 0o777 == 0o640


def test_output_through_a_link_keeps_the_link(porter: Porter, heron: Path) -> None:
    Path("real.py").touch()
    Path("link.py").symlink_to("real.py")
    assert porter("convert", heron, "-o", "link.py").code == 0
    assert Path("link.py").is_symlink()
    assert "class HeronForCausalLM" in Path("real.py").read_text()


def test_device_is_written_to_not_replaced(porter: Porter, heron: Path) -> None:
    assert porter("convert", heron, "-o", os.devnull).code == 0
    assert Path(os.devnull).is_char_device()


def test_source_is_never_run(porter: Porter, heron: Path, tmp_path: Path) -> None:
    for name in ("modeling_heron.py", "configuration_heron.py"):
        file = heron / name
        file.write_text(file.read_text() + "\nopen('was-run', 'w')\nraise SystemExit\n")
    assert porter("convert", heron, "-o", "out.py").code == 0
    assert not (tmp_path / "was-run").exists()


def test_refused_source_names_the_line_and_writes_nothing(
    porter: Porter, heron: Path
) -> None:
    file = heron / "modeling_heron.py"
    lines = file.read_text().splitlines()
    at = next(
        i for i, line in enumerate(lines) if line.strip().startswith("residual =")
    )
    lines.insert(at, " " * 8 + MIXES_TOKENS)
    file.write_text("\n".join(lines) + "\n")
    before = sorted(Path.cwd().rglob("*"))

    outcome = porter("convert", file, "-o", "out.py", "--report", "out.json")
    assert outcome.code == 3
    assert f"modeling_heron.py:{at + 1}: " in outcome.err
    assert "nothing written" in outcome.err
    assert sorted(Path.cwd().rglob("*")) == before


ARGUMENTS = """class KwargsForCausalLM(TypedDict, total=False):
    cu_seqlens: int | None


"""


def several_models() -> str:
    heron = source_of("heron")
    start = heron.index(HEAD)
    end = heron.index("\n\n__all__")
    second = heron[start:end].replace("HeronForCausalLM", "GreyHeronForCausalLM")
    return heron + "\n\n" + second + "\n"


def test_one_of_several_models_is_named_by_arch(porter: Porter, heron: Path) -> None:
    file = heron / "modeling_heron.py"
    file.write_text(several_models())
    outcome = porter("convert", file, "-o", "out.py", "--arch", "GreyHeronForCausalLM")
    assert outcome.code == 0, outcome.err
    text = Path("out.py").read_text()
    assert "class GreyHeronForCausalLM" in text
    assert "class HeronForCausalLM" not in text


def test_a_type_of_arguments_is_no_model(porter: Porter, heron: Path) -> None:
    """transformers 4.48 to 4.53 have such a class in most files."""
    file = heron / "modeling_heron.py"
    text = file.read_text().replace(HEAD, "\n\n" + ARGUMENTS + HEAD, 1)
    file.write_text("from typing import TypedDict\n" + text)
    assert porter("convert", file, "-o", "out.py").code == 0
    assert "class HeronForCausalLM" in Path("out.py").read_text()


# Each mistake: the files to make, the arguments, and words that the message must have.
MISTAKES: dict[str, tuple[dict[str, str | bytes], list[str], list[str]]] = {
    "missing file": ({}, ["nowhere/modeling_x.py"], ["nowhere/modeling_x.py"]),
    "unknown model_type": ({}, ["no_such_bird"], ["no_such_bird"]),
    "syntax error": (
        {"modeling_x.py": "import torch\ndef f(:\n"},
        ["modeling_x.py"],
        ["modeling_x.py:2"],
    ),
    "null bytes": (
        {"modeling_x.py": "import torch\0\n"},
        ["modeling_x.py"],
        ["modeling_x.py"],
    ),
    "not text": ({"modeling_x.py": b"\xff\xfe\x00"}, ["modeling_x.py"], ["modeling_x"]),
    "empty file": ({"modeling_x.py": ""}, ["modeling_x.py"], ["modeling_x.py"]),
    "not a modeling file": (
        {"modeling_x.py": "def f():\n    return 1\n"},
        ["modeling_x.py"],
        ["modeling_x.py"],
    ),
    "no causal LM": (
        {"modeling_x.py": source_of("heron").partition(HEAD)[0]},
        ["modeling_x.py"],
        ["modeling_x.py", "ForCausalLM"],
    ),
    "several causal LMs": (
        {"modeling_x.py": several_models()},
        ["modeling_x.py"],
        ["GreyHeronForCausalLM", "HeronForCausalLM", "--arch"],
    ),
    "unknown arch": (
        {"modeling_x.py": source_of("heron")},
        ["modeling_x.py", "--arch", "EgretForCausalLM"],
        ["EgretForCausalLM"],
    ),
    "folder without config": ({"bird/x.txt": ""}, ["bird"], ["bird", "config.json"]),
    "folder's config is not JSON": (
        {"bird/config.json": "{"},
        ["bird"],
        ["bird/config.json"],
    ),
    "folder's config is a list": (
        {"bird/config.json": "[]"},
        ["bird"],
        ["bird/config.json"],
    ),
    "folder of an unknown model_type": (
        {"bird/config.json": '{"model_type": "no_such_bird"}'},
        ["bird"],
        ["no_such_bird"],
    ),
    "folder whose code is missing": (
        {
            "bird/config.json": '{"auto_map": {"AutoModelForCausalLM": '
            '"modeling_bird.BirdForCausalLM"}}'
        },
        ["bird"],
        ["modeling_bird.py"],
    ),
    "missing config": ({}, ["opt", "--config", "none.json"], ["none.json"]),
    "config is a folder": ({"c/x": ""}, ["opt", "--config", "c"], ["c is a folder"]),
    "config is not JSON": (
        {"c.json": "not json"},
        ["opt", "--config", "c.json"],
        ["c.json"],
    ),
    "output's folder is missing": ({}, ["opt", "-o", "no/out.py"], ["no/out.py"]),
    "output is a folder": ({"out/x": ""}, ["opt", "-o", "out"], ["out", "folder"]),
    "output below a file": ({"f": ""}, ["opt", "-o", "f/out.py"], ["f/out.py"]),
    "report is HTML": ({}, ["opt", "--report", "r.html"], [".json"]),
    "report is neither": ({}, ["opt", "--report", "r.txt"], [".json"]),
    "report's folder is missing": (
        {},
        ["opt", "-o", "out.py", "--report", "no/r.json"],
        ["no/r.json"],
    ),
    "output is the source": (
        {
            "modeling_x.py": source_of("heron"),
            "configuration_heron.py": source_of("heron", "configuration"),
        },
        ["modeling_x.py", "-o", "modeling_x.py"],
        ["modeling_x.py", "source"],
    ),
    "default output is somebody's file": (
        {"opt.py": "import optparse\n"},
        ["opt"],
        ["opt.py", "-o"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_message_and_changes_no_file(
    mistake: str, porter: Porter, tmp_path: Path
) -> None:
    files, arguments, words = MISTAKES[mistake]
    write_files(tmp_path, files)
    before = _contents(tmp_path)

    outcome = porter("convert", *arguments)
    assert outcome.code == 2, outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("porter: ")
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err
    assert _contents(tmp_path) == before


def test_read_only_folder_is_one_message(
    porter: Porter, heron: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is simulated, because root may write anywhere."""

    def denied(**where: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", denied)
    outcome = porter("convert", heron, "-o", "out.py")
    assert outcome.code == 2
    assert outcome.err == "porter: can't write out.py: Permission denied\n"


def test_full_disk_leaves_the_old_port(
    porter: Porter, heron: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error while writing: the old file stays, no temporary file is left."""
    Path("out.py").write_text("old\n")
    Path("out.json").write_text("old\n")
    before = sorted(Path.cwd().iterdir())

    def no_space(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    outcome = porter("convert", heron, "-o", "out.py", "--report", "out.json")
    assert outcome.code == 2
    assert "No space left on device" in outcome.err
    assert Path("out.py").read_text() == Path("out.json").read_text() == "old\n"
    assert sorted(Path.cwd().iterdir()) == before


def test_mistake_in_a_fresh_process_shows_no_traceback(tmp_path: Path) -> None:
    done = python("-m", "porter", "convert", "nowhere.py", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("porter: ")
    assert "Traceback" not in done.stderr


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
