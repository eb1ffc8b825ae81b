"""The second step: a forward that is handed the cache computes what the first one did.

`analyze` follows forward as it is called first, without a cache. A port has one forward
for every step, so the source is followed again with the cache of the step before: the
same operations must come out, on that very cache.
"""

from typing import Any

from porter.analyze.graph import Frame, Loop, Node, axis_size, iter_nodes, walk
from porter.analyze.symbols import Sym, key, unwrap
from porter.analyze.values import Cache, Function, Module, is_scalar
from porter.gap import Gap, Refused

# The names under which transformers' generation hands the cache of the last step over.
CACHE_ARGUMENTS = ("past_key_values", "past_key_value", "layer_past")


def check_later_step(
    interp, root: Module, forward: Function, given: dict[str, Any], first: Node
) -> None:
    """Raise Refused where a step with a cache isn't the step without one.

    given: the arguments of the first step; first: the logits of it. Does nothing where
    forward takes no cache.
    """
    arguments = (*forward.node.args.args, *forward.node.args.kwonlyargs)
    names = {a.arg for a in arguments} & set(CACHE_ARGUMENTS)
    if not names:
        return
    frames = list(interp.frames)
    interp.given_cache = Cache()
    try:
        handed = {name: interp.given_cache for name in names}
        result = interp.call_in_frame(root, forward, [], {**given, **handed})
    finally:
        interp.given_cache = None
        interp.frames[:] = frames
    second = logits_of(result)
    if isinstance(second, Node):
        place = difference(first, second)
    else:
        place = first
    if place is not None:
        raise Refused(
            [
                Gap(
                    place.span.file,
                    place.span.line,
                    "a step with a cache computes something else than the first",
                    "vLLM runs one forward for the prompt and for every later token",
                )
            ]
        )


def logits_of(result: Any) -> Any:
    """The logits in what a ForCausalLM's forward returns, whatever else is in it."""
    logits = result.fields.get("logits") if hasattr(result, "fields") else result
    return logits[0] if isinstance(logits, tuple) else logits


def difference(a: Node, b: Node) -> Node | None:
    """The first operation of `b` that isn't the one in its place in `a`."""
    left, right = walk([a]), walk([b])
    form_a, form_b = _Form(left), _Form(right)
    for one, other in zip(left, right, strict=False):
        if form_a.of(one) != form_b.of(other):
            return other
    return None if len(left) == len(right) else b


class _Form:
    """Operations in terms of the numbers of those before: equal for equal graphs."""

    def __init__(self, nodes: list[Node]):
        self.numbers = {node.id: i for i, node in enumerate(nodes)}
        self.loops: dict[int, int] = {}
        self.factors: dict[int, int] = {}  # those of the operands come first

    def of(self, node: Node) -> tuple:
        attrs = tuple((k, self._attr(k, v)) for k, v in sorted(node.attrs.items()))
        sizes = tuple(key(axis_size(axis)) for axis in node.axes)
        leaves = [leaf for axis in node.axes for f in axis for leaf in f.leaves()]
        axes = tuple(self._factor(id(leaf)) for leaf in leaves)
        dtype = self._value(node.dtype)
        return node.op, self._value(node.args), attrs, sizes, axes, dtype

    def _factor(self, identity: int) -> int:
        return self.factors.setdefault(identity, len(self.factors))

    def _attr(self, name: str, value: Any) -> Any:
        if name == "layout":  # identities of factors, see `Printer`
            return tuple(tuple(self._factor(f) for f in axis) for axis in value)
        return self._value(value)

    def _value(self, value: Any) -> Any:
        if isinstance(value, Node):
            return "node", self.numbers.get(value.final.id)
        if isinstance(value, Loop):
            return "loop", self.loops.setdefault(id(value), len(self.loops))
        if isinstance(value, (tuple, list)):
            return tuple(self._value(item) for item in value)
        if isinstance(value, dict):
            return tuple((k, self._value(v)) for k, v in value.items())
        if isinstance(value, Sym) and any(True for _ in iter_nodes(value)):
            inner = unwrap(value)
            return inner.op, tuple(self._value(item) for item in inner.args)
        if is_scalar(value):
            return key(value)
        if isinstance(value, (Module, Frame)):
            return "module", id(getattr(value, "inst", value))
        return type(value).__name__
