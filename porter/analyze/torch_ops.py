"""What torch's functions and tensor methods do to values and axes.

One table: a name of torch's -> the function that makes the node. Functions that reduce,
shift, sort or join along the token axes are Gaps by construction.
"""

from typing import Any

from porter.analyze import axes as ax
from porter.analyze import positions as pos
from porter.analyze.graph import (
    Axes,
    Node,
    axis_size,
    feature_axis,
    has_role,
)
from porter.analyze.symbols import Sym, arith, constant, is_symbolic, key, same, unwrap
from porter.analyze.values import (
    DEVICE,
    Activation,
    Choice,
    Device,
    Dtype,
    DtypeOf,
    ExternalMethod,
    Module,
    Opaque,
    is_scalar,
)

UNARY = {
    "cos", "sin", "tanh", "sigmoid", "exp", "log", "sqrt", "rsqrt", "abs", "neg", "relu",
    "silu", "erf", "square", "reciprocal", "softplus", "logsigmoid", "log1p", "expm1",
    "relu6", "mish", "elu", "hardtanh", "floor", "ceil", "round", "sign", "log2", "atan",
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
REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "std", "prod", "logsumexp"}
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
_MIXERS = {
    "cumsum",
    "cumprod",
    "flip",
    "roll",
    "sort",
    "argsort",
    "cummax",
    "unfold",
    "topk",
    "argmax",
    "max",
    "min",
    "median",
    "fft",
    "diff",
    "kthvalue",
}


def dtype_of(name: str) -> Dtype | None:
    return Dtype(_DTYPES[name]) if name in _DTYPES else None


# -- entry points


def call(interp, name: str, args: list, kwargs: dict) -> Any:
    """A function of torch: `torch.cat`, `torch.nn.functional.silu`, ..."""
    short = name.rsplit(".", 1)[-1]
    if not name.startswith(("torch.", "math.", "numpy.")):
        return _unknown(interp, name, args, kwargs)
    if name.startswith("math."):
        return _math(interp, short, args)
    made = _creation(interp, short, args, kwargs)
    if made is not NotImplemented:
        return made
    if (
        args
        and isinstance(args[0], Node)
        or short
        in ("cat", "stack", "where", "einsum", "concat", "concatenate", "outer")
    ):
        return operate(interp, short, args, kwargs, name)
    if kwargs and isinstance(next(iter(kwargs.values())), Node):
        first = next(iter(kwargs))
        rest = {k: v for k, v in kwargs.items() if k != first}
        return operate(interp, short, [kwargs[first], *args], rest, name)
    return _unknown(interp, name, args, kwargs)


def method(interp, obj: Node, name: str, args: list, kwargs: dict) -> Any:
    """A method of a tensor."""
    if name.endswith("_") and not name.startswith("_"):
        raise interp.gap(f"the in-place `{name}` isn't followed")
    return operate(interp, name, [obj, *args], kwargs, f"Tensor.{name}")


def _unknown(interp, name, args, kwargs):
    if any(_has_node(a) for a in [*args, *kwargs.values()]):
        raise interp.gap(f"`{name}` isn't known to porter")
    return Opaque(f"`{name}(...)`")


def _has_node(value) -> bool:
    if isinstance(value, Node):
        return True
    if isinstance(value, (tuple, list)):
        return any(_has_node(v) for v in value)
    return False


def operate(interp, name: str, args: list, kwargs: dict, shown: str) -> Any:
    x = args[0]
    if pos.is_position_mask(x):
        handled = pos.operate(interp, name, args, kwargs)
        if handled is not NotImplemented:
            return handled
    fn = _TABLE.get(name)
    if fn is not None:
        return fn(interp, *args, **kwargs)
    op = _ALIASES.get(name, name)
    if op in UNARY:
        return _unary(interp, op, args, kwargs)
    if op in BINARY and len(args) > 1 and not kwargs and _elementwise_form(name, args):
        return binary(interp, op, args[0], args[1])
    if name in REDUCTIONS:
        return reduce(interp, name, *args, **kwargs)
    if name in _MIXERS:
        return _along(interp, name, *args, **kwargs)
    raise interp.gap(f"`{shown}` isn't known to porter")


