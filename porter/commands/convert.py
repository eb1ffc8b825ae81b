"""Write the vLLM port of a HuggingFace model, or say why it can't be faithful.

SOURCE is a modeling_*.py file, a model folder with a config.json, or a
model_type of the installed transformers, such as opt. Its code is read, never
run.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from porter.commands.options import add_transformers, add_trust, existing_file
from porter.console import print_table, say
from porter.gap import UsageError
from porter.output import write_files, write_stdout
from porter.profiles import DEFAULT, RELEASES

if TYPE_CHECKING:
    from porter.convert import Port


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument(
        "-o", "--output", metavar="OUT.py", help="default: ./<model>.py; '-': stdout"
    )
    parser.add_argument(
        "--arch", metavar="NAME", help="the *ForCausalLM class, where there are several"
    )
    parser.add_argument(
        "--vllm",
        choices=RELEASES,
        default=DEFAULT,
        help="the vLLM release to write for (default: %(default)s)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="config.json",
        help="fold the branches that this config decides",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE.json", help="write what was done and why"
    )
    add_trust(parser)
    add_transformers(parser)


def run(arguments: argparse.Namespace) -> int:
    _check_report_name(arguments.report)
    port = convert_again(arguments)
    to_stdout = arguments.output == "-"
    target = None if to_stdout else _target(arguments, port)

    files = {}
    if target is not None:
        files[target] = port.text
    if arguments.report is not None:
        files[arguments.report] = json.dumps(port.report, indent=2) + "\n"
    write_files(files)
    if to_stdout:
        write_stdout(port.text)
    _summarise(port, target)
    return 0


def convert_again(arguments: argparse.Namespace) -> "Port":
    """The port that these arguments of `porter convert` ask for; nothing is written."""
    from porter.convert import convert
    from porter.release import reading

    if arguments.config is not None:
        _check_config(arguments.config)
    with reading(arguments.transformers):
        return convert(
            arguments.source,
            arch=arguments.arch,
            profile=arguments.vllm,
            config=arguments.config,
        )


def _check_config(path: Path) -> None:
    existing_file(path, "config")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"config {path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"config {path} is not a JSON object")


def _check_report_name(report: Path | None) -> None:
    if report is None or report.suffix == ".json":
        return
    if report.suffix == ".html":
        raise UsageError("--report: HTML is not written yet, name a .json file")
    raise UsageError(f"--report: {report} must end in .json")


def _target(arguments: argparse.Namespace, port: "Port") -> Path:
    if arguments.output is None:
        target = Path(port.file_name)
        if target.is_file() and not _is_port(target):
            raise UsageError(
                f"{target} exists and isn't a port; name the output with -o"
            )
    else:
        target = Path(arguments.output)
    source = Path(arguments.source)
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target} is the source itself; name another output")
    return target


def _is_port(path: Path) -> bool:
    from porter.provenance import read_provenance

    return read_provenance(path) is not None


def _summarise(port: "Port", target: Path | None) -> None:
    """The change table: how often each transform changed the source, and why first."""
    stream = sys.stderr if target is None else sys.stdout
    changes = port.report["changes"]
    counts = Counter(change["transform"] for change in changes)
    reasons: dict[str, str] = {}
    for change in changes:
        reasons.setdefault(change["transform"], change["why"])
    print_table(
        ["transform", "changes", "for example"],
        [(name, count, reasons[name]) for name, count in counts.items()],
        right=["changes"],
        stream=stream,
    )
    where = "standard output" if target is None else str(target)
    lines = port.text.count("\n")
    say(f"{port.architecture} of {port.source}", stream)
    say(f"-> {where}: {lines} lines, {len(changes)} changes", stream)
