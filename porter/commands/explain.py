"""Tell what a transform does, or where a line of a port came from and why.

Without an argument the transforms are listed. A port's line is explained by
converting its source again; nothing is written.
"""

import argparse
import re
from pathlib import Path

from porter.commands.check import reconvert
from porter.commands.options import existing_file
from porter.console import print_table, say
from porter.explanation import docs_of, generated_line, origin_of, transform_docs
from porter.gap import UsageError
from porter.provenance import read_provenance

PORT_LINE = re.compile(r"^(?P<path>.+\.py):(?P<line>\d+)$")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", metavar="TRANSFORM | PORT.py:LINE")


def run(arguments: argparse.Namespace) -> int:
    if arguments.what is None:
        rows = [
            (name, docs.partition("\n")[0]) for name, docs in transform_docs().items()
        ]
        print_table(["transform", "what it does"], rows)
    elif match := PORT_LINE.match(arguments.what):
        _explain_line(Path(match["path"]), int(match["line"]))
    elif arguments.what.endswith(".py"):
        raise UsageError(f"which line? Write {arguments.what}:LINE")
    else:
        say(docs_of(arguments.what))
    return 0


def _explain_line(path: Path, line: int) -> None:
    existing_file(path, "port")
    provenance = read_provenance(path)
    if provenance is None:
        raise UsageError(f"{path} is not a port: it has no header of porter's")
    written = path.read_text(encoding="utf-8").splitlines()
    if not 1 <= line <= len(written):
        raise UsageError(f"{path} has lines 1 to {len(written)}, not {line}")
    port = reconvert(path, provenance)
    say(f"{path}:{line}: {written[line - 1].strip()}")
    fresh = generated_line(written, port.text.splitlines(), line)
    if fresh is None:
        say("  Not porter's: edited by hand, or written by another version.")
        return
    for said in origin_of(port, fresh) or ["of the file's frame: no source line"]:
        say(f"  {said}")