def _elementwise_form(name: str, args: list) -> bool:
    return name not in ("max", "min") or isinstance(args[1], Node)


# -- elementwise


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
        return matmul(interp, left, right)
    for side in (left, right):
        if isinstance(side, Opaque):
            raise interp.gap(f"a tensor meets {side.what}")
        if not (isinstance(side, Node) or is_scalar(side)):
            raise interp.gap(f"a tensor meets a {type(side).__name__}")
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


def comparison(interp, op: str, left, right) -> Node:
    return interp.elementwise(op, left, right, dtype="bool")


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
    for bound in (min, max):
        if isinstance(bound, Node):
            raise interp.gap("`clamp` by a tensor isn't followed")
    return interp.node("clamp", (x, min, max), x.axes, dtype=x.dtype)


def where(interp, cond, a, b):
    return interp.elementwise("where", cond, a, b)


def masked_fill(interp, x, mask, value):
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


# -- dtypes


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


# -- shapes


def view(interp, x: Node, *sizes, **kwargs):
    if kwargs:
        sizes = tuple(kwargs.values())
    if len(sizes) == 1 and isinstance(sizes[0], (Dtype, DtypeOf)):
        raise interp.gap("`view` as another dtype isn't followed")
    shape = _flat_sizes(interp, sizes)
    return rearranged(interp, x, lambda: ax.reshape(x.axes, shape))


def _flat_sizes(interp, sizes) -> list:
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    out = [interp.resolve(s) for s in sizes]
    for size in out:
        if not is_scalar(size):
            raise interp.gap("a view to sizes that can't be followed")
    return out


def rearranged(interp, x: Node, make, repeat: bool = False) -> Node:
    """A view of x: same elements, other axes. A view of a view is one view."""
    try:
        axes = tuple(make())
    except ax.AxisError as error:
        raise interp.gap(
            f"{error}", "the sizes of this view can't be proved"
        ) from error
    for axis in axes:
        if has_role(axis, "seq") and any(not f.role for f in axis):
            raise _mixes(interp, "a view that folds features into the tokens")
    base = x
    if x.op == "rearrange" and x.frame is interp.frame and x.loop is interp.loop:
        base = x.args[0]
    if axes == base.axes:
        return base
    return interp.node(
        "rearrange",
        (base,),
        axes,
        dtype=x.dtype,
        layout=tuple(tuple(id(f) for f in a) for a in axes),
    )


def transpose(interp, x, dim0, dim1):
    def make():
        rank = len(x.axes)
        i, j = ax.normalize(constant(dim0), rank), ax.normalize(constant(dim1), rank)
        out = list(x.axes)
        out[i], out[j] = out[j], out[i]
        return out

    return rearranged(interp, x, make)


def t(interp, x):
    return transpose(interp, x, 0, 1)


def permute(interp, x, *dims):
    dims = tuple(_flat_sizes(interp, dims))
    if len(dims) != len(x.axes):
        raise interp.gap("`permute` with another number of axes")
    return rearranged(
        interp, x, lambda: [x.axes[ax.normalize(d, len(dims))] for d in dims]
    )


def unsqueeze(interp, x, dim):
    at = constant(dim)
    if at is None:
        raise interp.gap("`unsqueeze` at a symbolic dimension")
    at = at % (len(x.axes) + 1)
    return rearranged(interp, x, lambda: [*x.axes[:at], (), *x.axes[at:]])


def squeeze(interp, x, dim=None):
    if dim is None:
        return rearranged(interp, x, lambda: [a for a in x.axes if a])
    at = ax.normalize(constant(dim), len(x.axes))
    if x.axes[at]:
        if constant(axis_size(x.axes[at])) is None:
            raise interp.gap("`squeeze` of an axis whose size isn't known to be 1")
        return x
    return rearranged(interp, x, lambda: [*x.axes[:at], *x.axes[at + 1 :]])


