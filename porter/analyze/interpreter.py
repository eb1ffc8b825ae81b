"""The abstract interpreter: runs a model's constructors and forward on symbols and axes.

It follows the calls through the module tree as Python would, with the config's fields
left symbolic. What depends on a field is kept as a choice; what the code decides without
it is folded. Whatever it can't follow is a Gap with the line.
"""

import ast
from contextlib import ExitStack, contextmanager
from typing import Any

from porter.analyze import axes as ax
from porter.analyze import hf_api
from porter.analyze.as_built import as_built
from porter.analyze.attributes import Attributes
from porter.analyze.cached_layers import CachedLayers
from porter.analyze.calls import Calls
from porter.analyze.equal_sizes import SizeFacts
from porter.analyze.expert_loops import ExpertLoops
from porter.analyze.expressions import Names
from porter.analyze.families import Families
from porter.analyze.folding import Folding
from porter.analyze.graph import (
    Frame,
    Loop,
    Node,
    Span,
    apart,
    has_role,
    iter_nodes,
    pairs_tokens,
)
from porter.analyze.in_place import InPlace
from porter.analyze.legacy_cache import FIRST, Record, joined
from porter.analyze.operators import Operators
from porter.analyze.own_products import whole_layer
from porter.analyze.rope_widths import mark_rope_widths
from porter.analyze.settling import beyond_length
from porter.analyze.shared_states import SharedStates, is_left
from porter.analyze.statements import Statements
from porter.analyze.subscripts import Subscripts
from porter.analyze.symbols import (
    PAST,
    Sym,
    are_tokens,
    contains,
    key,
    negate,
    poly,
    same,
    unwrap,
)
from porter.analyze.token_axes import forbid_tokens
from porter.analyze.torch_modules import bind_leaf, call_leaf, is_leaf
from porter.analyze.values import (
    MISSING,
    Bound,
    Cache,
    Choice,
    Class,
    Config,
    External,
    Function,
    Module,
    Opaque,
    Output,
    is_scalar,
)
from porter.gap import Gap, Refused
from porter.source import SourceFile, SourceSet

# Whose decorators change nothing of what is computed: caching, documentation, loading.
_DECORATORS_OF = {
    "abc", "builtins", "collections", "contextlib", "dataclasses", "functools",
    "huggingface_hub", "kernels", "torch", "transformers", "typing", "typing_extensions",
}  # fmt: skip


class Env:
    """Local names of one call. inst and cls: what `self` and `super()` mean in it; node:
    the function; now: the statement that is run; defaults: (parameter, the list or
    dictionary that it is unless given, how much that holds)."""

    def __init__(self, file: SourceFile, inst=None, cls=None, outer=None):
        self.file, self.inst, self.cls, self.outer = file, inst, cls, outer
        self.vars: dict[str, Any] = {}
        self.node: ast.AST | None = None
        self.now: ast.stmt | None = None
        self.defaults: list[tuple[str, Any, int]] = []


