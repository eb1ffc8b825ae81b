"""The first step: a forward that isn't handed a cache computes what later steps do.

A port has one forward for every step, and `analyze` follows the source's with the cache
that the steps before have filled. The prompt's step may come without one: the source is
followed again so, and the same operations must come out, with nothing past.
"""

from typing import Any

from porter.analyze import positions
from porter.analyze.graph import Frame, Loop, Node, axis_size, iter_nodes, walk
from porter.analyze.symbols import Sym, key, unwrap
from porter.analyze.values import Cache, Function, Module, is_scalar
from porter.gap import Gap, Refused
from porter.release import library_of, release_of

# The names under which transformers' generation hands the cache of the last step over;
# it is `cache` since 5.24, when code of earlier releases still takes the old name.
_CACHE_ARGUMENTS = ("cache", "past_key_values")
_RENAMED = (5, 24)
# And the name of the mask of ones, one for each token so far, as none is padded.
MASK_ARGUMENT = "attention_mask"


def accepts(forward: Function) -> set[str]:
    """The names of the arguments of a forward."""
    return {a.arg for a in (*forward.node.args.args, *forward.node.args.kwonlyargs)}


def cache_argument(interp, forward: Function) -> str | None:
    """The argument of forward that takes the cache, if any."""
    renamed = release_of(library_of(interp.file.path)) >= _RENAMED
    names = _CACHE_ARGUMENTS if renamed else _CACHE_ARGUMENTS[1:]
    return next((name for name in names if name in accepts(forward)), None)


def arguments_of_a_step(
    interp, forward: Function, input_ids: Node, masked: bool = False
) -> dict[str, Any]:
    """What generation hands to forward in any step: tokens, and the cache so far.

    masked: and the mask, which most models don't need.
    """
    accepted = accepts(forward)
    given: dict[str, Any] = {"input_ids": input_ids}
    if "use_cache" in accepted:  # as in generation; the default comes from the config
        given["use_cache"] = True
    if (name := cache_argument(interp, forward)) is not None:
        given[name] = Cache()
    if masked and MASK_ARGUMENT in accepted:
        given[MASK_ARGUMENT] = positions.ones(interp)
    return given


def check_first_step(
    interp, root: Module, forward: Function, given: dict[str, Any], later: Node
) -> None:
    """Raise Refused where a step without a cache isn't the step with one.

    given: the arguments of a later step; later: its logits. Does nothing where forward
    takes no cache.
    """
    taken = cache_argument(interp, forward)
    if taken not in given:
        return
    frames = list(interp.frames)
    without = {k: v for k, v in given.items() if k != taken}
    for module, name, value in reversed(interp.written):
        module.attrs[name] = value  # each step is followed from what was built
    interp.first_step, interp.given_cache = True, None
    try:
        first = logits_of(interp.call_in_frame(root, forward, [], without))
    finally:
        interp.first_step, interp.given_cache = False, given[taken]
        interp.frames[:] = frames
    place = difference(first, later) if isinstance(first, Node) else later
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
    left, right = _operations(a), _operations(b)
    form_a, form_b = _Form(left), _Form(right)
    for one, other in zip(left, right, strict=False):
        if form_a.of(one) != form_b.of(other):
            return other
    return None if len(left) == len(right) else b


def _operations(logits: Node) -> list[Node]:
    return [node for node in walk([logits]) if not counts_tokens(node)]


def counts_tokens(node: Node) -> bool:
    """Positions: where nothing is past they may be counted from 0."""
    while node.op == "rearrange" and isinstance(node.args[0], Node):
        node = node.args[0].final
    return node.op in ("positions", "seq_index")


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
            if counts_tokens(value.final):
                roles = (tuple(f.role for f in axis) for axis in value.final.axes)
                return "positions", tuple(roles)
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