def flatten(interp, x, start_dim=0, end_dim=-1):
    i, j = ax.normalize(start_dim, len(x.axes)), ax.normalize(end_dim, len(x.axes))
    merged = tuple(f for a in x.axes[i : j + 1] for f in a)
    return rearranged(interp, x, lambda: [*x.axes[:i], merged, *x.axes[j + 1 :]])


def unflatten(interp, x, dim, sizes):
    at = ax.normalize(dim, len(x.axes))

    def make():
        return [
            *x.axes[:at],
            *ax.reshape((x.axes[at],), list(sizes)),
            *x.axes[at + 1 :],
        ]

    return rearranged(interp, x, make)


def expand(interp, x, *sizes):
    from porter.analyze.graph import Factor

    sizes = tuple(_flat_sizes(interp, sizes))
    lead = len(sizes) - len(x.axes)
    old = [()] * lead + list(x.axes)
    out = []
    for axis, size in zip(old, sizes, strict=True):
        if constant(size) == -1 or same(size, axis_size(axis)):
            out.append(axis)
        elif axis:
            raise interp.gap(f"`expand` of an axis of size {axis_size(axis)} to {size}")
        elif key(size)[:1] == ("runtime",):
            out.append(_token_axis(size))
        else:
            out.append((Factor(size, "", repeats=True),))
    return rearranged(interp, x, lambda: out, repeat=True)


def _token_axis(size):
    from porter.analyze.graph import Factor

    role = {"batch": "batch", "seq": "seq", "history": "hist"}[unwrap(size).args[0]]
    return (Factor(size, role, repeats=True),)


def expand_as(interp, x, other):
    return expand(interp, x, *[axis_size(a) for a in other.axes])


def repeat_interleave(interp, x, repeats, dim=None, output_size=None):
    from porter.analyze.graph import Factor

    if dim is None or isinstance(repeats, Node):
        raise interp.gap("this `repeat_interleave` isn't followed")
    at = ax.normalize(constant(dim), len(x.axes))
    forbid_tokens(interp, x.axes[at], "`repeat_interleave`")
    copies = (*x.axes[at], Factor(repeats, "", repeats=True))
    return rearranged(interp, x, lambda: [*x.axes[:at], copies, *x.axes[at + 1 :]])


def repeat(interp, x, *sizes):
    from porter.analyze.graph import Factor

    sizes = tuple(_flat_sizes(interp, sizes))
    axes = [()] * (len(sizes) - len(x.axes)) + list(x.axes)
    out = []
    for axis, size in zip(axes, sizes, strict=True):
        if constant(size) == 1:
            out.append(axis)
        elif key(size)[:1] == ("runtime",) and not axis:
            out.append(_token_axis(size))
        else:
            forbid_tokens(interp, axis, "`repeat`")
            out.append((Factor(size, "", repeats=True), *axis))
    return rearranged(interp, x, lambda: out)


def movedim(interp, x, source, destination):
    raise interp.gap("`movedim` isn't followed")


# -- parts


def index(interp, x: Node, item) -> Node:
    """x[...] with integers, slices, None and `...`."""
    items = list(item) if isinstance(item, tuple) else [item]
    if pos.is_position_mask(x):
        return pos.index(interp, x, items)
    for it in items:
        if isinstance(it, Node):
            return _gather_rows(interp, x, items)
    count = sum(1 for i in items if i is not None and i is not Ellipsis)
    if Ellipsis in [i for i in items if not _unhashable(i)]:
        at = next(n for n, i in enumerate(items) if i is Ellipsis)
        items[at : at + 1] = [slice(None)] * (len(x.axes) - count)
    else:
        items += [slice(None)] * (len(x.axes) - count)
    out, dim = x, 0
    for it in items:
        if it is None:
            out = unsqueeze(interp, out, dim)
            dim += 1
        elif isinstance(it, slice):
            out = narrow(interp, out, dim, it.start, it.stop, it.step)
            dim += 1
        elif constant(it) is not None:
            out = select(interp, out, dim, constant(it))
        else:
            raise interp.gap("a tensor is indexed by something that can't be followed")
    return out


