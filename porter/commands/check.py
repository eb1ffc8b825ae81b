"""Regenerate each committed port from the source that its header names.

Prints a unified diff and exits 1 where a port differs from what porter writes
now; --fix rewrites it instead. A folder stands for every port below it.
"""

import argparse
import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from porter.gap import Refused, UsageError
from porter.output import write_files
from porter.provenance import Provenance, read_provenance

if TYPE_CHECKING:
    from porter.convert import Port

BUILT = ("node_modules", "__pycache__")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--fix", action="store_true", help="rewrite ports that differ")


def run(arguments: argparse.Namespace) -> int:
    ports = [port for path in arguments.paths for port in _ports_at(path)]
    differing, refused = [], []
    for path, provenance in ports:
        try:
            text = regenerate(path, provenance)
        except Refused as refusal:
            refused.append(path)
            print(f"{path}: its source is refused now:", file=sys.stderr)
            print(*refusal.gaps, sep="\n", file=sys.stderr)
            continue
        written = path.read_text(encoding="utf-8")
        if text != written:
            differing.append(path)
            if arguments.fix:
                write_files({path: text})
                print(f"rewrote {path}")
            else:
                sys.stdout.writelines(_diff(path, written, text))
    _summarise(len(ports), len(differing), len(refused), arguments.fix)
    if refused:
        return 3
    return 1 if differing and not arguments.fix else 0


def regenerate(path: Path, provenance: Provenance) -> str:
    """The text that porter writes now for the port at `path`.

    Raises Refused, or UsageError where the header's source can't be found.
    """
    return reconvert(path, provenance).text


def reconvert(path: Path, provenance: Provenance) -> "Port":
    """The `Port` of the header's own `porter convert` line."""
    from porter.cli import Parser
    from porter.commands import convert

    parser = Parser(prog="porter convert", allow_abbrev=False)
    convert.add_arguments(parser)
    try:
        return convert.convert_again(parser.parse_args(provenance.arguments))
    except UsageError as error:
        raise UsageError(f"{path}: can't regenerate: {error}") from error


def _ports_at(path: Path) -> list[tuple[Path, Provenance]]:
    if path.is_dir():
        found = [
            (file, provenance)
            for file in sorted(path.rglob("*.py"))
            if not _skipped(file.relative_to(path))
            and (provenance := read_provenance(file)) is not None
        ]
        if not found:
            raise UsageError(f"no port below {path}")
        return found
    if not path.exists():
        raise UsageError(f"{path} doesn't exist")
    provenance = read_provenance(path)
    if provenance is None:
        raise UsageError(f"{path} is not a port: it has no header of porter's")
    return [(path, provenance)]


def _skipped(relative: Path) -> bool:
    return any(part.startswith(".") or part in BUILT for part in relative.parts)


def _diff(path: Path, written: str, text: str) -> list[str]:
    return list(
        difflib.unified_diff(
            written.splitlines(keepends=True),
            text.splitlines(keepends=True),
            fromfile=str(path),
            tofile=f"{path} (regenerated)",
        )
    )


def _summarise(total: int, differing: int, refused: int, fixed: bool) -> None:
    noun = "port" if total == 1 else "ports"
    if not differing and not refused:
        print(f"{total} {noun} checked, all as porter writes them", file=sys.stderr)
        return
    verb = "rewritten" if fixed else "differ"
    print(
        f"{total} {noun} checked: {differing} {verb}, {refused} refused",
        file=sys.stderr,
    )
