"""The HuggingFace class that a port was made from, found from the port's own header."""

import ast
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porter.gap import CannotRun, UsageError
from porter.provenance import Provenance, read_provenance
from porter.release import (
    VARIABLE,
    installed_root,
    package_of,
    transformers_root,
    version_of,
)
from porter.verify.reference import (
    class_of_module,
    class_of_text,
    foreign_class,
    require_trust,
)

_VERSION = re.compile(r"^transformers (\S+) models/")
_INSTALLED = re.compile(r"(?:^|[/ ])(models/[\w/]+)\.py$")


def architecture_of(port: Path) -> str:
    """Name of the class in `port` that computes logits.

    The port is parsed, not run. Raises UsageError where it can't be read, has a syntax
    error, or has no such class.
    """
    try:
        tree = ast.parse(port.read_text(encoding="utf-8"), filename=str(port))
    except OSError as error:
        raise UsageError(f"can't read {port}: {error.strerror}") from error
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UsageError(f"{port} is not Python: {error}") from error
    names = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and "compute_logits" in _methods(node)
    ]
    if len(names) != 1:
        found = ", ".join(names) if names else "none"
        raise UsageError(
            f"{port}: one class with compute_logits was expected, found {found}"
        )
    return names[0]


def _methods(node: ast.ClassDef) -> set[str]:
    return {item.name for item in node.body if isinstance(item, ast.FunctionDef)}


@dataclass(frozen=True)
class Source:
    """The class that a port has to equal. code: its folder, for foreign code only.

    release: the folder of another transformers than the installed one that has it, where
    it is `architecture` of `module`; model_class is then None.
    """

    model_class: Any
    code: Path | None = None
    release: Path | None = None
    module: str = ""
    architecture: str = ""


def find_source(
    port: Path,
    model_dir: Path | None,
    *,
    trust_remote_code: bool = False,
    source_text: str | None = None,
) -> Source:
    """The causal LM class that `port` was made from.

    source_text: run this in place of the source, in memory. A source outside the
    installed transformers is run only with `trust_remote_code`.
    Raises UsageError where the port doesn't say, or the flag is missing.
    """
    architecture = architecture_of(port)
    provenance = read_provenance(port)
    if provenance is None:
        raise UsageError(f"{port} has no header of porter's: what was it made from?")
    module = installed_module(provenance.source)
    if module is not None:
        release = _release_of(provenance)
        if release is not None:
            return Source(None, None, release, module, architecture)
        if source_text is not None:
            return Source(class_of_text(source_text, module, architecture))
        return Source(class_of_module(module, architecture))
    folder = model_dir or _folder_of(provenance.arguments, port)
    if folder is None:
        raise CannotRun(
            f"{port} was made from {provenance.source}, which is neither in the "
            "installed transformers nor in a model folder: give the folder with --model"
        )
    chosen = transformers_root()
    if chosen != installed_root():  # named by --transformers: it runs there
        require_trust(folder, trust_remote_code)
        return Source(None, folder, chosen.parent, "", architecture)
    return Source(foreign_class(folder, trust_remote_code), folder)


def _release_of(provenance: Provenance) -> Path | None:
    """The folder of the transformers that a port is of, None for the installed one.

    Raises CannotRun where it is neither installed nor named.
    """
    found = _VERSION.search(provenance.source)
    if found is None or found[1] == version_of(installed_root()):
        return None
    candidates = [os.environ.get(VARIABLE), *provenance.arguments]
    for candidate in filter(None, candidates):
        root = package_of(Path(candidate) / "transformers/__init__.py")
        root = root or package_of(Path(candidate))
        if root is not None and version_of(root) == found[1]:
            return root.parent
    raise CannotRun(
        f"the port is of transformers {found[1]}, which isn't the installed one "
        f"({version_of(installed_root())}): name a folder with it by --transformers "
        f"(pip install --no-deps --target DIR transformers=={found[1]})"
    )


def source_class(
    port: Path, model_dir: Path | None, *, trust_remote_code: bool = False
) -> type:
    """The class alone of `find_source`."""
    source = find_source(port, model_dir, trust_remote_code=trust_remote_code)
    return source.model_class


def installed_module(source: str) -> str | None:
    """Module name of a source in the installed transformers, None of any other.

    source: as in the header: `transformers <version> models/<folder>/<file>.py`, or
    a path of a file under the installed package.
    """
    match = _INSTALLED.search(source)
    if match is None or "transformers" not in source:
        return None
    return "transformers." + match[1].replace("/", ".")


def _folder_of(arguments: list[str], port: Path) -> Path | None:
    """The model folder among the arguments that wrote the port, if it is still here."""
    if not arguments:
        return None
    for base in (Path(), port.parent):
        source = base / arguments[0]
        folder = source.parent if source.suffix == ".py" else source
        if (folder / "config.json").is_file():
            return folder
    return None
