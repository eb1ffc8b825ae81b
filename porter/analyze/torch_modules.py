"""torch.nn's own modules: their constructor arguments and what calling them does."""

from typing import Any

from porter.analyze.graph import Node, axis_size, feature_axis
from porter.analyze.values import Choice, Module, Opaque

_REQUIRED = object()

# Constructor parameters in order, with defaults.
LEAVES: dict[str, dict[str, Any]] = {
    "torch.nn.Linear": {
        "in_features": _REQUIRED,
        "out_features": _REQUIRED,
        "bias": True,
    },
    "torch.nn.Embedding": {
        "num_embeddings": _REQUIRED,
        "embedding_dim": _REQUIRED,
        "padding_idx": None,
    },
    "torch.nn.LayerNorm": {
        "normalized_shape": _REQUIRED,
        "eps": 1e-5,
        "elementwise_affine": True,
        "bias": True,
    },
    "torch.nn.RMSNorm": {
        "normalized_shape": _REQUIRED,
        "eps": None,
        "elementwise_affine": True,
    },
    "torch.nn.Dropout": {"p": 0.5, "inplace": False},
    "torch.nn.Identity": {},
    "torch.nn.ModuleList": {"modules": ()},
    "torch.nn.Sequential": {},
    "torch.nn.SiLU": {},
    "torch.nn.ReLU": {},
    "torch.nn.GELU": {"approximate": "none"},
    "torch.nn.Tanh": {},
    "torch.nn.Sigmoid": {},
    "torch.nn.Softmax": {"dim": _REQUIRED},
    "transformers.pytorch_utils.Conv1D": {"nf": _REQUIRED, "nx": _REQUIRED},
}

# transformers' linear layer whose weight is [in, out]
_CONV1D = "transformers.pytorch_utils.Conv1D"
_ACTIVATIONS = {
    "torch.nn.SiLU": "silu",
    "torch.nn.ReLU": "relu",
    "torch.nn.GELU": "gelu",
    "torch.nn.Tanh": "tanh",
    "torch.nn.Sigmoid": "sigmoid",
}


def is_leaf(name: str) -> bool:
    return name in LEAVES


def bind_leaf(interp, inst: Module, args: list, kwargs: dict) -> None:
    """Bind the constructor arguments of a torch module by name."""
    assert inst.leaf is not None
    spec = LEAVES[inst.leaf]
    if inst.leaf == "torch.nn.Sequential":
        inst.attrs["items"] = list(args)
        for i, item in enumerate(args):
            if isinstance(item, Module):
                item.owner, item.name = inst, str(i)
        return
    kwargs = {
        k: v for k, v in kwargs.items() if k not in ("device", "dtype", "_weight")
    }
    bound = dict(zip(spec, args, strict=False))
    unknown = [k for k in kwargs if k not in spec]
    if unknown or any(a is not None for a in args[len(spec) :]):  # device, dtype
        raise interp.gap(
            f"`{inst.leaf}` is built with {unknown or 'too many arguments'}"
        )
    bound.update(kwargs)
    for name, default in spec.items():
        if name not in bound:
            if default is _REQUIRED:
                raise interp.gap(f"`{inst.leaf}` is built without `{name}`")
            bound[name] = default
    inst.args = bound
    inst.given = set(kwargs) | set(list(spec)[: len(args)])
    if inst.leaf == _CONV1D:
        inst.leaf, inst.transposed = "torch.nn.Linear", True
        sizes = {"in_features": bound["nx"], "out_features": bound["nf"]}
        inst.args = {**sizes, "bias": True}
    if inst.leaf == "torch.nn.ModuleList":
        fill_module_list(interp, inst, bound["modules"])


def fill_module_list(interp, inst: Module, modules) -> None:
    from porter.analyze.sequences import SymList

    if isinstance(modules, SymList):
        element = modules.element
        if isinstance(element, Choice) and isinstance(element.then, Module):
            if isinstance(element.other, Module):  # of two kinds, by the layer
                inst.either = element
                element.other.owner, element.other.name = inst, "*"
                element = element.then
        if not isinstance(element, Module):
            raise interp.gap(
                "a ModuleList whose elements differ by layer isn't followed"
            )
        element.owner, element.name = inst, "*"
        inst.element, inst.count = element, modules.count
        return
    items = list(modules)
    inst.attrs["items"] = items
    for i, item in enumerate(items):
        if isinstance(item, Module):
            item.owner, item.name = inst, str(i)


def call_leaf(interp, inst: Module, args: list, kwargs: dict) -> Any:
    """The operation that calling a torch module is."""
    from porter.analyze.torch_elementwise import activation_op
    from porter.analyze.torch_reductions import softmax

    leaf = inst.leaf
    x = args[0] if args else next(iter(kwargs.values()), None)
    if leaf == "torch.nn.Sequential":
        for item in inst.attrs["items"]:
            x = interp.call(item, [x], {})
        return x
    if isinstance(x, Opaque):
        raise interp.gap(f"`{leaf}` of {x.what}")
    if not isinstance(x, Node):
        raise interp.gap(f"`{leaf}` of something that isn't a tensor")
    if leaf in ("torch.nn.Dropout", "torch.nn.Identity"):
        return x
    if leaf in _ACTIVATIONS:
        return activation_op(
            interp, _ACTIVATIONS[leaf], x, inst.args.get("approximate")
        )
    if leaf == "torch.nn.Linear":
        return linear(interp, inst, x)
    if leaf == "torch.nn.Embedding":
        return embedding(interp, inst, x)
    if leaf == "torch.nn.Softmax":
        return softmax(interp, x, inst.args["dim"])
    if leaf in ("torch.nn.LayerNorm", "torch.nn.RMSNorm"):
        return norm(interp, inst, x)
    raise interp.gap(f"calling `{leaf}` isn't followed")


def linear(interp, inst: Module, x: Node) -> Node:
    last = x.axes[-1]
    if not interp.must_equal(axis_size(last), inst.args["in_features"]):
        raise interp.gap(
            f"a Linear of {inst.args['in_features']} inputs gets {axis_size(last)}",
        )
    interp.forbid_token_axis(last, "a Linear")
    out = feature_axis(inst.args["out_features"])
    return interp.node("linear", (x,), (*x.axes[:-1], out), module=inst)


def embedding(interp, inst: Module, ids: Node) -> Node:
    out = feature_axis(inst.args["embedding_dim"])
    return interp.node("embedding", (ids,), (*ids.axes, out), module=inst)


def normed_size(interp, shape):
    """The size of the one axis that a norm works along."""
    if isinstance(shape, (tuple, list)):
        if len(shape) != 1:
            raise interp.gap("a norm over several axes isn't followed")
        return shape[0]
    return shape


def norm(interp, inst: Module, x: Node) -> Node:
    shape = normed_size(interp, inst.args["normalized_shape"])
    if not interp.must_equal(axis_size(x.axes[-1]), shape):
        raise interp.gap(f"a norm over {shape} gets {axis_size(x.axes[-1])}")
    interp.forbid_token_axis(x.axes[-1], "a norm")
    return interp.node("norm", (x,), x.axes, dtype=x.dtype, module=inst)
