"""Calls: binding arguments, functions, modules, the library's objects."""

import ast
from typing import Any

from porter.analyze import (
    hf_api,
    method_calls,
    old_configs,
    python_builtins,
    torch_complex,
    torch_elementwise,
    torch_ops,
)
from porter.analyze.choices import call_choice
from porter.analyze.graph import Node
from porter.analyze.initialisation import without_init
from porter.analyze.kinds import kind_of
from porter.analyze.part import Part
from porter.analyze.symbols import (
    Sym,
    unwrap,
)
from porter.analyze.torch_complex import Complex
from porter.analyze.torch_modules import bind_leaf, is_leaf
from porter.analyze.torch_ops import is_in_place
from porter.analyze.values import (
    Activation,
    Apply,
    Bound,
    Choice,
    Class,
    Config,
    Context,
    External,
    ExternalMethod,
    FromConfig,
    Function,
    Module,
    Opaque,
    Super,
)


class Calls(Part):
    """Calls."""

    def on_Call(self, node, env):
        func = node.func
        if isinstance(func, ast.Attribute) and is_in_place(func.attr):
            return self.call_in_place(node, func, env)
        fn = self.resolve(self.eval(node.func, env))
        if isinstance(fn, External) and fn.name == "builtins.super":
            return Super(env.inst, env.cls)
        if isinstance(fn, External) and _is_message(fn):
            return None
        return self.call(fn, *self._arguments(node, env))

    def _arguments(self, node: ast.Call, env) -> tuple[list, dict[str, Any]]:
        args = self._items(node.args, env)
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self.eval(keyword.value, env)
            if keyword.arg is None:
                if not isinstance(value, dict):
                    raise self.gap("`**` of something that isn't a plain dictionary")
                kwargs.update(value)
            else:
                kwargs[keyword.arg] = value
        return args, kwargs

    def call(self, fn, args: list, kwargs: dict) -> Any:
        fn = self.resolve(fn)
        args = [self.resolve(a) for a in args]
        kwargs = {k: self.resolve(v) for k, v in kwargs.items()}
        apart = self._apart(fn, [*args, *kwargs.values()])
        if apart is not None:
            with self.assuming(apart.cond, True):
                a = self.call(fn, args, kwargs)
            with self.assuming(apart.cond, False):
                b = self.call(fn, args, kwargs)
            return self.join(apart.cond, a, b)
        if isinstance(fn, Function):
            return self.call_function(fn, args, kwargs)
        if isinstance(fn, Bound):
            return self.call_method(fn, args, kwargs)
        if isinstance(fn, Module):
            return self.call_module(fn, args, kwargs)
        if isinstance(fn, Activation):
            if kwargs or not (len(args) == 1 and isinstance(args[0], Node)):
                return self.call(hf_api.activation_class(self, fn), args, kwargs)
            return torch_elementwise.activation(self, fn, args[0])
        if isinstance(fn, Class):
            return self.instantiate(fn, args, kwargs)
        if isinstance(fn, FromConfig):
            return self.instantiate(fn.cls, args, _without_loading(kwargs))
        if isinstance(fn, Choice):
            return call_choice(self, fn, args, kwargs)
        if isinstance(fn, hf_api.RopeInit):
            return fn.call(self, args, kwargs)
        if isinstance(fn, External):
            return self.call_external(fn, args, kwargs)
        if isinstance(fn, Apply):
            return self.apply_function(fn, args, kwargs)
        if isinstance(fn, ExternalMethod):
            return self.call_external_method(fn, args, kwargs)
        if isinstance(fn, Opaque):
            if any(isinstance(a, Node) for a in [*args, *kwargs.values()]):
                raise self.gap(f"a tensor goes into {fn.what}, which can't be followed")
            return Opaque(f"the result of {fn.what}")
        raise self.gap(f"{kind_of(fn)} is called")

    def _apart(self, fn, args: list) -> Choice | None:
        """Two tensors that can't be one, given to an operation of torch's."""
        if isinstance(fn, (External, ExternalMethod)):
            for arg in args:
                for value in arg if isinstance(arg, (tuple, list)) else [arg]:
                    value = self.resolve(value)
                    if isinstance(value, Choice) and isinstance(value.then, Node):
                        if isinstance(value.other, Node):
                            return value
        return None

    def call_method(self, fn: Bound, args, kwargs):
        if fn.function.name == "forward" and fn.function.owner is fn.inst.cls:
            return self.call_module(fn.inst, args, kwargs)
        return self.call_function(fn.function, args, kwargs, fn.inst)

    def call_external(self, fn: External, args, kwargs):
        if fn.name.startswith("builtins."):
            return python_builtins.builtin(self, fn.name[9:], args, kwargs)
        if is_leaf(fn.name):
            inst = Module(None, fn.name, self.span())
            self.modules.append(inst)
            bind_leaf(self, inst, args, kwargs)
            return inst
        if fn.name.startswith("torch.nn.utils.") and fn.name.endswith(".skip_init"):
            return without_init(self, args, kwargs)
        handled = hf_api.call(self, fn.name, args, kwargs)
        if handled is not NotImplemented:
            return handled
        return torch_ops.call(self, fn.name, args, kwargs)

    def apply_function(self, fn: Apply, args, kwargs):
        forward = self.class_attribute(fn.cls, "forward")
        setup = self.class_attribute(fn.cls, "setup_context")
        if not isinstance(forward, Function):
            raise self.gap(f"`{fn.cls.name}` has no forward that can be read")
        context = [] if isinstance(setup, Function) else [Context()]
        return self.call_function(forward, [*context, *args], kwargs)

    def call_external_method(self, fn: ExternalMethod, args, kwargs):
        if isinstance(fn.obj, Node):
            return torch_ops.method(self, fn.obj, fn.name, args, kwargs)
        if isinstance(fn.obj, Complex):
            return torch_complex.method(self, fn.obj, fn.name, args, kwargs)
        return method_calls.method(self, fn.obj, fn.name, args, kwargs)

    def bind(self, fn: Function, env, args, kwargs, inst) -> None:
        """Bind call arguments to the function's parameters, as Python does."""
        spec = fn.node.args
        names = [a.arg for a in (*spec.posonlyargs, *spec.args)]
        values = list(args)
        if inst is not None and not fn.static:
            values.insert(0, inst)
        if fn.of_class:
            values.insert(0, fn.owner)
        bound = dict(zip(names, values, strict=False))
        extra = values[len(names) :]
        if extra and spec.vararg is None:
            raise self.gap(f"too many arguments for `{fn.name}`")
        rest = dict(kwargs)
        for name in [*names, *(a.arg for a in spec.kwonlyargs)]:
            if name in rest:
                bound[name] = rest.pop(name)
        self._bind_defaults(fn, env, bound, names)
        if spec.vararg is not None:
            bound[spec.vararg.arg] = tuple(extra)
        if spec.kwarg is not None:
            bound[spec.kwarg.arg] = rest
        elif rest:
            raise self.gap(f"`{fn.name}` doesn't take {sorted(rest)}")
        explicit = {*names[: len(values)], *kwargs}
        self._name_parameters(fn, inst, bound, explicit)
        env.vars.update(bound)

    def _bind_defaults(self, fn, env, bound: dict, names: list[str]) -> None:
        spec = fn.node.args
        owner = type(env)(fn.file, None, None, fn.closure)
        defaults = dict(zip(names[::-1], reversed(spec.defaults), strict=False))
        for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
            if default is not None:
                defaults[arg.arg] = default
        for name in [*names, *(a.arg for a in spec.kwonlyargs)]:
            if name in bound:
                continue
            if name not in defaults:
                raise self.gap(f"`{fn.name}` isn't given `{name}`")
            bound[name] = value = self.eval(defaults[name], owner)
            if isinstance(value, (list, dict)):
                env.defaults.append((name, value, len(value)))
        if fn.config_defaults and bound.get("use_cache", True) is None:
            bound["use_cache"] = True  # as the config has it in generation

    def _name_parameters(self, fn, inst, bound: dict, explicit: set) -> None:
        """Constructor arguments keep their parameter's name; forward's name their nodes."""
        if inst is not None and fn.name == "__init__" and self._building(inst):
            for name, value in bound.items():
                if value is inst:
                    continue
                inst.params.setdefault(name, value)
                if name in explicit:
                    inst.given.add(name)
                if isinstance(unwrap(value), Sym) or (
                    isinstance(value, (int, float)) and not isinstance(value, bool)
                ):
                    bound[name] = Sym("param", (name,), value, inst)
        elif self.frame is not None and inst is self.frame.inst and self.depth == 0:
            for name, value in bound.items():
                if isinstance(value, Node):
                    self.frame.names.setdefault(value.id, name)
                    value.hints.setdefault(self.frame, []).append((1, name))

    def config_has(self, config: Config, name) -> Any:
        if config.fields is not None and config.fields.declares(name):
            return True
        if old_configs.lacks(config, name):
            return False
        return Sym("hasattr", (config.path, name))


def _without_loading(kwargs: dict) -> dict:
    """Keywords of `_from_config` that transformers keeps for itself."""
    own = ("attn_implementation", "torch_dtype", "dtype")
    return {name: value for name, value in kwargs.items() if name not in own}


def _is_message(fn: External) -> bool:
    parts = fn.name.split(".")
    return parts[-1] in (
        "warn",
        "warning",
        "warning_once",
        "info",
        "debug",
        "print",
        "error",
        "deprecate_kwarg",
    )