def _unhashable(item) -> bool:
    return isinstance(item, (slice, Node, Sym))


def _gather_rows(interp, x: Node, items: list) -> Node:
    """table[ids]: rows picked by a tensor of ids, as an embedding does."""
    if len(items) != 1 or any(has_role(a, "batch", "seq", "hist") for a in x.axes):
        raise interp.gap("a tensor is indexed by a tensor")
    ids = items[0]
    return interp.node("rows", (x, ids), (*ids.axes, *x.axes[1:]), dtype=x.dtype)


def narrow(interp, x: Node, dim: int, start, stop, step=None) -> Node:
    axis = x.axes[dim]
    size = axis_size(axis)
    low, high = ax.bounds(start, stop, size)
    if constant(low) == 0 and same(high, size) and step in (None, 1):
        return x
    if has_role(axis, "hist") and constant(low) == 0 and step in (None, 1):
        if key(high)[:1] == ("runtime",):
            return x
    if any(f.role for f in axis):
        return _narrow_tokens(interp, x, axis)
    length = ax.slice_size(start, stop, step, size)
    axes = (*x.axes[:dim], feature_axis(length), *x.axes[dim + 1 :])
    if not same(length, 1) and axes[dim] == ():
        raise interp.gap("a slice of unknown size")
    return interp.node(
        "slice",
        (x, low, high),
        axes,
        dtype=x.dtype,
        dim=dim - len(x.axes),
        step=step if step is not None else 1,
    )


def _narrow_tokens(interp, x, axis):
    if x.op == "mask":
        return x
    raise interp.gap(
        "this takes part of the tokens: it mixes tokens outside attention",
        "vLLM batches tokens of several sequences; only attention may look across them",
    )


def select(interp, x: Node, dim: int, at) -> Node:
    axis = x.axes[dim % len(x.axes)]
    dim = dim % len(x.axes)
    if not axis:
        return rearranged(interp, x, lambda: [*x.axes[:dim], *x.axes[dim + 1 :]])
    forbid_tokens(interp, axis, "taking one item")
    if at < 0:
        at = arith("add", axis_size(axis), at)
    return interp.node(
        "select",
        (x, at),
        (*x.axes[:dim], *x.axes[dim + 1 :]),
        dtype=x.dtype,
        dim=dim - len(x.axes),
    )


def chunk(interp, x: Node, chunks, dim=0):
    n = constant(chunks)
    at = ax.normalize(constant(dim), len(x.axes))
    forbid_tokens(interp, x.axes[at], "`chunk`")
    width = arith("floordiv", axis_size(x.axes[at]), n)
    return tuple(_part(interp, x, at, i, width) for i in range(int(n)))


def _part(interp, x, at, i, width):
    low = arith("mul", width, i)
    return narrow(interp, x, at, low, arith("add", low, width))


def split(interp, x: Node, split_size_or_sections=None, dim=0, **kwargs):
    sizes = kwargs.get("split_size", split_size_or_sections)
    at = ax.normalize(constant(dim), len(x.axes))
    forbid_tokens(interp, x.axes[at], "`split`")
    if not isinstance(sizes, (tuple, list)):
        count = constant(arith("floordiv", axis_size(x.axes[at]), sizes))
        if count is None:
            raise interp.gap("`split` into a symbolic number of parts")
        sizes = [sizes] * int(count)
    out, low = [], 0
    for size in sizes:
        high = arith("add", low, size)
        out.append(narrow(interp, x, at, low, high))
        low = high
    if not same(low, axis_size(x.axes[at])):
        raise interp.gap(f"`split` sizes don't add up to {axis_size(x.axes[at])}")
    return tuple(out)