class Interpreter(
    Names,
    Attributes,
    Operators,
    Subscripts,
    Calls,
    InPlace,
    Statements,
    Families,
    ExpertLoops,
    CachedLayers,
    SharedStates,
):
    def __init__(self, sources: SourceSet, file: SourceFile, config: Config):
        self.sources, self.config = sources, config
        self.file = file
        self.assumed: dict[Any, bool] = {}
        self.conditions: tuple[tuple[Any, bool], ...] = ()  # those assumed here
        self.sizes = SizeFacts()
        self.folding: Folding | None = None
        self.first_step = False  # nothing is cached yet, see first_step
        self.given_cache: Cache | None = None  # of the steps before
        self.config_values: dict[Any, Any] = {}  # fields that the source has written
        self.written: list[tuple[Any, str, Any]] = []  # by a forward: what was there
        self.initialising = False  # in _init_weights
        self.cacheless = False  # the model reads all tokens anew at every step
        self.settled: dict[Any, bool] = {}  # branches of which one side is kept
        # bounds on max_model_len, each with the conditions under which it counts
        self.most_tokens: list[tuple[Any, Any]] = []
        self.frame: Frame | None = None
        self.loop: Loop | None = None
        self.experts = None
        self.cache_indices: dict[Any, Any] = {}
        self.depth = 0
        self.line = 0
        self.end_line = 0
        self.cse: dict[Any, Node] = {}
        self.under_construction: list[Module] = []
        self.assumptions: list[tuple[str, Any]] = []
        self.frames: list[Frame] = []
        self.scopes: list[Env] = []
        self.modules: list[Module] = []
        self.past = Record()
        self.caches = 0  # times that one of transformers' cache classes is used
        self.each_loops: list[Any] = []
        self.cache_asked: list[Any] = []  # conditions under which a cache is empty
        self.cache_written: list[Any] = []  # and those under which one is written
        self.refused: list[Any] = []  # conditions on the config that a port refuses
        self.specialisers: dict[Any, Any] = {}

    # -- places and refusals

    def span(self) -> Span:
        return Span(self.file.shown, self.line, self.end_line)

    def gap(self, what: str, advice: str = "") -> Refused:
        return Refused([Gap(self.file.shown, self.line, what, advice)])

    @contextmanager
    def at(self, node: ast.AST):
        saved = self.line, self.end_line
        self.line = getattr(node, "lineno", self.line)
        self.end_line = getattr(node, "end_lineno", self.line) or self.line
        try:
            yield
        finally:
            self.line, self.end_line = saved

    # -- nodes

    def node(self, op: str, args: tuple, axes, dtype=None, **attrs) -> Node:
        """A new operation; the same one made twice in one call is one node."""
        for arg in args:
            self._reject_unknown(arg, op)
        if self.frame is None:
            args = tuple(as_built(op, a) for a in args)
        building = self.under_construction[-1] if self.under_construction else None
        frame_key = id(self.frame), id(self.loop), id(building)
        parts = tuple(_arg_key(a) for a in (*args, *attrs.values()))
        sizes = (
            ()
            if parts and any(isinstance(a, Node) for a in args)
            else tuple(key(ax.axis_size(a)) for a in axes)
        )
        identity = (op, frame_key, parts, tuple(attrs), _dtype_key(dtype), sizes)
        found = self.cse.get(identity)
        if found is not None:
            return found
        made = Node(op, args, attrs, tuple(axes), self.frame, self.span(), self.loop)
        made.dtype = dtype
        self.cse[identity] = made
        return made

    def _reject_unknown(self, arg, op: str) -> None:
        if isinstance(arg, Opaque):
            raise self.gap(f"`{op}` of a value that can't be followed: {arg.what}")
        if isinstance(arg, (tuple, list)):
            for item in arg:
                self._reject_unknown(item, op)

    def elementwise(self, op: str, *args, dtype=None, **attrs) -> Node:
        tensors = [a for a in args if isinstance(a, Node)]
        if any(isinstance(a, Sym) and contains(a, "runtime") for a in args):
            if not any(pairs_tokens(t.axes) for t in tensors):
                raise self.gap(
                    "the number of tokens is used as a value",
                    "vLLM batches tokens of several sequences",
                )
        known = len(self.sizes.checked)
        try:
            axes = apart(ax.broadcast([t.axes for t in tensors], self.must_equal))
        except ax.AxisError as error:
            raise self.gap(f"`{op}`: {error}") from error
        mark_rope_widths(self.sizes.checked, known, tensors)
        tag = dtype if dtype is not None else promote(tensors)
        return self.node(op, args, axes, dtype=tag, **attrs)

    def must_equal(self, a, b) -> bool:
        """Two sizes meet in an operation that fails unless they are equal."""
        return self.sizes.require(a, b, self.conditions, self.span())

    def forbid_token_axis(self, axis, what: str) -> None:
        forbid_tokens(self, axis, what)

    # -- conditions

    def decide(self, cond) -> Any:
        """True or False where known here, else the condition."""
        cond = unwrap(cond)
        if not isinstance(cond, Sym):
            return bool(cond) if not isinstance(cond, Node) else cond
        if cond.op == "not":
            inner = self.decide(cond.args[0])
            return (not inner) if isinstance(inner, bool) else negate(inner)
        known = self.assumed.get(cond.key, self.settled.get(cond.key))
        if known is None and self.folding is not None:
            known = self.folding.decide(cond)
        if known is not None:
            return known
        if cond.op == "cached":
            return self.decide_cached(cond)
        if cond.op in ("and", "or"):
            short = cond.op == "or"
            rest: list[Any] = []
            with ExitStack() as behind:
                for part in cond.args:
                    verdict = self.decide(part)
                    if verdict is short:
                        return short
                    if not isinstance(verdict, bool):
                        rest.append(verdict)
                        behind.enter_context(self.assuming(verdict, not short))
            if not rest:
                return not short
            if len(rest) > 1 and self._excludes_itself(rest, short):
                return short
            return rest[0] if len(rest) == 1 else Sym(cond.op, tuple(rest))
        if cond.op == "lt" and same(cond.args[0], 0) and _counts_past(cond.args[1]):
            later = self.decide(FIRST)
            return (not later) if isinstance(later, bool) else negate(later)
        if cond.op == "eq" and same(cond.args[1], 0) and are_tokens(cond.args[0]):
            return False
        verdict = beyond_length(self, cond)
        return cond if verdict is None else verdict

    def _excludes_itself(self, parts: list, short: bool) -> bool:
        """Whether a part of an `and` is false where all the others hold (short False), as
        in `not (a and b) and a and b`; of an `or`, true where none of the others does."""
        for i, part in enumerate(parts):
            with ExitStack() as others:
                for other in (*parts[:i], *parts[i + 1 :]):
                    others.enter_context(self.assuming(other, not short))
                if self.decide(part) is short:
                    return True
        return False

    def refuse_where(self, cond) -> bool:
        """Give up the configs of which cond holds: a port stops for them at load."""
        if any(contains(cond, op) for op in ("layer", "each", "runtime", "node_value")):
            return False
        if not any(same(cond, known) for known in self.refused):
            self.refused.append(cond)
        return True

    @contextmanager
    def assuming(self, cond, holds: bool):
        saved = dict(self.assumed), self.conditions
        self._assume(cond, holds)
        self.conditions += ((unwrap(cond), holds),)
        try:
            yield
        finally:
            self.assumed, self.conditions = saved

    def _assume(self, cond, holds: bool) -> None:
        cond = unwrap(cond)
        if isinstance(cond, Sym) and cond.op == "not":
            self._assume(cond.args[0], not holds)
        elif isinstance(cond, Sym):
            self.assumed[cond.key] = holds
            if cond.op == ("and" if holds else "or"):
                for part in cond.args:
                    self._assume(part, holds)

    def resolve(self, value):
        """A choice whose condition is known here is the side it takes."""
        inner = unwrap(value)
        if isinstance(inner, Choice):
            verdict = self.decide(inner.cond)
            if isinstance(verdict, bool):
                return self.resolve(inner.then if verdict else inner.other)
        elif isinstance(inner, Sym) and inner.op == "ifexp" and self.assumed:
            verdict = self.decide(inner.args[0])
            if isinstance(verdict, bool):
                return self.resolve(inner.args[1] if verdict else inner.args[2])
        elif isinstance(inner, Node) and inner.op == "phi" and self.assumed:
            verdict = self.decide(inner.args[0])
            if isinstance(verdict, bool):
                return self.resolve(inner.args[1] if verdict else inner.args[2])
        return value

    def join(self, cond, a, b):
        """`a` where cond holds, else `b`."""
        if isinstance(a, Choice) and same(a.cond, cond):
            a = a.then
        if isinstance(b, Choice) and same(b.cond, cond):
            b = b.other
        if _unchanged(a, b):
            return a
        if key(negate(cond)) == FIRST.key:
            cond, a, b = FIRST, b, a
        if key(cond) == FIRST.key:
            one = joined(a, b)
            if one is not None:
                return one
        inner = unwrap(cond)
        if isinstance(inner, Sym) and inner.op == "not":
            inner, first, second = unwrap(inner.args[0]), b, a
        else:
            first, second = a, b
        if is_scalar(a) and is_scalar(b) and isinstance(inner, Sym):
            if inner.op == "eq" and {key(first), key(second)} == set(
                map(key, inner.args)
            ):
                return second  # `x if x != c else c` is x
        if contains(cond, "runtime") and not (_only_pairs(a) and _only_pairs(b)):
            raise self.gap(
                "a branch depends on the number of tokens",
                "vLLM batches tokens of several sequences",
            )
        if contains(cond, "dtype_is"):
            if any(True for _ in iter_nodes((a, b))):
                return self._join_dtypes(cond, a, b)
            if is_scalar(a) and is_scalar(b):
                raise self.gap("a value depends on the dtype of the activations")
        if isinstance(a, Node) and isinstance(b, Node):
            if not contains(cond, "runtime") and _sink_apart(a, b):
                return Choice(cond, a, b)
            return self._join_nodes(cond, a, b)
        if is_scalar(a) and is_scalar(b):
            return Sym("ifexp", (cond, a, b))
        if type(a) is type(b):
            if isinstance(a, (tuple, list)) and len(a) == len(b):
                items = [self.join(cond, x, y) for x, y in zip(a, b, strict=True)]
                return type(a)(items)
            if isinstance(a, dict):
                keys = [*a, *(k for k in b if k not in a)]
                return {
                    k: self.join(cond, a.get(k, MISSING), b.get(k, MISSING))
                    for k in keys
                }
            if isinstance(a, Output):
                properties = a.properties | b.properties
                return Output(self.join(cond, a.fields, b.fields), properties)
            if isinstance(a, (Cache, Config, External)) and a == b:
                return a
            if isinstance(a, Cache):
                return a
        if isinstance(a, Bound) and isinstance(b, Bound) and a.function is b.function:
            return a
        return Choice(cond, a, b)

    def _join_dtypes(self, cond, a, b):
        """Sides of a branch on the activations' dtype: equal but for a cast upwards."""
        sides = [a, b]
        for i, side in enumerate(sides):
            while isinstance(side, Node) and side.op == "cast":
                if side.dtype not in (None, "float32"):
                    break
                side = side.args[0]
            sides[i] = side
        if sides[0] is not sides[1] and alike(a, b):
            return b if unwrap(cond).op == "dtype_is" else a
        if sides[0] is not sides[1]:
            raise self.gap("a branch depends on the dtype of the activations")
        return sides[0]

    def _join_nodes(self, cond, a: Node, b: Node):
        if a is b:
            return a
        if is_repeat_of(b, a, cond):
            return b
        if is_repeat_of(a, b, negate(cond)):
            return a
        layer = whole_layer(cond, a, b)
        if layer is not None:
            return layer
        cond = unwrap(cond)
        if isinstance(cond, Sym) and cond.op == "not":
            cond, a, b = cond.args[0], b, a
        a, b = _side_of(a, cond, True), _side_of(b, cond, False)
        inits = [n for n in (a, b) if n.op == "rope_init" or is_left(n)]
        if len(inits) == 1:  # as wide as the other side, or the source itself fails
            known = b if inits[0] is a else a
            dtype = "float32" if inits[0].op == "rope_init" else known.dtype
            return self.node("phi", (cond, a, b), known.axes, dtype=dtype)
        axes = self._joined_axes(cond, a, b)
        if not contains(cond, "expert_below"):  # those are recognised, never written
            for side in (a, b):
                ax.tie(axes, side.axes)
        return self.node("phi", (cond, a, b), axes, dtype=promote([a, b]))

    def require_plain(self, cls: Class) -> None:
        """Nothing but its body makes the class; decorators of the library's only say how
        it is documented or loaded."""
        made = {"__new__", "__init_subclass__"}
        own = [getattr(stmt, "name", "") for stmt in cls.node.body]
        if made.intersection(own) or any(
            not ast.unparse(keyword.value).endswith("ABCMeta")
            for keyword in cls.node.keywords
        ):
            raise cls.file.gap(
                cls.node.lineno, f"`{cls.name}` has a say in how its objects are made"
            )
        saved, self.file = self.file, cls.file
        try:
            for decorator in cls.node.decorator_list:
                self._known_decorator(decorator, cls.name, Env(cls.file))
        finally:
            self.file = saved

    def _known_decorator(self, decorator: ast.expr, name: str, env: Env) -> str:
        """The name of what a library does to a class or function, "" where that isn't
        known to be anything."""
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        with self.at(decorator):
            value = self.eval(target, env)
            if isinstance(value, Opaque):
                return ""
            if not isinstance(value, External):
                raise self.gap(f"the decorator on `{name}` is code of the source's")
            package, _, rest = value.name.partition(".")
            if package not in _DECORATORS_OF:
                raise self.gap(
                    f"the decorator on `{name}` is a library's that isn't known"
                )
            return rest.rsplit(".", 1)[-1]

    def _joined_axes(self, cond, a: Node, b: Node):
        if contains(cond, "runtime") and len(a.axes) == len(b.axes):
            return tuple(map(self._longer, a.axes, b.axes))
        try:
            return ax.broadcast([a.axes, b.axes], self.sizes.same)
        except ax.AxisError as error:
            # where cond says that two sizes are equal, that side fits the other's axes
            if cond.op == "eq" and len(a.axes) == len(b.axes):
                equal = {key(cond.args[0]), key(cond.args[1])}
                if all(
                    same(ax.axis_size(x), ax.axis_size(y))
                    or {key(ax.axis_size(x)), key(ax.axis_size(y))} == equal
                    for x, y in zip(a.axes, b.axes, strict=True)
                ):
                    return b.axes
            raise self.gap(f"the two sides of a condition differ: {error}") from error

    def _longer(self, a, b):
        """Where a mask is made with and without cached tokens, the axis with them."""
        if not a or has_role(b, "hist") and has_role(a, "seq", "span"):
            return b
        if b and not same(ax.axis_size(a), ax.axis_size(b)):
            if not (has_role(a, "hist") and has_role(b, "seq", "span")):
                raise self.gap("the two sides of a condition differ in their axes")
        return a

    # -- calls

    def call_function(self, fn: Function, args: list, kwargs: dict, inst=None) -> Any:
        if self.depth > 60:
            raise self.gap(f"calls nest too deeply at `{fn.name}`")
        env = Env(fn.file, inst, fn.owner, fn.closure)
        env.node = fn.node
        self.bind(fn, env, args, kwargs, inst)
        saved_file, saved = self.file, (self.line, self.end_line)
        self.file = fn.file
        self.depth += 1
        self.scopes.append(env)
        try:
            if isinstance(fn.node, ast.Lambda):
                return self.eval(fn.node.body, env)
            made = self.run_body(fn.node.body, env)
            for name, default, size in env.defaults:
                if len(default) != size:  # the next call would have it so
                    raise self.gap(f"`{fn.name}` changes the default of its `{name}`")
            return made
        finally:
            self.depth -= 1
            self.scopes.pop()
            self.file = saved_file
            self.line, self.end_line = saved

    def call_module(self, inst: Module, args: list, kwargs: dict) -> Any:
        """inst(*args): the author's forward in a frame of its own, or a leaf operation."""
        for special in ("__call__", "__getattr__", "__setattr__", "_call_impl"):
            found = self.find_method(inst, special)
            if found is not None:
                raise found.file.gap(
                    found.node.lineno, f"a module with its own `{special}`"
                )
        forward = self.find_method(inst, "forward")
        if forward is None:
            if inst.leaf and is_leaf(inst.leaf):
                return call_leaf(self, inst, args, kwargs)
            raise self.gap(f"`{inst.kind}` has no forward that can be read")
        if inst.leaf:  # an extended torch layer: its few lines belong to the caller
            return self.call_function(forward, args, kwargs, inst)
        return self.call_in_frame(inst, forward, args, kwargs)

    def call_in_frame(
        self, inst: Module, fn: Function, args: list, kwargs: dict
    ) -> Any:
        frame = Frame(inst, self.frame, self.span(), fn.name)
        self.frames.append(frame)
        saved, saved_depth = self.frame, self.depth
        self.frame, self.depth = frame, 0
        try:
            frame.returns = self.call_function(fn, args, kwargs, inst)
        finally:
            self.frame, self.depth = saved, saved_depth
        return frame.returns

    def instantiate(self, cls: Class, args: list, kwargs: dict) -> Any:
        self.sources.lookup(cls.file, cls.name)
        if any(hf_api.is_output(base.name) for base in external_bases(cls)):
            return hf_api.make_output(self, cls, args, kwargs)
        leaf = leaf_base(cls)
        for klass in lineage(cls):
            self.require_plain(klass)
        inst = Module(cls, leaf, self.span())
        self.modules.append(inst)
        init = self.find_method(inst, "__init__")
        self.under_construction.append(inst)
        try:
            if init is not None:
                self.call_function(init, args, kwargs, inst)
            elif leaf:
                bind_leaf(self, inst, args, kwargs)
        finally:
            self.under_construction.pop()
        return inst

    def find_method(self, inst: Module, name: str, after: Class | None = None):
        """The author's method of that name along the class's resolution order."""
        if inst.cls is None:
            return None
        for cls in lineage(inst.cls, after):
            for stmt in reversed(cls.node.body):
                if isinstance(stmt, ast.FunctionDef) and stmt.name == name:
                    return self.method(stmt, cls)
                if isinstance(stmt, ast.Assign) and name in _assigned(stmt):
                    raise cls.file.gap(
                        stmt.lineno, f"`{name}` is assigned in the class body"
                    )
        return None

    def method(self, stmt: ast.FunctionDef, cls: Class) -> Function:
        fn = Function(stmt, cls.file, cls)
        for decorator in stmt.decorator_list:
            self.decorate(fn, decorator, Env(cls.file))
        return fn

    def decorate(self, fn: Function, decorator: ast.expr, env: Env) -> None:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(target, ast.Name) and target.id in (
            "staticmethod",
            "classmethod",
        ):
            fn.static = True
            fn.of_class = target.id == "classmethod"
            return
        if isinstance(target, ast.Name) and target.id == "property":
            return
        last = self._known_decorator(decorator, fn.name, env)
        fn.dynamic_rope = fn.dynamic_rope or last == "dynamic_rope_update"
        fn.config_defaults |= last == "merge_with_config_defaults"


