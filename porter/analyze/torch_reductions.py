"""Reductions and functions along one axis."""

from porter.analyze import axes as ax
from porter.analyze.expert_loops import load
from porter.analyze.graph import (
    Node,
    axis_size,
    has_role,
)
from porter.analyze.symbols import constant, describe, is_symbolic, same
from porter.analyze.token_axes import _mixes, forbid_tokens
from porter.analyze.torch_elementwise import binary, dtype_tag
from porter.analyze.torch_selection import extreme
from porter.analyze.values import Choice, Opaque, Output, is_scalar

REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "std", "prod", "logsumexp"}
# what attention may take of its scores; anywhere else they are refused
_OVER_HISTORY = {"logsumexp", "amax"}
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


def linear(interp, x, weight, bias=None):
    owner = weight.attrs.get("module") if isinstance(weight, Node) else None
    if (
        owner is not None
        and weight.op == "leaf_parameter"
        and owner.leaf == "torch.nn.Linear"
        and not owner.transposed
    ):
        bias = bias.then if isinstance(bias, Choice) and bias.other is None else bias
        own_bias = isinstance(bias, Node) and bias.attrs.get("module") is owner
        if own_bias or (bias is None and owner.args["bias"] is False):
            from porter.analyze.torch_modules import linear as call_linear

            return call_linear(interp, owner, x)
    return _linear(interp, x, weight, bias)


def _linear(interp, x: Node, weight, bias) -> Node:
    """x @ weight.T + bias with a weight that isn't a Linear's."""
    if not isinstance(weight, Node) or len(weight.axes) != 2:
        raise interp.gap("`F.linear` with a weight that can't be followed")
    if any(has_role(a, "batch", "seq", "hist") for a in weight.axes):
        raise _mixes(interp, "a matrix made of tokens")
    if not same(axis_size(x.axes[-1]), axis_size(weight.axes[-1])):
        raise interp.gap(
            f"`F.linear` of {describe(axis_size(x.axes[-1]))} inputs with a weight of "
            f"{describe(axis_size(weight.axes[-1]))}"
        )
    forbid_tokens(interp, x.axes[-1], "`F.linear`")
    args = (x, weight) if bias is None else (x, weight, bias)
    return interp.node("matrix", args, (*x.axes[:-1], weight.axes[0]), dtype=x.dtype)


def reduce(interp, name: str, x: Node, dim=None, keepdim=False, **kwargs) -> Node:
    if "keepdims" in kwargs:
        keepdim = kwargs.pop("keepdims")
    if isinstance(dim, (tuple, list)) and not kwargs and name == "sum":
        counted = load(interp, x, [constant(d) for d in dim], keepdim)
        if counted is not None:
            return counted
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
        if not (name in _OVER_HISTORY and has_role(x.axes[d], "hist")):
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


def max_along(interp, x: Node, *args, **kwargs):
    """max(x, dim): the largest values and their places; along the cached tokens only the
    values may be read."""
    dim = constant(args[0] if args else kwargs.get("dim"))
    if dim is None or not has_role(x.axes[ax.normalize(dim, len(x.axes))], "hist"):
        return extreme("max")(interp, x, *args, **kwargs)
    values = reduce(interp, "amax", x, *args, **kwargs)
    return Output({"values": values, "indices": Opaque("the indices of `max`")})


def vector_norm(interp, x: Node, p=2, dim=None, keepdim=False) -> Node:
    if constant(p) is None and p != "fro" and not is_symbolic(p):
        raise interp.gap("a norm of symbolic order isn't followed")
    return reduce(interp, "norm", x, dim, keepdim, p=2 if p == "fro" else p)


def layer_norm(interp, x: Node, shape, weight=None, bias=None, eps=1e-5) -> Node:
    return _norm(interp, "layer_norm", x, shape, (weight, bias), eps)


def rms_norm(interp, x: Node, shape, weight=None, eps=None) -> Node:
    return _norm(interp, "rms_norm", x, shape, (weight,), eps)


def _norm(interp, op: str, x: Node, shape, parameters: tuple, eps) -> Node:
    from porter.analyze.torch_modules import normed_size

    last = x.axes[-1]
    sizes = [normed_size(interp, shape)]
    for parameter in parameters:
        if not (parameter is None or isinstance(parameter, Node)):
            raise interp.gap(f"`{op}` with a weight that can't be followed")
        sizes += [axis_size(a) for a in parameter.axes] if parameter else []
    if not all(interp.must_equal(axis_size(last), size) for size in sizes):
        raise interp.gap(f"`{op}` over another size than its input's")
    forbid_tokens(interp, last, f"`{op}`")
    return interp.node(op, (x, *parameters), x.axes, dtype=x.dtype, eps=eps)


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
