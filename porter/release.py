"""Which release of transformers a source belongs to.

That is the installed one, unless a file stands in another release's package, or the
user names a folder that holds one (`--transformers DIR`, or PORTER_TRANSFORMERS=DIR):
`pip install --no-deps --target DIR transformers==4.46.3` makes such a folder. Its files
are read; only `verify` runs it, in a process of its own.
"""

import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from porter.gap import UsageError

VARIABLE = "PORTER_TRANSFORMERS"


@contextmanager
def reading(folder: Path | None) -> Iterator[None]:
    """Read the transformers in `folder`, if one is named, here and in child processes."""
    before = os.environ.get(VARIABLE)
    if folder is not None:
        os.environ[VARIABLE] = str(_package_in(folder).parent)
    try:
        yield
    finally:
        if folder is not None and before is None:
            del os.environ[VARIABLE]
        elif before is not None:
            os.environ[VARIABLE] = before


def transformers_root() -> Path:
    """The package folder of the chosen transformers, which is not imported.

    Raises UsageError where there is none.
    """
    chosen = os.environ.get(VARIABLE)
    return _package_in(Path(chosen)) if chosen else installed_root()


def installed_root() -> Path:
    """The package folder of the installed transformers."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.origin:
        raise UsageError("transformers is not installed: name a file instead")
    return Path(spec.origin).parent


def _package_in(folder: Path) -> Path:
    for package in (folder / "transformers", folder, folder / "src/transformers"):
        if (package / "models").is_dir() and (package / "__init__.py").is_file():
            return package.resolve()
    raise UsageError(f"{folder}: no transformers package in this folder")


def package_of(path: Path) -> Path | None:
    """The transformers package that a file stands in, if any."""
    for parent in path.resolve().parents:
        if parent.name == "transformers" and (parent / "__init__.py").is_file():
            return parent if (parent / "models").is_dir() else None
    return None


def library_of(path: Path) -> Path:
    """The transformers that a file means by `transformers`."""
    return package_of(path) or transformers_root()


def version_of(root: Path) -> str:
    """The version of a transformers package, from its files."""
    for info in root.parent.glob("transformers-*.dist-info"):
        return info.name.removeprefix("transformers-").removesuffix(".dist-info")
    text = (root / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else metadata.version("transformers")


@functools.cache
def release_of(root: Path) -> tuple[int, int]:
    """The first two numbers of a transformers package's version."""
    major, minor = re.findall(r"\d+", version_of(root))[:2]
    return int(major), int(minor)


def transformers_version() -> str:
    """The version of the chosen transformers."""
    return version_of(transformers_root())