def _unchanged(a, b) -> bool:
    """Whether both sides of a branch left a value as it was; each has its own copy of a
    dictionary or list."""
    if a is b or (is_scalar(a) and is_scalar(b) and same(a, b)):
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(_unchanged(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_unchanged, a, b))
    if isinstance(a, Choice):
        arms = _unchanged(a.then, b.then) and _unchanged(a.other, b.other)
        return arms and same(a.cond, b.cond)
    return False


def _side_of(node: Node, cond, holds: bool) -> Node:
    """What a choice is on one side of its own condition."""
    while node.op == "phi" and key(node.args[0]) == key(cond):
        node = node.args[1 if holds else 2]
    return node


def _sink_apart(a: Node, b: Node) -> bool:
    """Scores with a sink behind the cached tokens on one side only: kept apart until it
    is dropped again."""
    return len(a.axes) == len(b.axes) and any(
        has_role(x, "hist", "span")
        and has_role(y, "hist", "span")
        and not same(ax.axis_size(x), ax.axis_size(y))
        for x, y in zip(a.axes, b.axes, strict=True)
    )


def _assigned(stmt: ast.Assign) -> list[str]:
    return [t.id for t in stmt.targets if isinstance(t, ast.Name)]


def lineage(cls: Class, after: Class | None = None) -> list[Class]:
    """Method resolution order among the author's classes; from behind `after` if given."""
    order: list[Class] = []

    def visit(c: Class) -> None:
        if c in order:
            order.remove(c)
        order.append(c)
        for base in c.bases:
            if isinstance(base, Class):
                visit(base)

    visit(cls)
    if after is not None:
        return order[order.index(after) + 1 :]
    return order


