"""A module's forward as a graph, where one run with stand-ins says all of it."""

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from porter.runtime.distributed import (
    tensor_model_parallel_all_gather,
    tensor_model_parallel_all_reduce,
)
from porter.runtime.layers.layernorm import GemmaRMSNorm, RMSNorm
from porter.runtime.layers.linear import LinearBase
from porter.runtime.straight_code import is_straight

# Single nodes of a trace, as layers are.
_COLLECTIVES = (tensor_model_parallel_all_gather, tensor_model_parallel_all_reduce)


def trace(module: nn.Module) -> fx.GraphModule | None:
    """The forward as a graph that writes over no tensor; None where it isn't one.

    Our layers and torch's are single nodes of it, the port's own modules are looked into.
    """
    if not is_straight(module, _COLLECTIVES):
        return None
    try:
        traced = fx.GraphModule(module, _Tracer().trace(module))
    except Exception:  # whatever stops torch.fx, the port's own forward is right
        return None
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if any(str(node.target).startswith("*") for node in inputs):
        return None
    return None if any(_writes(traced, node) for node in traced.graph.nodes) else traced


def called_module(traced: fx.GraphModule, node: Any) -> Any:
    """The module that the node calls, or None."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    return traced.get_submodule(str(node.target))


class _Tracer(fx.Tracer):
    """Into the port's own modules; our layers and torch's are single nodes."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=_COLLECTIVES)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.partition(".")[0] in ("porter", "torch")

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if not self.is_leaf_module(m, "") and not is_straight(m, _COLLECTIVES):
            raise NotImplementedError("the forward of a module inside isn't straight")
        made = super().call_module(m, forward, args, kwargs)
        if isinstance(m, LinearBase) and m.return_bias and not m.skip_bias_add:
            return made[0], None  # the port may ask whether there is a bias to add
        return made


def _writes(traced: fx.GraphModule, node: fx.Node) -> bool:
    called = called_module(traced, node)
    if isinstance(called, RMSNorm | GemmaRMSNorm):
        return len(node.args) + len(node.kwargs) > 1  # the sum with a residual
    if called is not None:
        return bool(getattr(called, "inplace", False))
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function":
        name = getattr(node.target, "__name__", "_")
    else:
        return False
    code = getattr(node.target, "__code__", None)
    may = "inplace" in code.co_varnames if code else False
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or may or "out" in node.kwargs
