"""Elementwise operations, casts and products of tensors."""

from typing import Any

from porter.analyze import positions as pos
from porter.analyze.every_token import fills_nothing
from porter.analyze.expert_loops import hit
from porter.analyze.graph import Node
from porter.analyze.kinds import kind_of
from porter.analyze.own_products import with_own_bias
from porter.analyze.values import (
    Activation,
    Device,
    Dtype,
    DtypeOf,
    External,
    Opaque,
    is_scalar,
)

UNARY = {
    "cos", "sin", "tanh", "sigmoid", "exp", "log", "sqrt", "rsqrt", "abs", "neg", "relu",
    "silu", "erf", "square", "reciprocal", "softplus", "logsigmoid", "log1p", "expm1",
    "relu6", "mish", "elu", "hardtanh", "floor", "ceil", "round", "sign", "log2", "atan",
    "trunc", "frac", "exp2", "log10", "sinh", "cosh", "tan", "erfc", "sinc", "celu", "selu",
    "hardswish", "hardsigmoid", "softsign",
}  # fmt: skip
BINARY = {
    "add",
    "sub",
    "mul",
    "truediv",
    "pow",
    "floordiv",
    "mod",
    "maximum",
    "minimum",
}
_ALIASES = {
    "div": "truediv",
    "multiply": "mul",
    "subtract": "sub",
    "true_divide": "truediv",
    "divide": "truediv",
    "floor_divide": "floordiv",
    "remainder": "mod",
    "max": "maximum",
    "min": "minimum",
}
_DTYPES = {
    "float": "float32",
    "float32": "float32",
    "half": "float16",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float64": "float64",
    "double": "float64",
    "long": "int64",
    "int64": "int64",
    "int": "int32",
    "int32": "int32",
    "bool": "bool",
}


_PYTHON_TYPES = {
    "builtins.bool": "bool",
    "builtins.float": "float32",
    "builtins.int": "int64",
}


def dtype_of(name: str) -> Dtype | None:
    return Dtype(_DTYPES[name]) if name in _DTYPES else None


def _unary(interp, op: str, args: list, kwargs: dict) -> Node:
    extra = [v for v in [*args[1:], *kwargs.values()] if v is not False]
    inplace = kwargs.pop("inplace", False)
    if inplace is True or len(args) > 1 or kwargs:
        if not (op == "relu" and inplace):
            raise interp.gap(f"`{op}` with arguments {extra} isn't followed")
    return interp.elementwise(op, args[0])


def binary(interp, op: str, left, right) -> Any:
    left, right = interp.resolve(left), interp.resolve(right)
    if op == "matmul":
        from porter.analyze.torch_products import matmul

        return matmul(interp, left, right)
    for side in (left, right):
        if isinstance(side, Opaque):
            raise interp.gap(f"a tensor meets {side.what}")
        if not (isinstance(side, Node) or is_scalar(side)):
            raise interp.gap(f"a tensor meets {kind_of(side)}")
    if op in ("add", "sub") and _is_int(right) and right == 0:
        return left
    if op == "add" and _is_int(left) and left == 0:
        return right
    if op == "add" and (whole := with_own_bias(interp, left, right)) is not None:
        return whole
    shifted = pos.shift(interp, op, left, right)
    if shifted is not None:
        return shifted
    if pos.is_position_mask(left) or pos.is_position_mask(right):
        handled = pos.binary(interp, op, left, right)
        if handled is not NotImplemented:
            return handled
    if op in ("bitand", "bitor", "xor"):
        return interp.elementwise(op, left, right, dtype="bool")
    return interp.elementwise(op, left, right)


def invert(interp, x: Node) -> Node:
    return interp.elementwise("invert", x, dtype=x.dtype)


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def comparison(interp, op: str, left, right) -> Node:
    return interp.elementwise(op, left, right, dtype="bool")


def comparing(op: str):
    return lambda interp, left, right: comparison(interp, op, left, right)


def logical(op: str):
    """and, or, xor of truths: of what isn't boolean, whether it is 0."""
    return lambda interp, *args: interp.elementwise(
        op, *(_boolean(interp, a) for a in args), dtype="bool"
    )


