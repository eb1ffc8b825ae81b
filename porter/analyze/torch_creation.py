"""Tensors made from nothing: filled, ranges, constants, parameters."""

from porter.analyze import positions as pos
from porter.analyze.graph import (
    Axes,
    Axis,
    Node,
    axis_size,
    feature_axis,
    has_role,
    pairs_tokens,
    sized_axis,
)
from porter.analyze.own_products import own_bias
from porter.analyze.symbols import BATCH, SEQ, Sym, arith, constant, is_symbolic, same
from porter.analyze.torch_elementwise import cast, dtype_tag
from porter.analyze.values import (
    DEVICE,
    Dtype,
    Finfo,
    Module,
    is_scalar,
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
        if module.transposed:
            axes = axes[::-1]
        if name == "bias":
            axes = (feature_axis(args["out_features"]),)
            made = interp.node("leaf_parameter", (), axes, module=module, name=name)
            return own_bias(interp, module, made)
    elif module.leaf == "torch.nn.Embedding":
        axes = (
            feature_axis(args["num_embeddings"]),
            feature_axis(args["embedding_dim"]),
        )
    else:
        if args["elementwise_affine"] is False:
            return None
        if name == "bias" and args.get("bias") is not True:
            raise interp.gap("a bias that the config decides isn't followed here")
        shape = args["normalized_shape"]
        one = isinstance(shape, (tuple, list)) and len(shape) == 1
        axes = (feature_axis(shape[0] if one else shape),)
    return interp.node("leaf_parameter", (), axes, module=module, name=name)


def _creation(interp, short: str, args: list, kwargs: dict):
    if short in ("ones", "zeros", "full", "empty"):
        return _filled(interp, short, args, kwargs)
    if short == "arange":
        return arange(interp, *args, **kwargs)
    if short in ("tensor", "as_tensor", "scalar_tensor") and args:
        if is_scalar(args[0]):
            made = interp.node("constant", (args[0],), ())
            dtype = kwargs.get("dtype")
            if dtype is None or isinstance(
                dtype_tag(interp, dtype)[0], (Node, type(None))
            ):
                return made
            return cast(interp, made, dtype)
    if short == "Size":
        return tuple(args[0])
    if short == "finfo":
        return Finfo()
    if short in _LIKE and args and isinstance(args[0], Node):
        return _fill_like(interp, short, *args, **kwargs)
    if short in _RANDOM:
        return _random(interp, short, args, kwargs)
    if short in ("Parameter", "Buffer"):
        return args[0]
    if short in (
        "is_grad_enabled",
        "is_tracing",
        "is_autocast_enabled",
        "is_compiling",
        "is_available",
    ):
        return False
    if short == "device":
        return DEVICE
    if short == "get_default_dtype":
        return Dtype("activations")
    return NotImplemented


_RANDOM = ("rand", "randn", "normal")


def _random(interp, short: str, args: list, kwargs: dict) -> Node:
    """What a parameter is filled with before the checkpoint gives it its value."""
    size = kwargs.get("size")
    if size is None:
        size = args[2:] if short == "normal" else args
        size = size[0] if len(size) == 1 else size
    scalars = all(is_scalar(a) for a in args[:2])
    if interp.frame is not None or not size or (short == "normal" and not scalars):
        raise interp.gap(
            "random numbers are more than a parameter's first value",
            "a port computes the same each time",
        )
    sizes = size if isinstance(size, (tuple, list)) else [size]
    return interp.node("random", (), tuple(_axis(s) for s in sizes), unique=object())


_LIKE = {"ones_like": 1.0, "zeros_like": 0.0, "empty_like": 0.0, "full_like": None}


def _fill_like(interp, short: str, x: Node, fill_value=None, dtype=None, **kwargs):
    value = fill_value if short == "full_like" else _LIKE[short]
    if not is_scalar(value) or set(kwargs) - {"device", "requires_grad"}:
        raise interp.gap(f"`{short}` with arguments that can't be followed")
    tag = dtype_tag(interp, dtype)[0] if dtype is not None else x.dtype
    if pairs_tokens(x.axes) or not any(has_role(a, "batch", "seq") for a in x.axes):
        return interp.node("fill", (value,), x.axes, dtype=tag, init=short)
    return interp.node("fill_like", (x, value), x.axes, dtype=tag, init=short)


def new_filled(short: str):
    """x.new_zeros(sizes) and its like: of x's dtype."""

    def fn(interp, x: Node, *args, dtype=None, device=None, **kwargs):
        made = _filled(interp, short, list(args), kwargs)
        if made.op == "fill":
            made.dtype = x.dtype
        return made if dtype is None else cast(interp, made, dtype)

    return fn


def is_zero(x: Node) -> bool:
    """Whether a tensor was made as nothing but zeros."""
    if x.op == "fill":
        return constant(x.args[0]) == 0
    return x.op == "fill_like" and constant(x.args[1]) == 0


def _filled(interp, short: str, args: list, kwargs: dict):
    values = list(args)
    fill = {"ones": 1.0, "zeros": 0.0, "empty": 0.0}.get(short)
    if short == "full":
        fill = kwargs.get("fill_value", values.pop() if len(values) > 1 else None)
    sizes = kwargs.get("size", values[0] if len(values) == 1 else values)
    sizes = list(sizes) if isinstance(sizes, (tuple, list)) else [sizes]
    if pos.is_full_length(sizes) and fill == 1.0:
        return pos.ones(interp)
    axes = tuple(_axis(s) for s in sizes)
    dtype = kwargs.get("dtype")
    tag = dtype_tag(interp, dtype)[0] if dtype is not None else None
    if tag == "bool" and constant(fill) is not None:
        fill = bool(fill)
    return interp.node("fill", (fill,), axes, dtype=tag, init=short)


def _axis(size) -> Axis:
    if same(size, arith("mul", BATCH, SEQ)):
        return (*sized_axis(BATCH), *sized_axis(SEQ))
    return sized_axis(size)


def fill_(interp, x: Node, value) -> Node:
    return interp.node("fill", (value,), x.axes, dtype=x.dtype)


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
    return interp.node("arange", (start, stop, step), (sized_axis(length),), dtype=tag)


def _math(interp, short: str, args: list):
    import math

    if short in ("pi", "inf", "e"):
        return getattr(math, short)
    number = constant(args[0])
    if short == "sqrt":
        return math.sqrt(number) if number is not None else arith("pow", args[0], 0.5)
    if number is not None and not any(map(is_symbolic, args)):
        return getattr(math, short)(*args)
    return Sym("call", (f"math.{short}", *args))


def fill_item(interp, x: Node, index, value) -> Node:
    """x[i] = value of a table under construction, as a value of its own."""
    items = list(index) if isinstance(index, tuple) else [index]
    rest = [i for i in items[1:] if i != slice(None)]
    if isinstance(value, Node) and _covers(x, items) and value.dtype == x.dtype:
        sizes = [[axis_size(a) for a in t.axes] for t in (x, value)]
        if same(*sizes):
            return value
    if interp.under_construction and all(isinstance(i, slice) for i in items):
        from porter.analyze.torch_parts import put

        return put(interp, x, index, value)
    known = is_scalar(items[0]) and is_scalar(value) and value is not None
    if not interp.under_construction or rest or not known or isinstance(items[0], bool):
        raise interp.gap("a tensor is written to in place by index")
    return interp.node("index_fill", (x, items[0], value), x.axes, dtype=x.dtype)


def _covers(x: Node, items: list) -> bool:
    """Whether x[items] = value writes all of x: slices from the start to the end."""
    if len(items) > len(x.axes) or any(not isinstance(i, slice) for i in items):
        return False
    return all(
        same(0 if i.start is None else i.start, 0)
        and i.step in (None, 1)
        and (i.stop is None or same(i.stop, axis_size(axis)))
        for i, axis in zip(items, x.axes, strict=False)
    )


def item(interp, x: Node):
    if x.op == "constant":
        return x.args[0]
    raise interp.gap("`.item()` of a tensor")