def unbind(interp, x, dim=0):
    at = ax.normalize(constant(dim), len(x.axes))
    n = constant(axis_size(x.axes[at]))
    if n is None:
        raise interp.gap("`unbind` of an axis of symbolic size")
    return tuple(select(interp, x, at, i) for i in range(int(n)))


def cat(interp, tensors, dim=0, axis=None):
    dim = dim if axis is None else axis
    tensors = [interp.resolve(t) for t in tensors]
    if any(not isinstance(t, Node) for t in tensors):
        raise interp.gap("`cat` of something that isn't a tensor")
    at = ax.normalize(constant(dim), len(tensors[0].axes))
    size: Any = 0
    for x in tensors:
        forbid_tokens(interp, x.axes[at], "`cat`")
        size = arith("add", size, axis_size(x.axes[at]))
    try:
        rest = [
            ax.broadcast([(t.axes[i],) for t in tensors])[0] if i != at else ()
            for i in range(len(tensors[0].axes))
        ]
    except (ax.AxisError, IndexError) as error:
        raise interp.gap(f"`cat`: {error}") from error
    from porter.analyze.interpreter import promote

    rest[at] = feature_axis(size)
    rank = len(rest)
    return interp.node(
        "cat", (tuple(tensors),), tuple(rest), dtype=promote(tensors), dim=at - rank
    )


def stack(interp, tensors, dim=0):
    at = constant(dim) % (len(tensors[0].axes) + 1)
    return cat(interp, [unsqueeze(interp, t, at) for t in tensors], at)


def pad(interp, x, *args, **kwargs):
    raise interp.gap(
        "`pad` isn't followed",
        "padding along the tokens mixes them; along features rewrite it as cat",
    )


# -- contractions and reductions


def matmul(interp, a: Node, b: Node) -> Node:
    if not (isinstance(a, Node) and isinstance(b, Node)):
        raise interp.gap("`matmul` of something that isn't a tensor")
    if len(a.axes) < 2 or len(b.axes) < 2:
        raise interp.gap("`matmul` with a vector isn't followed")
    left, right = a.axes[-1], b.axes[-2]
    if not same(axis_size(left), axis_size(right)):
        raise interp.gap(f"`matmul` of {axis_size(left)} with {axis_size(right)}")
    if not left and not right:  # an outer product: frequencies times positions
        return binary(interp, "mul", a, b)
    if ax.roles(left) != ax.roles(right):
        raise interp.gap("`matmul` joins a token axis with another")
    if has_role(left, "batch", "seq"):
        raise _mixes(interp, "`matmul`")
    try:
        lead = ax.broadcast([a.axes[:-2], b.axes[:-2]])
    except ax.AxisError as error:
        raise interp.gap(f"`matmul`: {error}") from error
    return interp.node("matmul", (a, b), (*lead, a.axes[-2], b.axes[-1]))


def linear(interp, x, weight, bias=None):
    owner = weight.attrs.get("module") if isinstance(weight, Node) else None
    if (
        owner is not None
        and weight.op == "leaf_parameter"
        and owner.leaf == "torch.nn.Linear"
    ):
        own_bias = isinstance(bias, Node) and bias.attrs.get("module") is owner
        if own_bias or (bias is None and owner.args["bias"] is False):
            from porter.analyze.torch_modules import linear as call_linear

            return call_linear(interp, owner, x)
    raise interp.gap("`F.linear` with a weight of its own isn't followed")


def einsum(interp, equation, *operands):
    raise interp.gap("`einsum` isn't followed")


