"""What one expert computes: weight * down(act(gate(x)) * up(x)), however it is written.

The body of a loop over experts is followed from its result inwards: the routing weight,
the second matrix, the product of an activated and a plain half, the first matrix. Each
matrix is an item of a merged parameter, or of a module list.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import (
    Sym,
    arith,
    compare,
    constant,
    key,
    negate,
    same,
    unwrap,
)
from porter.analyze.values import Module, is_scalar
from porter.transforms.matching import either_way, is_number, is_op, strip_casts

_PLAIN_ACTS = {"silu": "silu", "gelu": "gelu"}
_GELU = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}


@dataclass
class Matrix:
    """One of an expert's matrices. param: the merged parameter [experts, ...], or module:
    the Linear in each expert; rows: (low, high, step) of its outputs, None for all."""

    x: Node
    param: Node | None = None
    module: Module | None = None
    transposed: bool = False
    bias: Node | None = None
    rows: tuple | None = None

    @property
    def biased(self) -> Any:
        """Whether it has a bias: True, False, or by the config."""
        if self.param is not None:
            return self.bias is not None
        return self.module.args["bias"] if self.module is not None else False

    @property
    def source(self) -> Any:
        return self.param if self.param is not None else self.module


@dataclass
class ExpertForm:
    x: Node
    weights: Node
    gate: Matrix
    up: Matrix
    down: Matrix
    activation: Any
    options: dict[str, Any] = field(default_factory=dict)
    act: Any = None  # the source's ACT2FN item
    below: Any = None  # experts from this number on hand their tokens on as they are


class NoForm(Exception):
    """The body isn't an expert that can be recognised; where and why."""

    def __init__(self, node, why: str):
        super().__init__(why)
        self.node, self.why = node, why


def match_expert(body: Node) -> ExpertForm:
    """Raises NoForm where the body is something else."""
    weights, value = _weighted(body)
    value, handed, below = _computing(value)
    down = _matrix(value)
    if down is None or down.rows is not None:
        raise NoForm(
            value, "the result of an expert is no product with a matrix of its"
        )
    gate, up, activation, options, act = _gated(plain(down.x))
    if gate.x is not up.x:
        raise NoForm(body, "an expert's two halves read different values")
    if not is_op(gate.x, "dispatch"):
        raise NoForm(gate.x, "an expert reads something beside its tokens")
    if handed is not None and plain(handed) is not gate.x:
        raise NoForm(handed, "experts that do different things")
    x = gate.x.args[0]
    return ExpertForm(x, weights, gate, up, down, activation, options, act, below)


def _computing(value: Node) -> tuple[Node, Node | None, Any]:
    """(what the experts below a number make, what those from there on do, the number)."""
    if not is_op(value, "phi"):
        return value, None, None
    cond, first, second = value.args
    for holds, mine, other in ((cond, first, second), (negate(cond), second, first)):
        number = _number_below(holds)
        if number is not None:
            return plain(mine), other, number
    return value, None, None


def _number_below(cond) -> Any:
    """n where cond holds for the experts below n and no others."""
    cond = unwrap(cond)
    if not isinstance(cond, Sym):
        return None
    if cond.op == "expert_below":
        return cond.args[0]
    parts: Sequence = ()
    if cond.op == "and":
        parts = cond.args
    inner = unwrap(negate(cond))
    if cond.op == "not" and isinstance(inner, Sym) and inner.op == "or":
        parts = [negate(part) for part in inner.args]
    found = [n for n in map(_number_below, parts) if n is not None]
    if len(found) != 1:
        return None
    # `and n > 0` says no more: no expert is below 0.
    some = key(compare("lt", 0, found[0]))
    rest = [p for p in parts if _number_below(p) is None]
    return found[0] if all(key(unwrap(p)) == some for p in rest) else None


def plain(node):
    """The value under casts and views that only add or drop axes of size one."""
    while isinstance(node, Node):
        below = strip_casts(node)
        if is_op(below, "rearrange"):
            inner = below.args[0]
            if [a for a in below.axes if a] == [a for a in inner.axes if a]:
                node = inner
                continue
        return below
    return node


def _weighted(body: Node) -> tuple[Node, Node]:
    value = plain(body)
    if is_op(value, "mul"):
        for weight, rest in either_way(value):
            inner = plain(weight)
            if is_op(inner, "pair_value"):
                return inner.args[0], plain(rest)
    raise NoForm(body, "an expert's result isn't multiplied by its routing weight")


def _matrix(value) -> Matrix | None:
    """value as a product of something with one of the expert's matrices."""
    value = plain(value)
    if is_op(value, "slice"):
        whole = _matrix(value.args[0])
        if whole is None or whole.rows is not None or value.attrs["dim"] != -1:
            return None
        whole.rows = (value.args[1], value.args[2], value.attrs["step"])
        return whole
    if is_op(value, "add"):
        for rest, bias in either_way(value):
            part, inner = _part(bias), _matrix(rest)
            if part is not None and inner is not None and inner.bias is None:
                if len(part.axes) == 2 and inner.param is not None:
                    inner.bias = part
                    return inner
        return None
    if is_op(value, "linear"):
        return Matrix(plain(value.args[0]), module=value.attrs["module"])
    if is_op(value, "matrix"):
        param = _part(value.args[1])
        bias = _part(value.args[2]) if len(value.args) > 2 else None
        if param is None or (len(value.args) > 2 and bias is None):
            return None
        return Matrix(plain(value.args[0]), param=param, bias=bias)
    if is_op(value, "matmul"):
        return _product(value)
    return None


