"""Statements of the source: assignment, branches on the config, the loop over layers."""

import ast
import sys
from dataclasses import dataclass
from typing import Any

from porter.analyze import legacy_cache
from porter.analyze.aliases import read_again
from porter.analyze.branch_state import Side, State, merge
from porter.analyze.constants import lasting
from porter.analyze.expert_loops import any_pairs
from porter.analyze.families import EachKey
from porter.analyze.graph import Loop, Node, iter_nodes
from porter.analyze.kinds import kind_of
from porter.analyze.part import Part
from porter.analyze.presence import presence, require_all
from porter.analyze.sequences import SymList, SymRange
from porter.analyze.settling import settled
from porter.analyze.shared_states import Left, Shelf
from porter.analyze.symbols import (
    LAYER,
    Sym,
    constant,
    is_symbolic,
    same,
    unwrap,
)
from porter.analyze.torch_creation import fill_item
from porter.analyze.values import (
    MISSING,
    Choice,
    Config,
    Context,
    External,
    Function,
    Module,
    Opaque,
    is_scalar,
)
from porter.gap import FAULTS, Refused, fault


@dataclass
class Returned:
    value: Any


@dataclass
class Raised:
    pass


@dataclass
class Jumped:
    kind: str  # "continue" or "break"


_BROKEN = Jumped("break")  # a loop that was left, which its `else` isn't run behind


