"""Complex tensors, as pairs of real ones: what rotations are written with at times.

torch.polar(r, angle) is (r cos angle, r sin angle), view_as_complex takes the two items of
the last axis, view_as_real puts them back. A port computes with the real parts.
"""

from typing import Any

from porter.analyze import torch_elementwise as el
from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import constant
from porter.analyze.values import DEVICE, ExternalMethod, is_scalar


class Complex(tuple):
    """(real, imaginary), two nodes of the same axes."""

    @property
    def real(self) -> Node:
        return self[0]

    @property
    def imag(self) -> Node:
        return self[1]


_VIEWS = {
    "unsqueeze", "squeeze", "transpose", "view", "reshape", "expand", "flatten",
    "unflatten", "permute", "contiguous", "repeat", "repeat_interleave",
}  # fmt: skip


def call(interp, short: str, args: list, kwargs: dict) -> Any:
    """A function of torch that makes or takes complex tensors, else NotImplemented."""
    if short in ("polar", "complex") and len(args) == 2 and not kwargs:
        first, second = args
        if short == "complex":
            return Complex((first, second))
        cos, sin = (interp.elementwise(f, second) for f in ("cos", "sin"))
        if _is_one(first) and len(first.axes) == len(second.axes):
            return Complex((cos, sin))
        return Complex(el.binary(interp, "mul", first, part) for part in (cos, sin))
    if short == "view_as_complex" and isinstance(args[0], Node):
        from porter.analyze.torch_parts import select

        x = args[0]
        if not x.axes or constant(axis_size(x.axes[-1])) != 2:
            raise interp.gap("`view_as_complex` of an axis that isn't of two items")
        return Complex(select(interp, x, -1, i) for i in (0, 1))
    if args and isinstance(args[0], Complex):
        return method(interp, args[0], short, args[1:], kwargs)
    return NotImplemented


def _is_one(x: Any) -> bool:
    """A tensor of ones, which leaves what it is multiplied with as it is."""
    filled = isinstance(x, Node) and x.op in ("fill", "fill_like")
    return filled and constant(x.args[-1]) == 1


def method(interp, x: Complex, name: str, args: list, kwargs: dict) -> Any:
    if name == "view_as_real":
        from porter.analyze.torch_parts import stack

        return stack(interp, list(x), -1)
    if name == "conj":
        return Complex((x.real, interp.elementwise("neg", x.imag)))
    if name in ("to", "cuda", "cpu", "type"):
        wanted = [a for a in [*args, *kwargs.values()] if a is not DEVICE]
        if wanted:
            raise interp.gap("a complex tensor is cast to another dtype")
        return x
    if name in _VIEWS:
        return Complex(
            interp.call(ExternalMethod(part, name), args, kwargs) for part in x
        )
    raise interp.gap(f"`{name}` of a complex tensor isn't followed")


def attribute(interp, x: Complex, name: str) -> Any:
    if name in ("real", "imag"):
        return x[name == "imag"]
    if name in ("shape", "ndim", "device"):
        return interp.attribute(x.real, name)
    return ExternalMethod(x, name)


def binary(interp, op: str, left, right) -> Any:
    """Sums, differences and products, with complex, real and plain numbers."""
    if op == "mul" and isinstance(left, Complex) and isinstance(right, Complex):

        def product(a, b):
            return el.binary(interp, "mul", a, b)

        real = el.binary(
            interp, "sub", product(left[0], right[0]), product(left[1], right[1])
        )
        imag = el.binary(
            interp, "add", product(left[0], right[1]), product(left[1], right[0])
        )
        return Complex((real, imag))
    if (
        op in ("add", "sub")
        and isinstance(left, Complex)
        and isinstance(right, Complex)
    ):
        parts = zip(left, right, strict=True)
        return Complex(el.binary(interp, op, a, b) for a, b in parts)
    number, other = (left, right) if isinstance(left, Complex) else (right, left)
    plain = isinstance(other, Node) or is_scalar(other)
    if plain and (op == "mul" or (op == "truediv" and number is left)):
        return Complex(el.binary(interp, op, part, other) for part in number)
    raise interp.gap(f"`{op}` with a complex tensor isn't followed")