def _product(value: Node) -> Matrix | None:
    param, flipped = _part(value.args[1]), False
    if param is None and is_op(value.args[1], "rearrange"):
        inner = value.args[1].args[0]
        if len(inner.axes) == 2 and inner.axes[::-1] == value.args[1].axes:
            param, flipped = _part(inner), True
    if param is None:
        return None
    return Matrix(plain(value.args[0]), param=param, transposed=not flipped)


def _part(node) -> Node | None:
    """The merged tensor of which node is the expert's."""
    node = strip_casts(node)
    return node.args[0] if is_op(node, "expert_part") else None


def _gated(value):
    """(gate, up, activation, options, source's activation) of act(gate) * up."""
    if not is_op(value, "mul"):
        raise NoForm(value, "an expert has another form than act(gate(x)) * up(x)")
    for activated, other in either_way(value):
        activated, other = plain(activated), plain(other)
        name = _activation(activated)
        if name is not None:
            gate, up = _matrix(activated.args[0]), _matrix(other)
            if gate is not None and up is not None:
                return gate, up, name, {}, activated.attrs.get("activation")
        clamped = _clamped(activated, other)
        if clamped is not None:
            return clamped
    raise NoForm(value, "an expert has another form than act(gate(x)) * up(x)")


def _activation(node):
    if is_op(node, "act"):
        return node.attrs["name"]
    if is_op(node, "silu"):
        return "silu"
    if is_op(node, "gelu"):
        return _GELU[node.attrs["approximate"]]
    return None


def _clamped(glu, shifted):
    """gate * sigmoid(alpha * gate) times up + beta, gate and up clamped."""
    if not (is_op(glu, "mul") and is_op(shifted, "add")):
        return None
    for beta, rest in either_way(shifted):
        if not is_scalar(beta):
            continue
        up = plain(rest)
        for gate, sigmoid in either_way(glu):
            gate, sigmoid = plain(gate), plain(sigmoid)
            found = _swish(gate, sigmoid)
            if found is None or not (is_op(gate, "clamp") and is_op(up, "clamp")):
                continue
            limit = gate.args[2]
            if gate.args[1] is not None or limit is None:
                continue
            if key(up.args[2]) != key(limit) or up.args[1] is None:
                continue
            if not same(arith("add", up.args[1], limit), 0):
                continue
            a, b = _matrix(gate.args[0]), _matrix(up.args[0])
            if a is None or b is None:
                continue
            options = {
                "swiglu_limit": limit,
                "swiglu_alpha": found,
                "swiglu_beta": beta,
            }
            return a, b, "swigluoai_uninterleave", options, None
    return None


def _swish(gate, sigmoid):
    """alpha of sigmoid(alpha * gate)."""
    if not is_op(sigmoid, "sigmoid"):
        return None
    inner = plain(sigmoid.args[0])
    if inner is gate:
        return 1.0
    if is_op(inner, "mul"):
        for x, alpha in either_way(inner):
            if plain(x) is gate and is_scalar(alpha):
                return alpha
    return None


def halves(gate: Matrix, up: Matrix) -> str | None:
    """How gate and up lie in one merged tensor: `gate_up`, `up_gate` or `interleaved`."""
    if gate.rows is None or up.rows is None or gate.source is not up.source:
        return None
    size = _outputs(gate)
    if constant(gate.rows[2]) == 1 and constant(up.rows[2]) == 1:
        middle = arith("floordiv", size, 2)
        first, second = (0, middle), (middle, size)
        if _is(gate.rows, first) and _is(up.rows, second):
            return "gate_up"
        if _is(up.rows, first) and _is(gate.rows, second):
            return "up_gate"
    every = constant(gate.rows[2]) == 2 and constant(up.rows[2]) == 2
    if every and same(gate.rows[1], size) and same(up.rows[1], size):
        if is_number(gate.rows[0], 0) and is_number(up.rows[0], 1):
            return "interleaved"
    return None


def _is(rows: tuple, bounds: tuple) -> bool:
    return same(rows[0], bounds[0]) and same(rows[1], bounds[1])


def _outputs(matrix: Matrix) -> Any:
    if matrix.module is not None:
        return matrix.module.args["out_features"]
    assert matrix.param is not None
    return axis_size(matrix.param.axes[2 if matrix.transposed else 1])


def width(form: ExpertForm) -> Any:
    """The size between an expert's two matrices."""
    if form.down.module is not None:
        return form.down.module.args["in_features"]
    assert form.down.param is not None
    return axis_size(form.down.param.axes[1 if form.down.transposed else 2])