def reduce(interp, name: str, x: Node, dim=None, keepdim=False, **kwargs) -> Node:
    kwargs.pop("dtype", None)
    unknown = set(kwargs) - {"unbiased", "correction", "p"}
    if unknown:
        raise interp.gap(f"`{name}` with {sorted(unknown)} isn't followed")
    if kwargs.get("unbiased", kwargs.get("correction", None)) not in (None, False, 0):
        raise interp.gap(f"`{name}` with {kwargs}")
    if dim is None:
        if any(has_role(a, "batch", "seq", "hist") for a in x.axes):
            raise _mixes(interp, f"`{name}` over all elements")
        raise interp.gap(f"`{name}` over all elements isn't followed")
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    at = sorted(ax.normalize(constant(d), len(x.axes)) for d in dims)
    for d in at:
        forbid_tokens(interp, x.axes[d], f"`{name}`")
    if len(at) != 1:
        raise interp.gap(f"`{name}` over several axes isn't followed")
    axes = [() if i in at else a for i, a in enumerate(x.axes)]
    if keepdim is not True:
        axes = [a for i, a in enumerate(axes) if i not in at]
    return interp.node(
        "reduce",
        (x,),
        tuple(axes),
        dtype=x.dtype,
        fn=name,
        dim=at[0] - len(x.axes),
        keepdim=keepdim is True,
        p=kwargs.get("p"),
        unbiased=kwargs.get("unbiased", kwargs.get("correction")),
    )


def vector_norm(interp, x: Node, p=2, dim=None, keepdim=False) -> Node:
    if constant(p) is None and p != "fro":
        raise interp.gap("a norm of symbolic order isn't followed")
    return reduce(interp, "norm", x, dim, keepdim, p=2 if p == "fro" else p)


def softmax(interp, x: Node, dim=-1, dtype=None, _stacklevel=3) -> Node:
    at = ax.normalize(constant(dim), len(x.axes))
    if has_role(x.axes[at], "batch", "seq"):
        raise _mixes(interp, "softmax over the tokens of the query")
    tag = dtype_tag(interp, dtype)[0] if dtype is not None else x.dtype
    return interp.node("softmax", (x,), x.axes, dtype=tag, dim=at - len(x.axes))


def _along(interp, name: str, x: Node, *args, dim=None, dims=None, **kwargs):
    where_ = dim if dim is not None else dims
    if where_ is None:
        where_ = args[-1] if args else -1
    candidates = where_ if isinstance(where_, (tuple, list)) else (where_,)
    for d in candidates:
        number = constant(d)
        if number is not None and -len(x.axes) <= number < len(x.axes):
            forbid_tokens(interp, x.axes[number % len(x.axes)], f"`{name}`")
    raise interp.gap(f"`{name}` isn't followed")


def _dim_function(*names: str):
    """A function along one axis, kept as it is: fn(x, *values, dim)."""

    def fn(interp, x: Node, *args, **kwargs):
        given = dict(zip(names, args, strict=False)) | kwargs
        given.pop("dtype", None)
        at = constant(_one(given.pop("dim", given.pop("dims", -1))))
        if at is None or any(not is_scalar(v) for v in given.values()):
            raise interp.gap("this call isn't followed")
        at = ax.normalize(at, len(x.axes))
        forbid_tokens(interp, x.axes[at], f"`{names[-1]}`")
        return at, given

    return fn


def _one(dim):
    return dim[0] if isinstance(dim, (tuple, list)) and len(dim) == 1 else dim


def _along_features(name: str, *names: str):
    """flip, roll, cumsum, ... over a feature axis; over tokens they mix them."""
    parse = _dim_function(*names)

    def fn(interp, x: Node, *args, **kwargs):
        if "dim" not in names and "dims" not in kwargs and len(args) < len(names):
            if name in ("flip", "roll"):
                raise interp.gap(f"`{name}` over all elements isn't followed")
        at, given = parse(interp, x, *args, **kwargs)
        values = tuple(given.items())
        return interp.node(
            "along",
            (x, *(v for _, v in values)),
            x.axes,
            dtype=x.dtype,
            fn=name,
            dim=at - len(x.axes),
            names=tuple(k for k, _ in values),
        )

    return fn


