"""Run a generated model file on the bundled surface."""

import itertools
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from porter.gap import CannotRun, UsageError
from porter.runtime.releases import release_of
from porter.runtime.surface import port_builtins

_numbers = itertools.count()


def load_port(path: str | Path) -> ModuleType:
    """Execute a port file; its `vllm.*` imports are the bundled runtime's.

    The module is in no registry, so a file can be loaded any number of times.
    Raises UsageError when the file is missing, isn't Python or fails when it runs,
    and CannotRun when it needs what the bundled runtime lacks.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't read the port: {error}") from error
    try:
        code = compile(text, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{path}: the port is no Python: {error}") from error
    module = ModuleType(f"porter_port_{next(_numbers)}_{path.stem}")
    module.__file__ = str(path)
    try:
        release = release_of(text)
    except CannotRun as error:
        raise CannotRun(f"{path}: {error}") from error
    vars(module)["__builtins__"] = port_builtins(release)
    try:
        exec(code, vars(module))
    except CannotRun as error:
        raise CannotRun(f"{path}: {error}") from error
    except Exception as error:
        line = line_in_file(error, str(path))
        kind = type(error).__name__
        raise UsageError(f"{path}:{line}: the port fails: {kind}: {error}") from error
    return module


def line_in_file(error: BaseException, path: str) -> int:
    """The innermost line of that file in the error's trace, 0 where it has none."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno or 0 for frame in frames if frame.filename == path]
    return lines[-1] if lines else 0


def find_architecture(module: ModuleType, names: list[str] | None) -> type[nn.Module]:
    """The model class of a port: one of names, or else its only causal LM.

    Raises UsageError when there is none, or several to choose from.
    """
    models: dict[str, Any] = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__ == module.__name__
        and hasattr(value, "compute_logits")
    }
    for name in names or []:
        if name in models:
            return models[name]
    if len(models) == 1:
        return next(iter(models.values()))
    found = ", ".join(models) or "none"
    wanted = f" and not {', '.join(names)}" if names else ""
    raise UsageError(f"{module.__file__}: the port's model classes: {found}{wanted}")