class Statements(Part):
    """The statement half of the interpreter."""

    def run_body(self, body: list[ast.stmt], env) -> Any:
        signal = self.run_block(body, env)
        if isinstance(signal, Returned):
            return signal.value
        if isinstance(signal, Raised):
            return self.unreachable()
        return None

    def unreachable(self):
        raise self.gap("the source always raises here")

    def run_block(self, body: list[ast.stmt], env):
        for index, stmt in enumerate(body):
            env.now = stmt
            with self.at(stmt):
                if isinstance(stmt, ast.If):
                    signal = self.run_if(stmt, body[index + 1 :], env)
                    if signal is not None:
                        return None if signal == "rest done" else signal
                    continue
                signal = self.run_statement(stmt, env)
                if signal is not None:
                    return signal
        return None

    def run_statement(self, stmt: ast.stmt, env):
        method = getattr(self, f"do_{type(stmt).__name__}", None)
        if method is None:
            raise self.gap(f"`{type(stmt).__name__}` statements aren't followed")
        try:
            return method(stmt, env)
        except FAULTS as error:
            raise fault(self.file.shown, stmt.lineno, error) from error

    # -- simple statements

    def do_Expr(self, stmt, env):
        if not isinstance(stmt.value, ast.Constant):
            self.eval(stmt.value, env)

    def do_Pass(self, stmt, env):
        return None

    def do_Import(self, stmt, env):
        for alias in stmt.names:
            name = alias.asname or alias.name.split(".")[0]
            env.vars[name] = External(alias.name if alias.asname else name)

    def do_ImportFrom(self, stmt, env):
        for alias in stmt.names:
            target = External(f"{stmt.module}.{alias.name}")
            env.vars[alias.asname or alias.name] = target

    def do_FunctionDef(self, stmt, env):
        env.vars[stmt.name] = Function(stmt, env.file, None, env)

    def do_Assert(self, stmt, env):
        cond = self.truth(self.eval(stmt.test, env))
        if isinstance(cond, Sym):
            self._assume(cond, True)

    def do_Raise(self, stmt, env):
        return Raised()

    def do_Return(self, stmt, env):
        return Returned(self.eval(stmt.value, env) if stmt.value else None)

    def do_Continue(self, stmt, env):
        return Jumped("continue")

    def do_Break(self, stmt, env):
        return Jumped("break")

    def do_Delete(self, stmt, env):
        for target in stmt.targets:
            if isinstance(target, ast.Name):
                env.vars.pop(target.id, None)
            else:
                self._delete_part(target, env)

    def _delete_part(self, target: ast.expr, env) -> None:
        """`del obj.name` of a module, `del held[key]` of a dictionary."""
        if isinstance(target, ast.Attribute):
            owner, name = self.resolve(self.eval(target.value, env)), target.attr
            known = isinstance(owner, Module) and name not in owner.maybe
            if known and presence(owner.attrs.get(name, MISSING)) is True:
                del owner.attrs[name]
                return
        elif isinstance(target, ast.Subscript):
            held = self.resolve(self.eval(target.value, env))
            index = self.eval(target.slice, env)
            if isinstance(held, dict) and not is_symbolic(index):
                if presence(held.get(index, MISSING)) is True:
                    self.forbid_in_each(held, held[index])
                    del held[index]
                    return
        raise self.gap(f"`del {ast.unparse(target)}` isn't followed")

    def do_With(self, stmt, env):
        for item in stmt.items:
            context = item.context_expr
            callee = context.func if isinstance(context, ast.Call) else context
            value = self.eval(callee, env)
            name = value.name if isinstance(value, External) else ""
            last = name.rsplit(".", 1)[-1]
            if last not in (
                "no_grad",
                "autocast",
                "maybe_autocast",
                "device",
                "inference_mode",
                "sdp_kernel",  # which of torch's kernels, of one arithmetic
                "sdpa_kernel",
            ):
                raise self.gap(
                    f"the context manager `{ast.unparse(context)}` isn't known"
                )
        return self.run_block(stmt.body, env)

    def do_Try(self, stmt, env):
        """`try: import kernels ... except ...`: the model without an optional package."""
        first = stmt.body[0]
        if isinstance(first, (ast.Import, ast.ImportFrom)) and not stmt.finalbody:
            catches = [h for h in stmt.handlers if _catches_import(h.type)]
            if catches and all(_is_optional(name) for name in _imported(first)):
                if catches[0].name:
                    env.vars[catches[0].name] = Opaque("an exception")
                return self.run_block(catches[0].body, env)
        raise self.gap("`try` in the model's code isn't followed")

    def do_Assign(self, stmt, env):
        value = self.eval(stmt.value, env)
        for target in stmt.targets:
            self.assign(target, value, env)

    def do_AnnAssign(self, stmt, env):
        if stmt.value is not None:
            self.assign(stmt.target, self.eval(stmt.value, env), env)

    def do_AugAssign(self, stmt, env):
        current = self.eval(_as_load(stmt.target), env)
        if isinstance(current, Node):
            self._refuse_shared(current, stmt.target, env)
        value = self.binary(type(stmt.op), current, self.eval(stmt.value, env))
        self.assign(stmt.target, value, env)

    def refuse_shared(self, value: Node) -> None:
        """`made().change_()`: nothing else may know the tensor that is changed."""
        self._refuse_shared(value, None, None)

    def _refuse_shared(self, value: Node, target: ast.expr | None, env) -> None:
        """`x += y` changes the tensor itself, so every other name for it changes too."""
        own = target.id if isinstance(target, ast.Name) else None
        if _storage(value).op in ("buffer", "parameter", "leaf_parameter"):
            raise self.gap("a parameter or buffer is changed as the model runs")
        for module in self.modules:
            for name, other in module.attrs.items():
                if isinstance(other, Node) and _shares_storage(value, other):
                    raise self.gap(
                        f"an in-place change that `self.{name}` sees as well",
                        "write it as `x = x + y`",
                    )
        for scope in [*self.scopes, *([env] if env is not None else [])]:
            names = [
                name
                for name, other in scope.vars.items()
                if not (scope is env and name == own)
                and any(_shares_storage(value, n) for n in iter_nodes(other))
            ]
            seen = read_again(scope, names)
            if seen is not None:
                raise self.gap(
                    f"an in-place change that `{seen}` sees as well",
                    "write it as `x = x + y`",
                )

    def assign(self, target: ast.expr, value, env) -> None:
        if isinstance(target, ast.Name):
            self.hint(value, target.id, env)
            env.vars[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target, value, env)
        elif isinstance(target, ast.Attribute):
            self.set_attribute(self.eval(target.value, env), target.attr, value)
        elif isinstance(target, ast.Subscript):
            container = self.eval(target.value, env)
            index = self.eval(target.slice, env)
            self._store_item(target, container, index, value, env)
        else:
            raise self.gap("this assignment target isn't followed")

    def hint(self, value, name: str, env) -> None:
        """Remember what the source calls a value, outermost function first."""
        if isinstance(value, Node):
            names = value.hints.setdefault(self.frame, [])
            if (self.depth, name) not in names:
                names.append((self.depth, name))

    def _unpack(self, target, value, env) -> None:
        if isinstance(value, Left):
            items = [self.left_item(value, i) for i in range(len(target.elts))]
        else:
            items = self.sequence(value)
        stars = [i for i, t in enumerate(target.elts) if isinstance(t, ast.Starred)]
        if stars:
            head = stars[0]
            tail = len(target.elts) - head - 1
            middle = list(items[head : len(items) - tail])
            items = [*items[:head], middle, *items[len(items) - tail :]]
            targets = [
                t.value if isinstance(t, ast.Starred) else t for t in target.elts
            ]
        else:
            targets = target.elts
        if len(items) != len(targets):
            raise self.gap(f"{len(items)} values for {len(targets)} names")
        for each, item in zip(targets, items, strict=True):
            self.assign(each, item, env)

    def _store_item(self, target, container, index, value, env) -> None:
        each = self.each_running(index)
        if isinstance(container, dict) and each is not None:
            container[EachKey.of(each)] = value
        elif isinstance(container, dict) and not is_symbolic(index):
            self.forbid_in_each(container, value)
            container[index] = value
        elif isinstance(container, list) and isinstance(index, int):
            self.forbid_in_each(container, value)
            container[index] = value
        elif isinstance(container, Shelf):
            self.leave(container, index, value)
        elif isinstance(container, Node):
            self._refuse_shared(container, target.value, env)
            self.assign(target.value, fill_item(self, container, index, value), env)
        else:
            raise self.gap("this store isn't followed")

    def set_attribute(self, obj, name: str, value) -> None:
        if isinstance(obj, Module):
            if name in ("forward", "__call__", "__class__"):
                raise self.gap(f"`.{name}` of a module is replaced")
            for module in _modules_of(value):
                if module.owner is None and module is not obj:
                    module.owner, module.name = obj, name
            self.forbid_attribute_in_each(obj, value)
            obj.maybe.discard(name)
            if not self._building(obj) and isinstance(obj.attrs.get(name), Node):
                self._refuse_state(obj, name, value)
                self.written.append((obj, name, obj.attrs[name]))
                obj.attrs[name] = value
                return
            if obj.leaf and name in ("weight", "bias") and name not in obj.attrs:
                self._set_parameter(obj, name, value)
                return
            if not self._building(obj) and obj.attrs.get(name, value) is None:
                value = lasting(self, obj, name, value)
                self.written.append((obj, name, None))
            obj.attrs[name] = value
            for node in _nodes_of(value):
                node.attrs.setdefault("slot", (obj, name))
        elif isinstance(obj, Node) and name in ("requires_grad", "data"):
            return
        elif isinstance(obj, Config) and obj.copied:
            obj.set(name, value)
        elif isinstance(obj, Config) and is_scalar(value) and self.frame is None:
            field = obj.fields.canonical(name) if obj.fields else name
            self.config_values[obj.path, field] = value
        elif not isinstance(obj, (Opaque, Context)):
            raise self.gap(f"setting `.{name}` of {kind_of(obj)} isn't followed")

    def _set_parameter(self, obj: Module, name: str, value) -> None:
        """`norm.bias = None` is a norm without; any other weight is the author's own."""
        if value is not None or name != "bias" or "bias" not in obj.args:
            raise self.gap(f"the {name} of a `{obj.kind}` is replaced")
        obj.args["bias"] = False
        obj.given.add("bias")

    def _refuse_state(self, obj: Module, name: str, value) -> None:
        """A forward may put a buffer on another device; it may not change its values."""
        old = _under_casts(obj.attrs[name])
        if not isinstance(value, Node) or _under_casts(value) is not old:
            raise self.gap(
                f"the forward changes `{name}`",
                "what a call leaves behind would reach other sequences' tokens",
            )

    # -- branches

    def run_if(self, stmt: ast.If, rest: list[ast.stmt], env):
        cond = self.truth(self.eval(stmt.test, env))
        if self.experts is not None:
            if self.skips_expert(cond, stmt.body):
                return self.run_block(stmt.orelse, env)
            routed = any_pairs(cond)
            cond = cond if routed is None else routed
        if isinstance(cond, bool):
            return self.run_block(stmt.body if cond else stmt.orelse, env)
        before, loop = State(self, env), self.loop
        try:
            return self._both_sides(cond, stmt, rest, before, env)
        except Refused as refusal:
            before.restore(self, env)
            self.loop = loop
            with settled(self, cond, refusal) as kept:
                return self.run_block(stmt.body if kept else stmt.orelse, env)

    def _both_sides(self, cond, stmt: ast.If, rest: list[ast.stmt], before: State, env):
        then = self._side(cond, True, stmt.body, before, env)
        other = self._side(cond, False, stmt.orelse, before, env)
        if isinstance(then.signal, Raised):
            return self._continue_with(other, cond, False, env)
        if isinstance(other.signal, Raised):
            return self._continue_with(then, cond, True, env)
        if then.signal is None and other.signal is None:
            merge(self, cond, then.state, other.state, env)
            return None
        if self._skips_rest(stmt, then, other):
            return self._skip_rest(cond, then, other, rest, env)
        return self._early_exit(cond, then, other, rest, env)

    def _skips_rest(self, stmt: ast.If, then, other) -> bool:
        """`if ...: continue`, straight in the body of a loop that runs once here."""
        signals = [s.signal for s in (then, other)]
        if None not in signals or Jumped("continue") not in signals:
            return False
        bodies = [self.each_loops[-1].body] if self.each_loops else []
        if self.loop is not None:
            bodies.append(self.loop.index.body)
        return any(stmt is s for body in bodies for s in body)

    def _skip_rest(self, cond, then, other, rest, env):
        """The rest of the body is run where it isn't skipped."""
        skipping, holds = (then, True) if then.signal is not None else (other, False)
        (other if holds else then).state.restore(self, env)
        with self.assuming(cond, not holds):
            signal = self.run_block(rest, env)
        if signal is not None and signal != Jumped("continue"):
            raise self.gap("leaving the loop over layers early isn't followed")
        staying = Side(None, State(self, env))
        skipping.state.restore(self, env)
        if holds:
            merge(self, cond, skipping.state, staying.state, env)
        else:
            merge(self, cond, staying.state, skipping.state, env)
        return Jumped("continue")

    def _side(self, cond, holds: bool, body, before: State, env) -> Side:
        """One side, from the state before the branch, which is there again after it."""
        with self.assuming(cond, holds):
            signal = self.run_block(body, env)
        side = Side(signal, State(self, env))
        before.restore(self, env)
        return side

    def _continue_with(self, side, cond, holds: bool, env):
        """The other side raises, so that this one is what a working model does."""
        side.state.restore(self, env)
        self._assume(cond, holds)
        return side.signal

    def _early_exit(self, cond, then, other, rest, env):
        """One side returns (or leaves the loop): the rest of the block is the other's."""
        if then.signal is not None and other.signal is not None:
            if isinstance(then.signal, Returned) and isinstance(other.signal, Returned):
                return self._join_returned(cond, then, other)
            if then.signal == other.signal:
                merge(self, cond, then.state, other.state, env)
                return then.signal
            raise self.gap("the sides of this branch leave in different ways")
        leaving, holds = (then, True) if then.signal is not None else (other, False)
        staying = other if holds else then
        if not isinstance(leaving.signal, Returned):
            raise self.gap("a config-dependent `continue` or `break` isn't followed")
        staying.state.restore(self, env)
        with self.assuming(cond, not holds):
            signal = self.run_block(rest, env)
        if not isinstance(signal, Returned):
            raise self.gap(
                "an early return under a config condition isn't followed here"
            )
        staying = Side(signal, State(self, env))
        sides = (leaving, staying) if holds else (staying, leaving)
        return self._join_returned(cond, *sides)

    def _join_returned(self, cond, then: Side, other: Side) -> Returned:
        apart = merge(self, cond, then.state, other.state, None)
        values = [s.state.of(s.signal.value, apart) for s in (then, other)]
        return Returned(self.join(cond, *values))

    # -- loops

    def do_For(self, stmt: ast.For, env):
        iterable = self.eval(stmt.iter, env)
        if isinstance(iterable, Opaque):
            raise self.gap(f"the loop runs over {iterable.what}")
        signal = self._run_loop(stmt, iterable, env)
        if signal is _BROKEN:
            return None
        return self.run_block(stmt.orelse, env) if signal is None else signal

    def _run_loop(self, stmt, iterable, env):
        """None where the loop came to its end."""
        if self.each_of(iterable) is not None:
            return self.loop_each(stmt, iterable, env)
        experts = self.expert_iteration(iterable)
        if experts is not None:
            return self.loop_experts(stmt, experts, env)
        layers = self.layer_iteration(iterable)
        if layers is not None:
            modules, item, stop = layers
            return self._loop_layers(stmt, modules, item, stop, env)
        if isinstance(iterable, SymRange):
            return self._build_layers(stmt, iterable, env)
        for item in self.sequence(iterable):
            self.assign(stmt.target, item, env)
            signal = self.run_block(stmt.body, env)
            if isinstance(signal, Jumped):
                if signal.kind == "break":
                    return _BROKEN
                continue
            if signal is not None:
                return signal
        return None

    def _loop_layers(self, stmt, modules: Module, item, bounds, env):
        if self.loop is not None:
            raise self.gap("a loop over layers inside another isn't followed")
        start, stop = bounds or (0, None)
        loop = Loop(modules, self.frame, self.span(), None, [], stmt, stop, start)
        self.open_shelves(stmt.body, env)
        carried = {}
        assigned = _assigned_names(stmt.body)
        for name in [n for n in env.vars if n in assigned]:
            init = env.vars[name]
            if isinstance(init, Node):
                self.loop = loop
                entry = self.node(
                    "loop_entry", (), init.axes, dtype=init.dtype, loop=loop, name=name
                )
                self.loop = None
                self.hint(entry, name, env)
                carried[name] = (entry, init)
                env.vars[name] = entry
        before = {n: v for n, v in env.vars.items()}
        self.loop = loop
        self.assign(stmt.target, item, env)
        signal = self.run_block(stmt.body, env)
        self.loop = None
        if signal is not None and signal != Jumped("continue"):
            raise self.gap("leaving the loop over layers early isn't followed")
        self._close_loop(loop, carried, before, assigned, env)
        for target in ast.walk(stmt.target):
            if isinstance(target, ast.Name):
                env.vars[target.id] = Opaque(f"`{target.id}` of the last layer")
        return None

    def _close_loop(self, loop, carried, before, assigned, env) -> None:
        for name, (entry, init) in carried.items():
            result = env.vars[name]
            if result is entry:
                env.vars[name] = init
                entry.forward = init
                continue
            if not isinstance(result, Node):
                raise self.gap(f"`{name}` changes its kind over the layers")
            if len(result.axes) != len(init.axes):
                raise self.gap(f"`{name}` changes its shape over the layers")
            exit_ = self.node(
                "loop_exit", (), init.axes, dtype=result.dtype, loop=loop, name=name
            )
            self.hint(exit_, name, env)
            loop.carried.append((entry, init, result, exit_))
            env.vars[name] = exit_
        for name in assigned:
            if name not in carried and name in env.vars:
                value, old = env.vars[name], before.get(name, MISSING)
                legacy_cache.see_returned(self, old, value)
                if old is not MISSING and is_scalar(old) and is_scalar(value):
                    if same(old, value):
                        continue
                if value is not old:
                    env.vars[name] = Opaque(f"`{name}` as the last layer left it")

    def _build_layers(self, stmt: ast.For, items: SymRange, env):
        """`for i in range(n): layers.append(Layer(i))`, run once on the index."""
        if self.frame is not None or not same(items.start, 0):
            raise self.gap("a loop over a config's number isn't followed here")
        before = dict(env.vars)
        empty = [n for n, v in before.items() if isinstance(v, list) and not v]
        self.assign(stmt.target, LAYER, env)
        if self.run_block(stmt.body, env) is not None:
            raise self.gap("leaving the loop over layers early isn't followed")
        for name, value in list(env.vars.items()):
            if name in empty and isinstance(value, list) and len(value) == 1:
                env.vars[name] = SymList(value[0], items.stop)
            elif value is not before.get(name, MISSING):
                if isinstance(value, (list, dict)) and value == before.get(name):
                    continue
                env.vars[name] = Opaque(f"`{name}` as the last layer left it")
        return None

    def sequence(self, value) -> list:
        """The items of something that is unpacked or looped over."""
        value = self.resolve(value)
        value = unwrap(value)
        if isinstance(value, legacy_cache.PastLayer):
            return legacy_cache.unpacked(value)
        if isinstance(value, (tuple, list)):
            return list(value)
        if isinstance(value, dict):
            self.forbid_families(value)
            require_all(self, value)
            return list(value)
        if isinstance(value, range):
            return list(value)
        if isinstance(value, Choice):
            left, right = self.sequence(value.then), self.sequence(value.other)
            if len(left) == len(right):
                pairs = zip(left, right, strict=True)
                return [self.join(value.cond, a, b) for a, b in pairs]
        if isinstance(value, Node):
            return self.unbind_first(value)
        if isinstance(value, Module) and value.leaf == "torch.nn.ModuleList":
            raise self.gap(
                "the modules of a list are used in a way that isn't followed"
            )
        raise self.gap(f"the items of {kind_of(value)} can't be told apart here")

    def unbind_first(self, value: Node) -> list:
        from porter.analyze.torch_parts import select

        size = constant(_first_size(value))
        if size is None:
            raise self.gap("a tensor of symbolic length is unpacked")
        return [select(self, value, 0, i) for i in range(int(size))]


