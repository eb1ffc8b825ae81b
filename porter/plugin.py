"""An installable package that registers ports in vLLM.

vLLM calls the functions of the entry point group `vllm.general_plugins` in each of its
processes. The one written here registers every port by a string, so that nothing is
imported before the engine asks for that model; calling it again changes nothing. The
package holds the ports byte for byte and needs no porter.
"""

import ast
import re
from pathlib import Path

from porter.gap import UsageError
from porter.profiles import DEFAULT
from porter.provenance import read_provenance

_PROJECT = """\
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "{distribution}"
version = "0.1.0"
description = "Models for vLLM {release}: {models}"
requires-python = ">=3.10"

[project.entry-points."vllm.general_plugins"]
{package} = "{package}:register"

[tool.setuptools]
packages = ["{package}"]
"""

_PACKAGE = '''\
"""Models for vLLM {release}, which calls `register` in each of its processes."""

MODELS = {{
{rows}
}}


def register() -> None:
    """Make the models known; they are imported when one is asked for."""
    from vllm import ModelRegistry

    for architecture, place in MODELS.items():
        ModelRegistry.register_model(architecture, place)
'''


def plugin_files(ports: list[Path], folder: Path) -> dict[Path, str]:
    """Path -> text of every file of the package; nothing is written.

    The package is called as the folder. Raises UsageError where that is no name for one,
    a file is no port, two ports would stand in each other's place, or they are for
    different releases of vLLM.
    """
    package = re.sub(r"[-.]", "_", folder.resolve().name).lower()
    if not package.isidentifier():
        raise UsageError(f"-o {folder}: a package can't be called {package}")
    models: dict[str, str] = {}
    files: dict[Path, str] = {}
    releases = {}
    for port in ports:
        text, architecture = _read(port)
        path = folder / package / port.name
        if path in files or architecture in models:
            raise UsageError(f"{port}: another port has its name or {architecture}")
        if not port.stem.isidentifier() or port.stem == "__init__":
            raise UsageError(f"{port}: not a name for a module")
        files[path] = text
        models[architecture] = f"{package}.{port.stem}:{architecture}"
        releases[_release(port)] = port
    if len(releases) > 1:
        said = ", ".join(f"{p} for {r}" for r, p in sorted(releases.items()))
        raise UsageError(f"ports for different releases of vLLM: {said}")
    (release,) = releases
    rows = "\n".join(f'    "{name}": "{place}",' for name, place in models.items())
    files[folder / package / "__init__.py"] = _PACKAGE.format(
        release=release, rows=rows
    )
    files[folder / "pyproject.toml"] = _PROJECT.format(
        distribution=package.replace("_", "-"),
        package=package,
        release=release,
        models=", ".join(models),
    )
    return files


def _read(port: Path) -> tuple[str, str]:
    """A port's text, and the class in it that computes logits."""
    try:
        text = port.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except OSError as error:
        raise UsageError(f"can't read {port}: {error.strerror}") from error
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UsageError(f"{port} is not Python: {error}") from error
    found = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(getattr(item, "name", None) == "compute_logits" for item in node.body)
    ]
    if len(found) != 1:
        raise UsageError(
            f"{port} is not a port: {len(found)} classes with compute_logits in it"
        )
    return text, found[0]


def _release(port: Path) -> str:
    """The vLLM that a port's header says it is written for."""
    provenance = read_provenance(port)
    arguments = provenance.arguments if provenance else []
    if "--vllm" in arguments:
        return arguments[arguments.index("--vllm") + 1]
    return DEFAULT
