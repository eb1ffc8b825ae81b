"""Whether tracing a module's forward once says what it does every time.

torch.fx runs a forward with stand-ins for tensors. What asks a stand-in what it is, writes
somewhere, or catches what the stand-in can't do would be traced as something else.
"""

import dis
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

_WRITES = {
    "STORE_ATTR", "STORE_GLOBAL", "STORE_SUBSCR", "STORE_SLICE", "DELETE_ATTR",
    "DELETE_GLOBAL", "DELETE_SUBSCR", "IMPORT_NAME", "YIELD_VALUE",
}  # fmt: skip
# A stand-in refuses to be counted or compared, which ends the tracing.
_BUILTINS = {"abs", "float", "int", "len", "max", "min", "range", "sum", "tuple", "zip"}
_PLAIN = (ModuleType, bool, int, float, str, tuple, torch.dtype)


def is_straight(module: nn.Module, known: tuple[Callable[..., Any], ...] = ()) -> bool:
    """Whether the module's forward, with the functions of its own file that it calls,
    only computes: no types asked for, nothing caught, nothing written in place.

    known: functions of other files that the tracing doesn't look into. Python 3.11 and
    later: bytecode is read.
    """
    forward = type(module).forward
    return isinstance(forward, FunctionType) and _Reader(module, known).allows(forward)


class _Reader:
    def __init__(
        self, module: nn.Module, known: tuple[Callable[..., Any], ...]
    ) -> None:
        self.module, self.known = module, known
        self.read: set[CodeType] = set()

    def allows(self, function: FunctionType) -> bool:
        return self._allows_code(function.__code__, function.__globals__)

    def _allows_code(self, code: CodeType, around: dict[str, Any]) -> bool:
        if code in self.read:
            return True
        self.read.add(code)
        if code.co_exceptiontable:
            return False
        inner = [c for c in code.co_consts if isinstance(c, CodeType)]
        return all(self._allows(i, around) for i in dis.get_instructions(code)) and all(
            self._allows_code(c, around) for c in inner
        )

    def _allows(self, instruction: dis.Instruction, around: dict[str, Any]) -> bool:
        name = instruction.opname
        if name in ("LOAD_GLOBAL", "LOAD_NAME"):
            return self._allows_global(instruction.argval, around)
        if name in ("LOAD_ATTR", "LOAD_METHOD"):
            return self._allows_attribute(instruction.argval, around)
        if name == "BINARY_OP":
            return not instruction.argrepr.endswith("=")
        return name not in _WRITES

    def _allows_global(self, name: str, around: dict[str, Any]) -> bool:
        if name not in around:
            return name in _BUILTINS
        value = around[name]
        if any(getattr(value, "__wrapped__", value) is f for f in self.known):
            return True  # wrapped while a trace is made
        if isinstance(value, FunctionType) and value.__globals__ is around:
            return self.allows(value)
        return value is None or isinstance(value, _PLAIN)

    def _allows_attribute(self, name: str, around: dict[str, Any]) -> bool:
        """Of self, for all that can be told: methods of the file are read, too."""
        if name == "is_tensor":
            return False
        method = getattr(type(self.module), name, None)
        if isinstance(method, FunctionType) and method.__globals__ is around:
            return self.allows(method)
        return not callable(vars(self.module).get(name))
