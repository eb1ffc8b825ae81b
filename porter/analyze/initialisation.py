"""What transformers' `_init_weights` leaves in buffers.

A model's `post_init` runs `_init_weights` over its modules. What that puts into parameters
is replaced by the checkpoint's, but a buffer that isn't stored has the value that it was
given last: there, not in the constructor.
"""

import ast
from typing import Any

from porter.analyze.graph import Node, walk
from porter.analyze.values import Function, Module

_FILLS = {"zeros_": 0.0, "ones_": 1.0, "zero_": 0.0}


def initialise_buffers(interp, root: Module) -> None:
    """Follow `_init_weights` for each module whose buffers it names."""
    found = interp.find_method(root, "_init_weights")
    if not isinstance(found, Function):
        return
    named = {n.attr for n in ast.walk(found.node) if isinstance(n, ast.Attribute)}
    for module in _below(root):
        held = {
            name
            for name, value in module.attrs.items()
            if isinstance(value, Node) and value.op == "buffer"
        }
        if held & named and module.cls is not None:
            interp.under_construction.append(module)
            interp.initialising = True
            try:
                interp.call_function(found, [module], {}, root)
            finally:
                interp.initialising = False
                interp.under_construction.pop()


def without_init(interp, args: list, kwargs: dict) -> Module:
    """torch.nn.utils.skip_init(cls, ...): cls(...) whose tensors hold what memory held."""
    module = interp.call(args[0], args[1:], kwargs)
    for each in _below(module):
        for name, value in each.attrs.items():
            if isinstance(value, Node) and value.op == "buffer":
                if not value.attrs["persistent"]:
                    raise interp.gap(
                        f"`{name}` is in no checkpoint, and `skip_init` leaves it unset",
                        "make the module that holds it by calling its class",
                    )
    return module


def _below(root: Module):
    seen: set[int] = set()
    stack: list[Any] = [root]
    while stack:
        module = stack.pop()
        if not isinstance(module, Module) or id(module) in seen:
            continue
        seen.add(id(module))
        yield module
        stack.extend(v for v in module.attrs.values() if isinstance(v, Module))
        stack.append(module.element)


def initialise(interp, name: str, args: list, kwargs: dict) -> None:
    """A function of transformers.initialization (or torch.nn.init) on a tensor."""
    target = args[0] if args else next(iter(kwargs.values()), None)
    if not isinstance(target, Node) or target.op != "buffer":
        return  # a parameter: the checkpoint has its value
    if any(n is target for n in walk([a for a in args[1:] if isinstance(a, Node)])):
        raise interp.gap("a buffer is filled from itself")
    if name == "copy_" and isinstance(args[1], Node):
        target.args, target.axes = (args[1],), args[1].axes
    elif name in _FILLS:
        filled = interp.node("fill", (_FILLS[name],), target.axes, dtype=target.dtype)
        target.args = (filled,)
    elif name in ("constant_", "fill_") and not target.axes:
        target.args = (interp.node("constant", (args[1],), ()),)
    elif name in ("constant_", "fill_"):
        filled = interp.node("fill", (args[1],), target.axes, dtype=target.dtype)
        target.args = (filled,)
    else:
        raise interp.gap(f"a buffer is filled by `{name}`")
