"""Tensors of no axes that hold a scalar: `torch.full([], x)`, `sqrt(torch.tensor(n))`."""

from typing import Any

from porter.analyze.graph import Node
from porter.analyze.symbols import arith, constant
from porter.analyze.values import MISSING, is_scalar

_FLOATS = (None, "float32", "float64")
_POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1}


def held(value: Any) -> Any:
    """The scalar that `value` is or holds, up to float32's rounding; MISSING if none.

    A tensor of another type than the wide floats holds a scalar only if it is one that
    the type keeps exactly: a small whole number.
    """
    if not isinstance(value, Node):
        return value if is_scalar(value) and value is not None else MISSING
    if value.axes:
        return MISSING
    if value.op in ("constant", "fill", "cast"):
        if value.attrs.get("init") == "empty":
            return MISSING
        inner = held(value.args[0])
        if value.dtype in _FLOATS or _fits(value.dtype, inner):
            return inner
        return MISSING
    parts = [held(arg) for arg in value.args]
    if value.dtype not in _FLOATS or any(p is MISSING for p in parts):
        return MISSING
    if value.op in _POWERS and len(parts) == 1:
        return arith("pow", parts[0], _POWERS[value.op])
    if value.op in ("mul", "truediv") and len(parts) == 2:
        return arith(value.op, *parts)
    return MISSING


def _fits(dtype: Any, scalar: Any) -> bool:
    number = constant(scalar) if scalar is not MISSING else None
    whole = number is not None and number == int(number) and 0 <= number < 128
    return whole and dtype != "bool" and isinstance(dtype, str)