def external_bases(cls: Class) -> list[External]:
    return [b for c in lineage(cls) for b in c.bases if isinstance(b, External)]


def leaf_base(cls: Class) -> str | None:
    for base in external_bases(cls):
        if is_leaf(base.name):
            return base.name
    return None


def promote(tensors: list[Node]):
    """The dtype tag of an elementwise result: fp32 wins over the activations' dtype."""
    tags = [t.dtype for t in tensors if not (not t.axes and t.dtype is None)]
    tags = tags or [t.dtype for t in tensors]
    for strong in ("float64", "float32", None, "float16", "bfloat16"):
        if strong in tags:
            return strong
    return tags[0] if tags else None


def alike(a, b) -> bool:
    """Whether two values are the same up to rounding: casts between floating types."""
    if not (isinstance(a, Node) and isinstance(b, Node)):
        return is_scalar(a) and is_scalar(b) and same(a, b)
    a, b = _under_floats(a), _under_floats(b)
    if a is b:
        return True
    return (
        a.op == b.op
        and len(a.args) == len(b.args)
        and a.frame is b.frame
        and {**a.attrs, "like": 0} == {**b.attrs, "like": 0}
        and all(alike(x, y) for x, y in zip(a.args, b.args, strict=True))
    )


def _under_floats(node: Node) -> Node:
    while node.op == "cast" and node.dtype in (None, "float32", "float16", "bfloat16"):
        node = node.args[0]
    return node


