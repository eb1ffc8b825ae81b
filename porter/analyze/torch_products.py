"""Products of tensors: matrices, sums with a product, Einstein's notation."""

from typing import Any

from porter.analyze import axes as ax
from porter.analyze.graph import Node, axis_size, has_role
from porter.analyze.own_products import product_of_layer
from porter.analyze.remember import remembered
from porter.analyze.symbols import constant
from porter.analyze.token_axes import _mixes
from porter.analyze.torch_elementwise import binary
from porter.analyze.torch_shapes import permute, unsqueeze


def matmul(interp, a: Node, b: Node) -> Node:
    from porter.analyze.interpreter import promote

    if not (isinstance(a, Node) and isinstance(b, Node)):
        raise interp.gap("`matmul` of something that isn't a tensor")
    layer = product_of_layer(interp, a, b)
    if layer is not None:
        return layer
    if len(a.axes) < 2 or len(b.axes) < 2:
        raise interp.gap("`matmul` with a vector isn't followed")
    if interp.cacheless:
        b = _keys(interp, a, b)
    left, right = a.axes[-1], b.axes[-2]
    if not interp.must_equal(axis_size(left), axis_size(right)):
        raise interp.gap(f"`matmul` of {axis_size(left)} with {axis_size(right)}")
    if not left and not right:  # an outer product: frequencies times positions
        return binary(interp, "mul", a, b)
    if ax.roles(left) != ax.roles(right):
        raise interp.gap("`matmul` joins a token axis with another")
    if has_role(left, "batch", "seq"):
        raise _mixes(interp, "`matmul`")
    try:
        lead = ax.broadcast([a.axes[:-2], b.axes[:-2]], interp.must_equal)
    except ax.AxisError as error:
        raise interp.gap(f"`matmul`: {error}") from error
    axes = (*lead, a.axes[-2], b.axes[-1])
    return interp.node("matmul", (a, b), axes, dtype=promote([a, b]))


def _keys(interp, a: Node, b: Node) -> Node:
    """Where a model keeps no cache, its keys and values are those of all tokens: what a
    product pairs the tokens with, or sums over them."""
    pairs = has_role(a.axes[-2], "seq") and has_role(b.axes[-1], "seq")
    sums = has_role(a.axes[-1], "hist") and has_role(b.axes[-2], "seq")
    return remembered(interp, b) if pairs or sums else b


def baddbmm(interp, x, batch1=None, batch2=None, *, beta: Any = 1, alpha: Any = 1):
    """beta * x + alpha * (batch1 @ batch2); beta 0 leaves x out, whatever it holds."""
    product = matmul(interp, batch1, batch2)
    if constant(alpha) != 1:
        product = binary(interp, "mul", product, alpha)
    if constant(beta) == 0 or _is_zero(x):
        return product
    if constant(beta) != 1:
        x = binary(interp, "mul", x, beta)
    return binary(interp, "add", x, product)


def addmm(interp, x, mat1=None, mat2=None, *, beta: Any = 1, alpha: Any = 1):
    return baddbmm(interp, x, mat1, mat2, beta=beta, alpha=alpha)


def _is_zero(x) -> bool:
    return isinstance(x, Node) and x.op == "fill" and constant(x.args[0]) == 0


def einsum(interp, equation, *operands):
    """Two operands with at most one summed index, as a product of matrices."""
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or "..." in equation:
        raise interp.gap("this `einsum` isn't followed")
    inputs, _, output = equation.replace(" ", "").partition("->")
    left, _, right = inputs.partition(",")
    a, b = operands
    if (
        any(len(set(t)) != len(t) for t in (left, right, output))
        or len(left) != len(a.axes)
        or len(right) != len(b.axes)
        or not set(output) <= set(left) | set(right)
        or "->" not in equation
    ):
        raise interp.gap("this `einsum` isn't followed")
    both = [c for c in left if c in right and c in output]
    summed = [c for c in left if c in right and c not in output]
    mine = [c for c in left if c not in right]
    theirs = [c for c in right if c not in left]
    if not set(mine + theirs) <= set(output) or len(summed) > 1:
        raise interp.gap("an `einsum` that sums over several indices isn't followed")
    if summed and (len(mine) > 1 or len(theirs) > 1):
        raise interp.gap("an `einsum` of more than matrices isn't followed")
    if not summed:
        a = _spread(interp, _ordered(interp, a, left, both + mine), len(theirs))
        b = _ordered(interp, b, right, both + theirs)
        for _ in mine:
            b = unsqueeze(interp, b, len(both))
        made = binary(interp, "mul", a, b)
        return _ordered(interp, made, both + mine + theirs, list(output))
    a = _ordered(interp, a, left, both + mine + summed)
    b = _ordered(interp, b, right, both + summed + theirs)
    a = a if mine else unsqueeze(interp, a, len(both))
    b = b if theirs else unsqueeze(interp, b, len(both) + 1)
    made = matmul(interp, a, b)
    if not (mine and theirs):
        raise interp.gap("an `einsum` with a vector isn't followed")
    return _ordered(interp, made, both + mine + theirs, list(output))


def _ordered(interp, x: Node, have, want: list[str]) -> Node:
    dims = [list(have).index(c) for c in want]
    return x if dims == list(range(len(dims))) else permute(interp, x, *dims)


def _spread(interp, x: Node, count: int) -> Node:
    for _ in range(count):
        x = unsqueeze(interp, x, len(x.axes))
    return x


def outer(interp, a: Node, b: Node) -> Node:
    return binary(interp, "mul", unsqueeze(interp, a, -1), unsqueeze(interp, b, 0))
