"""The interpreter is one class in several files; each file's part knows of the others."""

from typing import TYPE_CHECKING, Any


class Part:
    """A part of the interpreter's class."""

    if TYPE_CHECKING:
        loop: Any
        frame: Any

        def __getattr__(self, name: str) -> Any:
            """What the other parts define, for the type checker."""