def _boolean(interp, x):
    if isinstance(x, Node) and x.dtype == "bool":
        return x
    return comparison(interp, "ne", x, 0)


def bitwise(op: str):
    def fn(interp, *args):
        if any(isinstance(a, Node) and a.dtype != "bool" for a in args):
            raise interp.gap("bits of numbers aren't followed")
        return interp.elementwise(op, *args, dtype="bool")

    return fn


def activation(interp, act: Activation, x) -> Node:
    if not isinstance(x, Node):
        raise interp.gap("an activation of something that isn't a tensor")
    return interp.node(
        "act", (x,), x.axes, dtype=x.dtype, name=act.name, activation=act
    )


def activation_op(interp, name: str, x: Node, approximate=None) -> Node:
    if name == "gelu":
        return interp.node(
            "gelu", (x,), x.axes, dtype=x.dtype, approximate=approximate or "none"
        )
    return interp.elementwise(name, x)


def gelu(interp, x, approximate="none"):
    return activation_op(interp, "gelu", x, approximate)


def leaky_relu(interp, x, negative_slope=0.01, inplace=False):
    return interp.node("leaky_relu", (x, negative_slope), x.axes, dtype=x.dtype)


def clamp(interp, x, min=None, max=None):
    if isinstance(min, Node):
        x, min = binary(interp, "maximum", x, min), None
    if isinstance(max, Node):
        x, max = binary(interp, "minimum", x, max), None
    if min is None and max is None:
        return x
    return interp.node("clamp", (x, min, max), x.axes, dtype=x.dtype)


def where(interp, cond, a=None, b=None):
    if a is None and b is None:
        return interp.where_pairs(cond)
    return interp.elementwise("where", cond, a, b)


def nonzero(interp, x: Node, as_tuple=False):
    return interp.where_pairs(x) if as_tuple is True else hit(interp, x)


def masked_fill(interp, x, mask, value):
    if fills_nothing(x, mask):
        return x
    return interp.elementwise("masked_fill", x, mask, value, dtype=x.dtype)


def pow_(interp, x, exponent):
    return binary(interp, "pow", x, exponent)


def square(interp, x):
    return binary(interp, "pow", x, 2)


def rsub(interp, x, other):
    return binary(interp, "sub", other, x)


def addcmul(interp, x, a, b, value=1):
    return binary(
        interp, "add", x, binary(interp, "mul", binary(interp, "mul", a, b), value)
    )


def to(interp, x: Node, *args, **kwargs):
    kwargs.pop("non_blocking", None)
    kwargs.pop("copy", None)
    wanted = [a for a in args if not isinstance(a, (Device, str, bool, Opaque))]
    kwargs.pop("device", None)
    if "dtype" in kwargs:
        wanted.append(kwargs.pop("dtype"))
    for item in list(wanted):
        if isinstance(item, Node):
            wanted = [DtypeOf(item)]
        elif item is None:
            wanted.remove(item)
    if not wanted:
        return x
    return cast(interp, x, wanted[0])


def cast(interp, x: Node, dtype) -> Node:
    tag, like = dtype_tag(interp, dtype)
    if tag == x.dtype:
        return x
    return interp.node("cast", (x,), x.axes, dtype=tag, like=like)


def dtype_tag(interp, dtype):
    """(tag, node to take the dtype from) for a cast's target."""
    if isinstance(dtype, DtypeOf):
        return dtype.node.dtype, dtype.node
    if isinstance(dtype, Dtype):
        return (None if dtype.name == "activations" else dtype.name), None
    if isinstance(dtype, External) and dtype.name in _PYTHON_TYPES:
        return _PYTHON_TYPES[dtype.name], None
    raise interp.gap("a cast to a dtype that can't be read")


def _cast_method(tag: str):
    return lambda interp, x: cast(interp, x, Dtype(tag))


def type_as(interp, x, other):
    return cast(interp, x, DtypeOf(other))


def same_value(interp, x, *args, **kwargs):
    return x


def dropout(interp, x, p=0.5, training=True, inplace=False):
    if training is not False:
        raise interp.gap("dropout that is on outside training")
    return x
