"""`--config`: decide conditions by the values of one config.

Only conditions are folded, so that a port keeps its sizes as `config.x`; what was decided
is noted, and the port refuses a config that decides otherwise.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porter.analyze.old_configs import standardized, written_before
from porter.analyze.symbols import Sym, key, unwrap
from porter.config_class import ConfigClass
from porter.gap import UsageError


class Unknown(Exception):
    """The condition reads something else than the config's fields."""


# None until the library's config class fills them in
_FILLED_IN = ("rope_parameters", "rope_scaling")


def _defaults(fields: ConfigClass) -> dict[str, Any]:
    """What the class gives its fields; None where that is a default of its own."""
    return {
        name: value
        for name, value in fields.fields.items()
        if value is not None or (name in fields.optional and name not in _FILLED_IN)
    }


@dataclass(frozen=True)
class Decided:
    """A condition, its value, and the fields that it was read from."""

    cond: Any
    value: bool
    fields: dict[str, Any]


class Folding:
    """values: the fields of one config.json, over the class's defaults."""

    def __init__(self, given: dict[str, Any], fields: ConfigClass):
        self.values = _defaults(fields)
        self.values |= {fields.canonical(name): v for name, v in given.items()}
        if self.values.get("rope_parameters") is None and written_before(fields):
            self.values["rope_parameters"] = standardized(self.values)
        self.used: dict[str, Any] = {}
        self.decided: dict[Any, Decided] = {}

    @classmethod
    def of_defaults(cls, fields: ConfigClass) -> "Folding":
        """By the values that the config class itself gives its fields."""
        return cls({}, fields)

    def decide(self, cond) -> bool | None:
        """The condition's value, None where the config doesn't settle it."""
        read: dict[str, Any] = {}
        try:
            value = bool(self._value(cond, read))
        except (
            Unknown,
            TypeError,
            ValueError,
            KeyError,
            IndexError,
            ZeroDivisionError,
        ):
            return None
        if read:
            self.used |= read
            self.decided.setdefault(key(cond), Decided(unwrap(cond), value, read))
        return value

    def _value(self, x, read: dict) -> Any:
        x = unwrap(x)
        if not isinstance(x, Sym):
            return x
        op, args = x.op, x.args
        if op in ("field", "or_default", "hasattr"):
            return self._field(x, read)
        if op == "ifexp":
            side = args[1] if self._value(args[0], read) else args[2]
            return self._value(side, read)
        if op in ("and", "or"):
            parts = [bool(self._value(a, read)) for a in args]
            return all(parts) if op == "and" else any(parts)
        if op == "get":
            return self._value(args[0], read).get(
                *(self._value(a, read) for a in args[1:])
            )
        if op not in _OPERATIONS:
            raise Unknown(op)
        return _OPERATIONS[op](*(self._value(a, read) for a in args))

    def _field(self, x: Sym, read: dict) -> Any:
        path, name = x.args[0], x.args[1]
        if len(path) != 1:
            raise Unknown(name)
        if x.op == "hasattr":
            return name in self.values
        if name not in self.values:
            if x.op == "or_default":
                return self._value(x.args[2], read)
            raise Unknown(name)
        read[name] = self.values[name]
        return self.values[name]


Fold = Callable[[ConfigClass], Folding]


def read_folding(path: Path) -> Fold:
    """Folding by a config.json. Raises UsageError where that isn't one."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(given, dict):
        raise UsageError(f"{path}: not a config: a JSON object is expected")
    return lambda fields: Folding(given, fields)


class Defaults:
    """Folding by the config class's defaults; `made` is the one that was used."""

    made: Folding | None = None

    def __call__(self, fields: ConfigClass) -> Folding:
        self.made = Folding.of_defaults(fields)
        return self.made


_OPERATIONS: dict[str, Any] = {
    "not": lambda a: not a,
    "truthy": bool,
    "is_none": lambda a: a is None,
    "isinstance": lambda a, b: type(a).__name__ == b,
    "eq": lambda a, b: a == b,
    "lt": lambda a, b: a < b,
    "in": lambda a, b: a in b,
    "item": lambda a, b: a[b],
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "truediv": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "call": lambda name, *args: _call(name, args),
}


def _call(name: str, args: tuple) -> Any:
    module, _, function = name.rpartition(".")
    if module == "math":
        return getattr(math, function)(*args)
    known: dict[str, Any] = {"min": min, "max": max, "int": int, "len": len}
    if name not in known:
        raise Unknown(name)
    return known[name](*args)
