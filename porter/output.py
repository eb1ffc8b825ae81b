"""Files are written whole or not at all."""

import contextlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from porter.gap import UsageError


def write_files(texts: Mapping[Path, str]) -> None:
    """Write each text to its path; when one can't be written, none is changed.

    Every text goes to a temporary file beside its target first, and the renames come
    last. Raises UsageError naming the path that can't be written.
    """
    with contextlib.ExitStack() as undo:
        staged = [
            (undo.enter_context(_staged(path, text)), path)
            for path, text in texts.items()
        ]
        for temporary, path in staged:
            with _explained(path):
                if temporary is None:
                    path.write_text(texts[path], encoding="utf-8")
                else:
                    os.replace(temporary, path.resolve())


def write_stdout(text: str) -> None:
    """Write the text in UTF-8, whatever the locale says, so that a pipe gets a file."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8"))
    sys.stdout.buffer.flush()


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, to standard output where the path is `-`."""
    text = json.dumps(value, indent=2) + "\n"
    if str(path) == "-":
        write_stdout(text)
    else:
        write_files({path: text})


@contextlib.contextmanager
def _staged(path: Path, text: str) -> Iterator[Path | None]:
    """A temporary file that holds the text, None where the target is no plain file."""
    if path.is_dir():
        raise UsageError(f"can't write {path}: it is a folder")
    if path.exists() and not path.is_file():
        yield None  # /dev/null or a pipe: a rename would put a file in its place
        return
    temporary = None
    try:
        with _explained(path):
            target = path.resolve()
            if target.exists() and not os.access(target, os.W_OK):
                raise PermissionError(13, "Permission denied", str(path))
            handle, name = tempfile.mkstemp(
                dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"
            )
            temporary = Path(name)
            with open(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            temporary.chmod(_mode(target))
        yield temporary
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror or error}") from error


def _mode(target: Path) -> int:
    """The permissions that a plain `open` would have left: the old ones, or umask's."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
