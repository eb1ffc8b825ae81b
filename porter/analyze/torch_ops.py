"""What torch's functions and tensor methods do to values and axes.

One table: a name of torch's -> the function that makes the node. Functions that reduce,
shift, sort or join along the token axes are Gaps by construction.
"""

from typing import Any

from porter.analyze import axes as ax
from porter.analyze import einops, torch_complex
from porter.analyze import positions as pos
from porter.analyze.graph import (
    Node,
    axis_size,
)
from porter.analyze.symbols import constant
from porter.analyze.torch_attention import scaled_dot_product_attention
from porter.analyze.torch_creation import (
    _creation,
    _math,
    fill_,
    item,
    new_filled,
)
from porter.analyze.torch_elementwise import (
    _ALIASES,
    _DTYPES,
    BINARY,
    UNARY,
    _cast_method,
    _unary,
    addcmul,
    binary,
    bitwise,
    clamp,
    comparing,
    dropout,
    gelu,
    leaky_relu,
    logical,
    masked_fill,
    nonzero,
    pow_,
    rsub,
    same_value,
    square,
    to,
    type_as,
    where,
)
from porter.analyze.torch_parts import (
    cat,
    chunk,
    index_select,
    pad,
    split,
    stack,
    unbind,
)
from porter.analyze.torch_products import addmm, baddbmm, einsum, matmul, outer
from porter.analyze.torch_reductions import (
    _MIXERS,
    REDUCTIONS,
    _along,
    _along_features,
    add,
    conv1d,
    layer_norm,
    linear,
    max_along,
    reduce,
    rms_norm,
    softmax,
    sub,
    vector_norm,
)
from porter.analyze.torch_selection import (
    argmax,
    extreme,
    gather,
    one_hot,
    scatter,
    topk,
)
from porter.analyze.torch_shapes import (
    expand,
    expand_as,
    flatten,
    movedim,
    permute,
    repeat,
    repeat_interleave,
    squeeze,
    t,
    transpose,
    tril,
    triu,
    unflatten,
    unsqueeze,
    view,
    view_as,
)
from porter.analyze.values import (
    DEVICE,
    DtypeOf,
    ExternalMethod,
    Opaque,
)


def call(interp, name: str, args: list, kwargs: dict) -> Any:
    """A function of torch: `torch.cat`, `torch.nn.functional.silu`, ..."""
    short = name.rsplit(".", 1)[-1]
    if name in ("einops.rearrange", "einops.einops.rearrange"):
        return einops.rearrange(interp, *args, **kwargs)
    if not name.startswith(("torch.", "math.", "numpy.")):
        return _unknown(interp, name, args, kwargs)
    if name.startswith("math."):
        return _math(interp, short, args)
    made = torch_complex.call(interp, short, args, kwargs)
    if made is not NotImplemented:
        return made
    made = _creation(interp, short, args, kwargs)
    if made is not NotImplemented:
        return made
    if short == "einsum":
        return einsum(interp, *args, **kwargs)
    if name == "numpy.sqrt" and len(args) == 1 and not isinstance(args[0], Node):
        return _math(interp, "sqrt", args)
    if short in ("pow", "mul", "div") and len(args) == 2 and isinstance(args[1], Node):
        return operate(interp, short, args, kwargs, name)
    if (
        args
        and isinstance(args[0], Node)
        or short in ("cat", "stack", "where", "concat", "concatenate", "outer")
    ):
        return operate(interp, short, args, kwargs, name)
    if kwargs and isinstance(next(iter(kwargs.values())), Node):
        first = next(iter(kwargs))
        rest = {k: v for k, v in kwargs.items() if k != first}
        return operate(interp, short, [kwargs[first], *args], rest, name)
    return _unknown(interp, name, args, kwargs)


def method(interp, obj: Node, name: str, args: list, kwargs: dict) -> Any:
    """A method of a tensor."""
    if is_in_place(name):
        interp.refuse_shared(obj)
        name = name[:-1]
    return operate(interp, name, [obj, *args], kwargs, f"Tensor.{name}")


def is_in_place(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_")


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
    if name in ("max", "amax") and len(args) == 1 and not kwargs:
        last = pos.last(x)
        if last is not None:
            return last
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


_TABLE: dict[str, Any] = {
    "gelu": gelu, "leaky_relu": leaky_relu, "clamp": clamp, "clip": clamp, "where": where,
    "masked_fill": masked_fill, "pow": pow_, "square": square, "rsub": rsub,
    "addcmul": addcmul, "to": to, "type": to, "type_as": type_as,
    "contiguous": same_value, "clone": same_value, "detach": same_value,
    "dropout": dropout, "view": view, "reshape": view, "view_as": view_as,
    "reshape_as": view_as, "transpose": transpose,
    "swapaxes": transpose, "t": t, "permute": permute, "unsqueeze": unsqueeze,
    "squeeze": squeeze, "flatten": flatten, "unflatten": unflatten, "expand": expand,
    "expand_as": expand_as, "broadcast_to": expand, "repeat": repeat,
    "repeat_interleave": repeat_interleave,
    "movedim": movedim, "chunk": chunk, "split": split, "unbind": unbind, "cat": cat,
    "concat": cat, "concatenate": cat, "stack": stack, "pad": pad, "matmul": matmul,
    "bmm": matmul, "baddbmm": baddbmm, "addmm": addmm, "linear": linear, "softmax": softmax,
    "conv1d": conv1d, "size": size, "dim": dim, "numel": numel, "item": item,
    "cpu": same_value, "cuda": same_value, "tensor_split": chunk, "tril": tril,
    "triu": triu, "fill": fill_, "outer": outer, "ger": outer,
    "new_zeros": new_filled("zeros"), "new_ones": new_filled("ones"),
    "new_full": new_filled("full"), "new_empty": new_filled("empty"),
    "logical_not": logical("invert"),
    "logical_and": logical("bitand"), "logical_or": logical("bitor"),
    "logical_xor": logical("xor"), "bitwise_not": bitwise("invert"),
    "bitwise_and": bitwise("bitand"), "bitwise_or": bitwise("bitor"),
    "bitwise_xor": bitwise("xor"), "topk": topk, "gather": gather, "scatter": scatter,
    "index_select": index_select,
    "one_hot": one_hot, "max": max_along, "min": extreme("min"), "argmax": argmax,
    "nonzero": nonzero,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}  # fmt: skip
for _names, _op in (
    (("eq",), "eq"), (("ne", "not_equal"), "ne"), (("lt", "less"), "lt"),
    (("le", "less_equal"), "le"), (("gt", "greater"), "gt"),
    (("ge", "greater_equal"), "ge"),
):  # fmt: skip
    _TABLE |= dict.fromkeys(_names, comparing(_op))
_TABLE |= {
    "roll": _along_features("roll", "shifts", "dims"),
    "flip": _along_features("flip", "dims"),
    "cumsum": _along_features("cumsum", "dim"),
    "log_softmax": _along_features("log_softmax", "dim"),
    "normalize": _along_features("normalize", "p", "dim", "eps"),
    "add": add,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "norm": vector_norm,
    "sub": sub,
}
for _name, _tag in _DTYPES.items():
    if _name in ("float", "half", "bfloat16", "double", "long", "int", "bool"):
        _TABLE[_name] = _cast_method(_tag)