def add(interp, x, other, alpha=1):
    return binary(
        interp,
        "add",
        x,
        binary(interp, "mul", other, alpha) if constant(alpha) != 1 else other,
    )


def sub(interp, x, other, alpha=1):
    return binary(
        interp,
        "sub",
        x,
        binary(interp, "mul", other, alpha) if constant(alpha) != 1 else other,
    )


def conv1d(interp, x, *args, **kwargs):
    raise _mixes(interp, "a convolution over time")


def forbid_tokens(interp, axis, what: str) -> None:
    if has_role(axis, "batch", "seq", "hist"):
        raise _mixes(interp, what)


def _mixes(interp, what: str):
    return interp.gap(
        f"{what} runs along the tokens: it mixes tokens outside attention",
        "vLLM batches tokens of several sequences; only attention may look across them",
    )


# -- attributes and truth


def tensor_attribute(interp, x: Node, name: str) -> Any:
    if name == "shape":
        return tuple(axis_size(a) for a in x.axes)
    if name == "dtype":
        return DtypeOf(x)
    if name == "device":
        return DEVICE
    if name == "ndim":
        return len(x.axes)
    if name == "T":
        return t(interp, x)
    if name in ("is_cuda", "requires_grad", "is_nested", "is_quantized"):
        return False
    if name == "data":
        return x
    return ExternalMethod(x, name)


def size(interp, x: Node, dim=None):
    sizes = tuple(axis_size(a) for a in x.axes)
    return sizes if dim is None else sizes[constant(dim)]


def dim(interp, x: Node):
    return len(x.axes)


def numel(interp, x: Node):
    return ax.total(list(x.axes))


def tensor_truth(interp, x: Node):
    raise interp.gap(
        "a branch depends on the values of a tensor",
        "a compiled model can't branch on data",
    )


def leaf_parameter(interp, module: Module, name: str):
    args = module.args
    if (
        name == "bias"
        and module.leaf != "torch.nn.Embedding"
        and args.get("bias") is False
    ):
        return None
    if module.leaf == "torch.nn.Linear":
        axes: Axes = (
            feature_axis(args["out_features"]),
            feature_axis(args["in_features"]),
        )
        axes = axes if name == "weight" else axes[:1]
    elif module.leaf == "torch.nn.Embedding":
        axes = (
            feature_axis(args["num_embeddings"]),
            feature_axis(args["embedding_dim"]),
        )
    else:
        shape = args.get("normalized_shape")
        axes = (feature_axis(shape),)
    return interp.node("leaf_parameter", (), axes, module=module, name=name)


# -- creation


def _creation(interp, short: str, args: list, kwargs: dict):
    if short in ("ones", "zeros", "full", "empty"):
        return _filled(interp, short, args, kwargs)
    if short == "arange":
        return arange(interp, *args, **kwargs)
    if short in ("tensor", "as_tensor") and args and is_scalar(args[0]):
        return interp.node("constant", (args[0],), ())
    if short == "Size":
        return tuple(args[0])
    if short == "finfo":
        return Opaque("torch.finfo")
    if short in ("ones_like", "zeros_like") and args and isinstance(args[0], Node):
        value = 1.0 if short == "ones_like" else 0.0
        return interp.node("fill", (value,), args[0].axes, dtype=args[0].dtype)
    if short in ("Parameter", "Buffer"):
        return args[0]
    if short in (
        "is_grad_enabled",
        "is_tracing",
        "is_autocast_enabled",
        "is_compiling",
    ):
        return False
    if short == "device":
        return DEVICE
    return NotImplemented


