"""What `porter explain` knows: transforms by docstring, lines of a port by origin."""

import difflib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from porter.gap import UsageError
from porter.pipeline import TRANSFORMS

if TYPE_CHECKING:
    from porter.convert import Port


def transform_docs() -> dict[str, str]:
    """name -> specification of each transform, in the order in which they run."""
    return {t.name(): inspect.cleandoc(t.__doc__ or "") for t in TRANSFORMS}


def docs_of(name: str) -> str:
    """The transform's specification. Raises UsageError for an unknown name."""
    docs = transform_docs()
    if name in docs:
        return docs[name]
    close = difflib.get_close_matches(name, docs, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    raise UsageError(
        f"no transform is called {name}.{meant} 'porter explain' lists them all"
    )


def generated_line(written: list[str], fresh: list[str], line: int) -> int | None:
    """The line of the fresh port that line `line` of the written file is, from 1.

    None where an edit by hand made it, so that no source line stands behind it.
    """
    matcher = difflib.SequenceMatcher(None, written, fresh, autojunk=False)
    for block in matcher.get_matching_blocks():
        if block.a < line <= block.a + block.size:
            return line - block.a + block.b
    return None


def origin_of(port: "Port", line: int) -> list[str]:
    """What to say of a line of a port: its places in the source, and what changed there.

    A place is `file:line: text`; under it stand the changes that were made at it.
    """
    said = []
    for file, number in dict.fromkeys(port.origins.get(line, [])):
        source = Path(file).read_text(encoding="utf-8").splitlines()
        text = source[number - 1].strip() if number <= len(source) else ""
        said.append(f"{_short(file)}:{number}: {text}")
        said += [
            f"    {change.transform}: {change.why}"
            for change in dict.fromkeys(port.changes)
            if (change.span.file, change.span.line) == (file, number)
        ]
    return said


def _short(file: str) -> str:
    """The path from the current folder where it is below it, else from its package."""
    path = Path(file)
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    parts = path.parts
    if "transformers" in parts:
        return "/".join(parts[parts.index("transformers") :])
    return file