def is_repeat_of(repeated: Node, plain: Node, cond) -> bool:
    """`repeated` is `plain` copied n times on an axis, and cond says that n is 1."""
    cond = unwrap(cond)
    if not (isinstance(cond, Sym) and cond.op == "eq"):
        return False
    if repeated.op != "rearrange" or repeated.args[0] is not plain:
        # a view of a view is one view: both may be views of the same value
        views = repeated.op == plain.op == "rearrange"
        if not views or repeated.args[0] is not plain.args[0]:
            return False
    known = {id(f) for axis in plain.axes for f in axis}
    copies = [f for axis in repeated.axes for f in axis if id(f) not in known]
    sides = {key(cond.args[0]), key(cond.args[1])}
    if len(copies) != 1 or not copies[0].repeats:
        return False
    if sides != {key(copies[0].size), key(1)}:
        return False
    kept = [tuple(f for f in a if f is not copies[0]) for a in repeated.axes]
    flat = [f for a in kept for f in a]
    return flat == [f for a in plain.axes for f in a] and len(kept) == len(plain.axes)


def _arg_key(arg):
    if isinstance(arg, Node):
        return ("n", arg.id)
    if isinstance(arg, (tuple, list)):
        return tuple(_arg_key(a) for a in arg)
    if isinstance(arg, dict):
        return tuple((k, _arg_key(v)) for k, v in arg.items())
    if isinstance(arg, slice):
        return ("s", _arg_key(arg.start), _arg_key(arg.stop), _arg_key(arg.step))
    if is_scalar(arg):
        return key(arg)
    return ("o", id(arg))


def _dtype_key(dtype):
    return ("n", dtype.id) if isinstance(dtype, Node) else dtype


def _counts_past(x) -> bool:
    """A number that is 0 just where nothing is past."""
    terms = poly(x) if isinstance(unwrap(x), Sym) else {}
    return len(terms) == 1 and any(a == PAST.key for m in terms for a, _ in m)


def _only_pairs(value) -> bool:
    """Masks and scores may be made in several ways; what becomes of them is proved."""
    return all(pairs_tokens(n.axes) for n in iter_nodes(value))