def _filled(interp, short: str, args: list, kwargs: dict):
    values = list(args)
    fill = {"ones": 1.0, "zeros": 0.0, "empty": 0.0}.get(short)
    if short == "full":
        fill = kwargs.get("fill_value", values.pop() if len(values) > 1 else None)
    sizes = kwargs.get("size", values[0] if len(values) == 1 else values)
    sizes = list(sizes) if isinstance(sizes, (tuple, list)) else [sizes]
    if pos.is_full_length(sizes) and fill == 1.0:
        return pos.ones(interp, sizes)
    axes = []
    for s in sizes:
        k = key(s)
        if k[:1] == ("runtime",):
            axes.append(_token_axis(s))
        else:
            axes.append(feature_axis(s))
    return interp.node("fill", (fill,), tuple(axes), init=short)


def arange(interp, *args, **kwargs):
    for name in ("device", "requires_grad"):
        kwargs.pop(name, None)
    dtype = kwargs.pop("dtype", None)
    start, stop, step = 0, None, 1
    values = list(args)
    if "end" in kwargs:
        stop = kwargs.pop("end")
        start = kwargs.pop("start", values[0] if values else 0)
    elif len(values) == 1:
        stop = values[0]
    elif values:
        start, stop = values[0], values[1]
        step = values[2] if len(values) > 2 else 1
    step = kwargs.pop("step", step)
    made = pos.arange(interp, start, stop, step)
    if made is not None:
        return cast(interp, made, dtype) if dtype is not None else made
    length = arith("sub", stop, start) if not same(start, 0) else stop
    if constant(step) != 1:
        length = arith("floordiv", length, step)
    tag = dtype_tag(interp, dtype)[0] if dtype is not None else "int64"
    return interp.node(
        "arange", (start, stop, step), (feature_axis(length),), dtype=tag
    )


def _math(interp, short: str, args: list):
    import math

    if short in ("pi", "inf", "e"):
        return getattr(math, short)
    number = constant(args[0])
    if short == "sqrt":
        return math.sqrt(number) if number is not None else arith("pow", args[0], 0.5)
    if number is not None and not is_symbolic(args[0]):
        return getattr(math, short)(*args)
    return Sym("call", (f"math.{short}", *args))


def item(interp, x: Node):
    if x.op == "constant":
        return x.args[0]
    raise interp.gap("`.item()` of a tensor")


_TABLE: dict[str, Any] = {
    "gelu": gelu, "leaky_relu": leaky_relu, "clamp": clamp, "clip": clamp, "where": where,
    "masked_fill": masked_fill, "pow": pow_, "square": square, "rsub": rsub,
    "addcmul": addcmul, "to": to, "type": to, "type_as": type_as,
    "contiguous": same_value, "clone": same_value, "detach": same_value,
    "dropout": dropout, "view": view, "reshape": view, "transpose": transpose,
    "swapaxes": transpose, "t": t, "permute": permute, "unsqueeze": unsqueeze,
    "squeeze": squeeze, "flatten": flatten, "unflatten": unflatten, "expand": expand,
    "expand_as": expand_as, "repeat_interleave": repeat_interleave, "repeat": repeat,
    "movedim": movedim, "chunk": chunk, "split": split, "unbind": unbind, "cat": cat,
    "concat": cat, "concatenate": cat, "stack": stack, "pad": pad, "matmul": matmul,
    "bmm": matmul, "linear": linear, "einsum": einsum, "softmax": softmax,
    "conv1d": conv1d, "size": size, "dim": dim, "numel": numel, "item": item,
    "cpu": same_value, "cuda": same_value, "tensor_split": chunk,
}  # fmt: skip
_TABLE |= {
    "roll": _along_features("roll", "shifts", "dims"),
    "flip": _along_features("flip", "dims"),
    "cumsum": _along_features("cumsum", "dim"),
    "log_softmax": _along_features("log_softmax", "dim"),
    "normalize": _along_features("normalize", "p", "dim", "eps"),
    "add": add,
    "norm": vector_norm,
    "sub": sub,
}
for _name, _tag in _DTYPES.items():
    if _name in ("float", "half", "bfloat16", "double", "long", "int", "bool"):
        _TABLE[_name] = _cast_method(_tag)

__all__ = ["Choice", "call", "method"]