def _modules_of(value) -> list[Module]:
    """The module that is set, or both where the config chooses one."""
    if isinstance(value, Choice):
        return [*_modules_of(value.then), *_modules_of(value.other)]
    return [value] if isinstance(value, Module) else []


def _nodes_of(value) -> list[Node]:
    if isinstance(value, Choice):
        return [*_nodes_of(value.then), *_nodes_of(value.other)]
    return [value] if isinstance(value, Node) else []


def _under_casts(node: Node) -> Node:
    """The values that a cast to the activations' dtype or to fp32 rounds at most."""
    while node.op == "cast" and node.dtype in (None, "float32"):
        node = node.args[0]
    return node


def _shares_storage(a: Node, b: Node) -> bool:
    return _memory(a) is _memory(b)


def _memory(node: Node) -> Node:
    """The tensor whose memory it is; a buffer is the tensor that was registered."""
    node = _storage(node)
    return _memory(node.args[0]) if node.op == "buffer" else node


def _storage(node: Node) -> Node:
    while node.op in ("rearrange", "slice", "select"):
        node = node.args[0]
    return node


def _first_size(value: Node):
    from porter.analyze.graph import axis_size

    return axis_size(value.axes[0])


def _as_load(target: ast.expr) -> ast.expr:
    clone = ast.copy_location(type(target)(**vars(target)), target)
    clone.ctx = ast.Load()  # type: ignore[attr-defined]
    return clone


def _assigned_names(body) -> set[str]:
    found = set()
    for stmt in body:
        for node in ast.walk(stmt):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found


def _catches_import(kind: ast.expr | None) -> bool:
    return kind is None or (
        isinstance(kind, ast.Name)
        and kind.id in ("Exception", "ImportError", "ModuleNotFoundError")
    )


def _imported(stmt: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(stmt, ast.ImportFrom):
        return [stmt.module or "."]
    return [alias.name for alias in stmt.names]


def _is_optional(module: str) -> bool:
    """Whether a package is none of those that every model runs with."""
    name = module.split(".")[0]
    return bool(name) and name not in {
        "torch",
        "transformers",
        *sys.stdlib_module_names,
    }
