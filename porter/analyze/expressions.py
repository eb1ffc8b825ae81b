"""Expressions of the source: names, attributes, operators, calls, subscripts."""

import ast
from typing import TYPE_CHECKING, Any

from porter.analyze import hf_api, torch_ops
from porter.analyze.graph import Node, axis_size
from porter.analyze.symbols import (
    BOOLEAN,
    LAYER,
    Sym,
    arith,
    compare,
    config_field,
    constant,
    is_symbolic,
    negate,
    same,
    unwrap,
)
from porter.analyze.torch_modules import LEAVES, bind_leaf, is_leaf
from porter.analyze.values import (
    DEVICE,
    MISSING,
    Activation,
    Bound,
    Cache,
    Choice,
    Class,
    Config,
    Dtype,
    DtypeOf,
    External,
    ExternalMethod,
    Function,
    Module,
    Opaque,
    Output,
    Super,
    is_scalar,
)

_OPERATORS = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "truediv",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
    ast.Pow: "pow",
    ast.MatMult: "matmul",
    ast.BitXor: "xor",
    ast.BitAnd: "bitand",
    ast.BitOr: "bitor",
}
_COMPARE = {
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
}
_BUILTINS = {
    "int",
    "float",
    "bool",
    "str",
    "len",
    "range",
    "enumerate",
    "zip",
    "isinstance",
    "getattr",
    "hasattr",
    "tuple",
    "list",
    "dict",
    "slice",
    "super",
    "max",
    "min",
    "type",
    "abs",
    "sum",
    "print",
    "any",
    "all",
    "callable",
    "set",
    "round",
    "sorted",
    "reversed",
    "setattr",
    "id",
    "map",
    "object",
    "None",
    "NotImplementedError",
}


class Expressions:
    """The expression half of the interpreter."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The other half of the interpreter, for the type checker."""

    def eval(self, node: ast.expr, env) -> Any:
        method = getattr(self, f"on_{type(node).__name__}", None)
        if method is None:
            raise self.gap(f"`{type(node).__name__}` expressions aren't followed")
        with self.at(node):
            return method(node, env)

    # -- names and literals

    def on_Constant(self, node, env):
        return node.value

    def on_JoinedStr(self, node, env):
        return Opaque("a formatted string")

    def on_Name(self, node, env):
        scope = env
        while scope is not None:
            if node.id in scope.vars:
                value = self.resolve(scope.vars[node.id])
                if isinstance(value, Choice) and MISSING in (value.then, value.other):
                    return value.then if value.other is MISSING else value.other
                return value
            scope = scope.outer
        found = self.sources.lookup(env.file, node.id)
        if isinstance(found, ast.expr):
            found = self._module_constant(env, node.id, found)
        if isinstance(found, Function) and not found.static:
            for decorator in getattr(found.node, "decorator_list", []):
                self.decorate(found, decorator, type(env)(found.file))
        if found is not None:
            return found
        if node.id in _BUILTINS:
            return External(f"builtins.{node.id}")
        if node.id.endswith(("Error", "Warning", "Exception")):
            return External(f"builtins.{node.id}")
        raise self.gap(f"`{node.id}` isn't bound to anything that can be read")

    def _module_constant(self, env, name: str, expr: ast.expr):
        try:
            value = ast.literal_eval(expr)
        except (ValueError, TypeError):
            holder = type(env)(env.file)
            value = self.eval(expr, holder)
            env.file.names[name] = value if value is not None else Opaque(name)
        return value

    def on_Tuple(self, node, env):
        return tuple(self._items(node.elts, env))

    def on_List(self, node, env):
        return list(self._items(node.elts, env))

    def on_Set(self, node, env):
        return tuple(self._items(node.elts, env))

    def _items(self, elts, env) -> list:
        out: list[Any] = []
        for item in elts:
            if isinstance(item, ast.Starred):
                out.extend(self.sequence(self.eval(item.value, env)))
            else:
                out.append(self.eval(item, env))
        return out

    def on_Dict(self, node, env):
        out = {}
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            value = self.eval(value_node, env)
            if key_node is None:
                out.update(value)
            else:
                out[self.eval(key_node, env)] = value
        return out

    def on_NamedExpr(self, node, env):
        value = self.eval(node.value, env)
        self.assign(node.target, value, env)
        return value

    def on_Lambda(self, node, env):
        return Function(node, env.file, None, env)

    def on_Slice(self, node, env):
        parts = [
            self.eval(p, env) if p else None
            for p in (node.lower, node.upper, node.step)
        ]
        return slice(*parts)

    def on_Starred(self, node, env):
        raise self.gap("a starred expression isn't followed here")

    def on_ListComp(self, node, env):
        return self._comprehend(node, env)

    def on_GeneratorExp(self, node, env):
        return self._comprehend(node, env)

    def _comprehend(self, node, env):
        if len(node.generators) != 1:
            raise self.gap("a comprehension with several loops isn't followed")
        generator = node.generators[0]
        inner = type(env)(env.file, env.inst, env.cls, env)
        iterable = self.eval(generator.iter, env)
        if isinstance(iterable, SymRange):
            if generator.ifs or not same(iterable.start, 0):
                raise self.gap("a filtered or shifted range of layers isn't followed")
            self.assign(generator.target, LAYER, inner)
            return SymList(self.eval(node.elt, inner), iterable.stop)
        out = []
        for item in self.sequence(iterable):
            self.assign(generator.target, item, inner)
            if all(self._sure(self.truth(self.eval(c, inner))) for c in generator.ifs):
                out.append(self.eval(node.elt, inner))
        return out

    def _sure(self, cond) -> bool:
        if not isinstance(cond, bool):
            raise self.gap("a comprehension depends on the config")
        return cond

    # -- attributes

    def on_Attribute(self, node, env):
        return self.attribute(self.eval(node.value, env), node.attr)

    def attribute(self, obj, name: str) -> Any:
        obj = self.resolve(obj)
        if isinstance(obj, Choice):
            then, other = obj.then, obj.other
            with self.assuming(obj.cond, True):
                left = self.attribute(then, name) if then is not None else None
            with self.assuming(obj.cond, False):
                right = self.attribute(other, name) if other is not None else None
            return self.join(obj.cond, left, right)
        if isinstance(obj, Module):
            return self.module_attribute(obj, name)
        if isinstance(obj, Config):
            return self.config_attribute(obj, name)
        if isinstance(obj, Node):
            return torch_ops.tensor_attribute(self, obj, name)
        if isinstance(obj, Super):
            return self.super_attribute(obj, name)
        if isinstance(obj, External):
            return hf_api.external_attribute(obj.attr(name))
        if isinstance(obj, Output):
            return obj.fields.get(name)
        if isinstance(obj, (dict, list, str, Cache, Dtype, DtypeOf, tuple)):
            return ExternalMethod(obj, name)
        if isinstance(unwrap(obj), Sym):
            return self.symbol_attribute(obj, name)
        if isinstance(obj, Opaque):
            return Opaque(f"{obj.what}.{name}")
        if isinstance(obj, Class):
            return self.class_attribute(obj, name)
        if isinstance(obj, Function) and name.startswith("__"):
            return Opaque(name)
        if obj is DEVICE:
            return Opaque("a device's attribute")
        raise self.gap(f"`.{name}` of a {type(obj).__name__} isn't followed")

    def symbol_attribute(self, obj, name: str):
        inner = unwrap(obj)
        if inner.op in ("field", "item", "get", "or_default") and name in (
            "get",
            "keys",
        ):
            return ExternalMethod(obj, name)
        if name in ("lower", "upper", "startswith", "endswith", "split", "item"):
            return ExternalMethod(obj, name)
        if inner.op == "field":  # a config inside the config
            return config_field((*inner.args[0], inner.args[1]), name)
        raise self.gap(f"`.{name}` of a config value isn't followed")

    def module_attribute(self, obj: Module, name: str) -> Any:
        if name in obj.attrs:
            value = self.resolve(obj.attrs[name])
            if isinstance(value, Sym) and not self._building(obj):
                return Sym("attr", (name,), value, obj)
            return value
        if name == "training":
            return False
        if name == "__class__":
            return Opaque("the class of a module")
        if obj.leaf and name in ("weight", "bias"):
            return torch_ops.leaf_parameter(self, obj, name)
        if obj.leaf and name in obj.args:
            return obj.args[name]
        for cls in self._lineage(obj):
            found = self._class_member(cls, name, obj)
            if found is not MISSING:
                return found
        if name == "config" and not obj.leaf:
            return self.config
        if name == "dtype":
            return Dtype("activations")
        if name == "device":
            return DEVICE
        if name in ("float", "to", "half", "bfloat16"):
            return Opaque(f".{name} of a module")
        return ExternalMethod(obj, name)

    def _building(self, obj: Module) -> bool:
        return any(m is obj for m in self.under_construction)

    def _lineage(self, obj: Module):
        from porter.analyze.interpreter import lineage

        return lineage(obj.cls) if obj.cls else []

    def _class_member(self, cls: Class, name: str, inst: Module | None):
        for stmt in reversed(cls.node.body):
            if isinstance(stmt, ast.FunctionDef) and stmt.name == name:
                fn = self.method(stmt, cls)
                if any(
                    isinstance(d, ast.Name) and d.id == "property"
                    for d in stmt.decorator_list
                ):
                    return self.call_function(fn, [], {}, inst)
                return fn if inst is None or fn.static else Bound(inst, fn)
            if isinstance(stmt, ast.Assign) and isinstance(stmt.targets[0], ast.Name):
                if stmt.targets[0].id == name:
                    return self._static(cls, stmt.value)
            if isinstance(stmt, ast.AnnAssign) and isinstance(stmt.target, ast.Name):
                if stmt.target.id == name and stmt.value is not None:
                    return self._static(cls, stmt.value)
        return MISSING

    def _static(self, cls: Class, expr: ast.expr):
        from porter.analyze.interpreter import Env

        return self.eval(expr, Env(cls.file))

    def class_attribute(self, obj: Class, name: str):
        from porter.analyze.interpreter import lineage

        for cls in lineage(obj):
            found = self._class_member(cls, name, None)
            if found is not MISSING:
                return found
        return Opaque(f"{obj.name}.{name}")

    def super_attribute(self, obj: Super, name: str):
        fn = self.find_method(obj.inst, name, obj.after)
        if fn is not None:
            return Bound(obj.inst, fn)
        return ExternalMethod(obj, name)

    def config_attribute(self, obj: Config, name: str) -> Any:
        if name == "_attn_implementation":
            return "eager"
        if name in ("get_text_config", "to_dict", "get"):
            return ExternalMethod(obj, name)
        if name in _CONFIG_CONSTANTS:
            return _CONFIG_CONSTANTS[name]
        fields = obj.fields
        if fields is not None and name in fields.sub_configs:
            return Config((*obj.path, name), None)
        if fields is not None:
            name = fields.canonical(name)
        return config_field(obj.path, name)

    # -- operators

    def on_UnaryOp(self, node, env):
        value = self.resolve(self.eval(node.operand, env))
        if isinstance(node.op, ast.Not):
            verdict = self.truth(value)
            return (not verdict) if isinstance(verdict, bool) else negate(verdict)
        if isinstance(node.op, ast.USub):
            if isinstance(value, Node):
                return self.elementwise("neg", value)
            return arith("neg", value)
        if isinstance(node.op, ast.Invert) and isinstance(value, Node):
            return self.elementwise("invert", value)
        return value

    def on_BinOp(self, node, env):
        left = self.eval(node.left, env)
        right = self.eval(node.right, env)
        return self.binary(type(node.op), left, right)

    def binary(self, operator, left, right) -> Any:
        op = _OPERATORS.get(operator)
        if op is None:
            raise self.gap("this operator isn't followed")
        left, right = self.resolve(left), self.resolve(right)
        if isinstance(left, Choice) or isinstance(right, Choice):
            return self._binary_choice(operator, left, right)
        if isinstance(left, Node) or isinstance(right, Node):
            return torch_ops.binary(self, op, left, right)
        if (
            isinstance(left, (tuple, list))
            and isinstance(right, type(left))
            and op == "add"
        ):
            return left + right  # type: ignore[operator]
        if isinstance(left, SymList) or isinstance(right, SymList):
            raise self.gap("lists of symbolic length can't be joined")
        if isinstance(left, (tuple, list)) and isinstance(right, int) and op == "mul":
            return left * right
        if isinstance(left, Opaque) or isinstance(right, Opaque):
            return Opaque("an expression of an unknown value")
        if op == "xor" and isinstance(left, bool) and isinstance(right, bool):
            return left ^ right
        if isinstance(left, str) and not is_symbolic(right):
            return Opaque("a string")
        if not (is_scalar(left) and is_scalar(right)):
            raise self.gap(
                f"`{op}` of {type(left).__name__} and {type(right).__name__}"
            )
        if op in ("matmul", "xor", "bitand", "bitor"):
            raise self.gap(f"`{op}` of scalars isn't followed")
        return arith(op, left, right)

    def _binary_choice(self, operator, left, right):
        choice = left if isinstance(left, Choice) else right
        with self.assuming(choice.cond, True):
            a = self.binary(operator, left, right)
        with self.assuming(choice.cond, False):
            b = self.binary(operator, left, right)
        return self.join(choice.cond, a, b)

    def on_BoolOp(self, node, env):
        is_or = isinstance(node.op, ast.Or)
        value = self.eval(node.values[0], env)
        for part in node.values[1:]:
            verdict = self.truth(value)
            if isinstance(verdict, bool):
                if verdict is is_or:
                    return value
                value = self.eval(part, env)
                continue
            with self.assuming(verdict, not is_or):
                other = self.eval(part, env)
            value = self._bool_join(is_or, verdict, value, other)
        return value

    def _bool_join(self, is_or: bool, verdict, value, other):
        inner = unwrap(value)
        if is_or and isinstance(inner, Sym) and inner.op == "or_default":
            return Sym("or_default", (inner.args[0], inner.args[1], other))
        if is_or and self._is_size(inner):
            return value
        boolean = isinstance(inner, Sym) and inner.op in BOOLEAN
        if boolean:
            right = self.truth(other)
            if isinstance(right, bool):
                if right is not is_or:
                    return verdict
                return right
            return Sym("or" if is_or else "and", (verdict, right))
        return self.join(verdict, *((value, other) if is_or else (other, value)))

    def _is_size(self, value) -> bool:
        fields = self.config.fields
        if fields is None or not (isinstance(value, Sym) and value.op == "field"):
            return False
        return value.args[0] == self.config.path and fields.is_size(value.args[1])

    def on_IfExp(self, node, env):
        cond = self.truth(self.eval(node.test, env))
        if isinstance(cond, bool):
            return self.eval(node.body if cond else node.orelse, env)
        with self.assuming(cond, True):
            a = self.eval(node.body, env)
        with self.assuming(cond, False):
            b = self.eval(node.orelse, env)
        return self.join(cond, a, b)

    def on_Compare(self, node, env):
        left = self.eval(node.left, env)
        result: Any = True
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.eval(right_node, env)
            outcome = self.compare_values(op, left, right)
            if result is True:
                result = outcome
            elif outcome is not True:
                result = Sym("and", (result, outcome)) if result is not False else False
            left = right
        return result

    def compare_values(self, op, left, right):
        left, right = self.resolve(left), self.resolve(right)
        if isinstance(op, (ast.Is, ast.IsNot)):
            if right is None:
                outcome = self.is_none(left)
            elif isinstance(right, bool) or isinstance(left, bool):
                outcome = compare("eq", left, right)
            else:
                outcome = left is right
            return _flip(outcome) if isinstance(op, ast.IsNot) else outcome
        if isinstance(op, (ast.In, ast.NotIn)):
            outcome = self.contains(left, right)
            return _flip(outcome) if isinstance(op, ast.NotIn) else outcome
        if isinstance(left, Node) or isinstance(right, Node):
            return torch_ops.comparison(self, _COMPARE[type(op)], left, right)
        if isinstance(left, (Dtype, DtypeOf)) or isinstance(right, (Dtype, DtypeOf)):
            return hf_api.compare_dtypes(self, op, left, right)
        if isinstance(left, Opaque) or isinstance(right, Opaque):
            return Opaque("a comparison with an unknown value")
        if isinstance(left, (tuple, list)) and isinstance(right, (tuple, list)):
            equal = len(left) == len(right) and all(
                same(a, b) for a, b in zip(left, right, strict=True)
            )
            if not equal and (
                any(map(is_symbolic, left)) or any(map(is_symbolic, right))
            ):
                return self._shapes_differ(op)
            return equal if isinstance(op, ast.Eq) else not equal
        if not (is_scalar(left) and is_scalar(right)):
            raise self.gap("this comparison isn't followed")
        return compare(_COMPARE[type(op)], left, right)

    def _shapes_differ(self, op):
        raise self.gap("a comparison of symbolic shapes can't be decided")

    def contains(self, item, container):
        container = self.resolve(container)
        if isinstance(container, (tuple, list, dict)):
            if not is_symbolic(item):
                if all(not is_symbolic(c) for c in container):
                    return item in container
                raise self.gap("`in` a list of symbolic values isn't followed")
            return Sym("in", (item, tuple(container)))
        if isinstance(container, Config):
            return self.config_has(container, item)
        if is_symbolic(container):
            return Sym("in", (item, container))
        raise self.gap("`in` isn't followed here")

    def is_none(self, value):
        value = self.resolve(value)
        if value is None:
            return True
        inner = unwrap(value)
        if isinstance(inner, Choice):
            return self._none_of_choice(inner.cond, inner.then, inner.other)
        if not isinstance(inner, Sym):
            return False
        if inner.op == "ifexp":
            return self._none_of_choice(*inner.args)
        if inner.op == "field":
            fields = self.config.fields
            if fields is None or inner.args[0] != self.config.path:
                return Sym("is_none", (inner,))
            name = inner.args[1]
            if name in fields.fields and name not in fields.optional:
                return False
            return Sym("is_none", (inner,))
        if inner.op in ("item", "get", "call"):
            return Sym("is_none", (inner,))
        if inner.op == "or_default":
            return Sym("is_none", (inner,)) if inner.args[2] is None else False
        return False

    def _none_of_choice(self, cond, then, other):
        a, b = self.is_none(then), self.is_none(other)
        if a is True and b is False:
            return cond
        if a is False and b is True:
            return negate(cond)
        if isinstance(a, bool) and a is b:
            return a
        if a is True:
            return Sym("or", (cond, b))
        if b is True:
            return Sym("or", (negate(cond), a))
        if a is False:
            return Sym("and", (negate(cond), b))
        if b is False:
            return Sym("and", (cond, a))
        return Sym("ifexp", (cond, a, b))

    def truth(self, value):
        """Python's truth of a value: a bool, or a condition on the config."""
        value = self.resolve(value)
        inner = unwrap(value)
        if isinstance(inner, Opaque):
            raise self.gap(f"a branch depends on {inner.what}")
        if isinstance(inner, Node):
            return torch_ops.tensor_truth(self, inner)
        if isinstance(inner, Choice):
            return self._truth_of_choice(inner)
        if isinstance(inner, Sym):
            number = constant(inner)
            if number is not None:
                return bool(number)
            if inner.op in BOOLEAN:
                return self.decide(inner)
            if inner.op == "ifexp":
                cond, a, b = inner.args
                return self._truth_of_choice(Choice(cond, a, b))
            if inner.op in ("field", "item", "get", "call", "or_default"):
                return self.decide(Sym("truthy", (inner,)))
            return True
        if isinstance(
            inner, (Module, Cache, Function, Class, External, Config, Activation)
        ):
            return True
        return bool(inner)

    def _truth_of_choice(self, choice: Choice):
        cond = choice.cond
        with self.assuming(cond, True):
            a = self.truth(choice.then)
        with self.assuming(cond, False):
            b = self.truth(choice.other)
        if isinstance(a, bool) and isinstance(b, bool):
            if a is b:
                return a
            return self.decide(cond if a else negate(cond))
        if a is False or b is True:
            cond, a, b = negate(cond), b, a
        if b is False:
            return self.decide(Sym("and", (cond, a)))
        if a is True:
            return self.decide(Sym("or", (cond, b)))
        both = Sym("and", (cond, a)), Sym("and", (negate(cond), b))
        return self.decide(Sym("or", both))

    # -- subscripts

    def on_Subscript(self, node, env):
        obj = self.resolve(self.eval(node.value, env))
        index = self.eval(node.slice, env)
        return self.subscript(obj, index)

    def subscript(self, obj, index) -> Any:
        obj = self.resolve(obj)
        if isinstance(obj, Node):
            return torch_ops.index(self, obj, index)
        if isinstance(obj, (tuple, list)):
            return self._index_sequence(obj, index)
        if isinstance(obj, dict):
            return self._index_dict(obj, index)
        if isinstance(obj, Module):
            return self._index_modules(obj, index)
        if isinstance(obj, Choice):
            with self.assuming(obj.cond, True):
                a = self.subscript(obj.then, index)
            with self.assuming(obj.cond, False):
                b = self.subscript(obj.other, index)
            return self.join(obj.cond, a, b)
        if isinstance(obj, Output):
            return list(obj.fields.values())[index]
        if isinstance(obj, External):
            return hf_api.external_item(self, obj, index)
        if isinstance(unwrap(obj), Sym):
            return self.decide_item(obj, index)
        if isinstance(obj, SymList) and isinstance(index, Sym) and same(index, LAYER):
            return obj.element
        if isinstance(obj, Opaque):
            return Opaque(f"an item of {obj.what}")
        raise self.gap(f"an item of a {type(obj).__name__} isn't followed")

    def decide_item(self, obj, index):
        if isinstance(index, slice):
            return Sym("call", ("slice_of", obj))
        return Sym("item", (unwrap(obj), index))

    def _index_sequence(self, obj, index):
        if isinstance(index, (int, slice)):
            try:
                return obj[index]
            except IndexError:
                raise self.gap(f"index {index} of {len(obj)} items") from None
        if isinstance(unwrap(index), Sym):
            if all(is_scalar(item) for item in obj):
                return Sym("item", (tuple(obj), index))
        raise self.gap("a list is indexed by a config value")

    def _index_dict(self, obj: dict, index):
        if not is_symbolic(index):
            if index in obj:
                return self.resolve(obj[index])
            raise self.gap(f"key {index!r} isn't in the dictionary")
        items = [(k, v) for k, v in obj.items() if v is not MISSING]
        chosen = _present(items[-1][1])
        for name, value in reversed(items[:-1]):
            chosen = self.join(compare("eq", index, name), _present(value), chosen)
        return chosen

    def _index_modules(self, obj: Module, index):
        if obj.leaf != "torch.nn.ModuleList":
            raise self.gap(f"an item of a `{obj.kind}` isn't followed")
        if isinstance(index, slice):
            start = constant(index.start) if index.start is not None else 0
            if isinstance(start, int) and start >= 0 and index.step in (None, 1):
                return LayerSlice(obj, start, index.stop)
        elif same(index, LAYER) and obj.element is not None:
            return obj.element
        elif isinstance(index, int) and isinstance(obj.attrs.get("items"), list):
            return obj.attrs["items"][index]
        raise self.gap("these items of a ModuleList aren't followed")

    def layer_iteration(self, iterable):
        """(ModuleList, loop item, stop) if a loop runs over a list of layers."""
        pick = None
        if isinstance(iterable, Enumerated):
            inner = self.layer_iteration(iterable.inner)
            if inner is not None:
                if inner[2] is not None and inner[2][0]:
                    raise self.gap("layers are counted from another one than the first")
                return inner[0], (LAYER, inner[1]), inner[2]
            return None
        if isinstance(iterable, Zipped):
            parts = [self.layer_iteration(p) for p in iterable.parts]
            layers = [p for p in parts if p is not None]
            if not layers:
                return None
            items = []
            for part, layer in zip(iterable.parts, parts, strict=True):
                items.append(layer[1] if layer else self.subscript(part, LAYER))
            return layers[0][0], tuple(items), layers[0][2]
        if isinstance(iterable, LayerSlice):
            start, stop = iterable.start, iterable.stop
            iterable = iterable.modules
            if stop is not None and same(stop, iterable.count):
                stop = None
            pick = (start, stop)
        if isinstance(iterable, SymRange):
            return None
        if isinstance(iterable, Module) and iterable.leaf == "torch.nn.ModuleList":
            if iterable.element is None:
                return None
            return iterable, iterable.element, pick
        return None

    # -- calls

    def on_Call(self, node, env):
        fn = self.resolve(self.eval(node.func, env))
        if isinstance(fn, External) and fn.name == "builtins.super":
            return Super(env.inst, env.cls)
        if isinstance(fn, External) and _is_message(fn):
            return None
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
        return self.call(fn, args, kwargs)

    def call(self, fn, args: list, kwargs: dict) -> Any:
        fn = self.resolve(fn)
        args = [self.resolve(a) for a in args]
        kwargs = {k: self.resolve(v) for k, v in kwargs.items()}
        if isinstance(fn, Function):
            return self.call_function(fn, args, kwargs)
        if isinstance(fn, Bound):
            return self.call_method(fn, args, kwargs)
        if isinstance(fn, Module):
            return self.call_module(fn, args, kwargs)
        if isinstance(fn, Activation):
            if len(args) != 1 or kwargs:
                raise self.gap("an activation that is built with arguments")
            return torch_ops.activation(self, fn, args[0])
        if isinstance(fn, Class):
            return self.instantiate(fn, args, kwargs)
        if isinstance(fn, Choice):
            with self.assuming(fn.cond, True):
                a = self.call(fn.then, args, kwargs)
            with self.assuming(fn.cond, False):
                b = self.call(fn.other, args, kwargs)
            return self.join(fn.cond, a, b)
        if isinstance(fn, hf_api.RopeInit):
            return fn.call(self, args, kwargs)
        if isinstance(fn, External):
            return self.call_external(fn, args, kwargs)
        if isinstance(fn, ExternalMethod):
            return self.call_external_method(fn, args, kwargs)
        if isinstance(fn, Opaque):
            if any(isinstance(a, Node) for a in [*args, *kwargs.values()]):
                raise self.gap(f"a tensor goes into {fn.what}, which can't be followed")
            return Opaque(f"the result of {fn.what}")
        raise self.gap(f"a {type(fn).__name__} is called")

    def call_method(self, fn: Bound, args, kwargs):
        if fn.function.name == "forward" and fn.function.owner is fn.inst.cls:
            return self.call_module(fn.inst, args, kwargs)
        return self.call_function(fn.function, args, kwargs, fn.inst)

    def call_external(self, fn: External, args, kwargs):
        if fn.name.startswith("builtins."):
            return hf_api.builtin(self, fn.name[9:], args, kwargs)
        if is_leaf(fn.name):
            inst = Module(None, fn.name, self.span())
            self.modules.append(inst)
            bind_leaf(self, inst, args, kwargs)
            return inst
        handled = hf_api.call(self, fn.name, args, kwargs)
        if handled is not NotImplemented:
            return handled
        return torch_ops.call(self, fn.name, args, kwargs)

    def call_external_method(self, fn: ExternalMethod, args, kwargs):
        if isinstance(fn.obj, Node):
            return torch_ops.method(self, fn.obj, fn.name, args, kwargs)
        return hf_api.method(self, fn.obj, fn.name, args, kwargs)

    def bind(self, fn: Function, env, args, kwargs, inst) -> None:
        """Bind call arguments to the function's parameters, as Python does."""
        spec = fn.node.args
        names = [a.arg for a in (*spec.posonlyargs, *spec.args)]
        values = list(args)
        if inst is not None and not fn.static:
            values.insert(0, inst)
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
            bound[name] = self.eval(defaults[name], owner)

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
        return Sym("hasattr", (config.path, name))

    def dim_size(self, axis):
        return axis_size(axis)


class SymList:
    """`[f(i) for i in range(n)]` with n from the config: one element stands for all."""

    def __init__(self, element, count):
        self.element, self.count = element, count


class SymRange:
    def __init__(self, start, stop):
        self.start, self.stop = start, stop


class LayerSlice:
    def __init__(self, modules: Module, start: int, stop):
        self.modules, self.start, self.stop = modules, start, stop


class Enumerated:
    def __init__(self, inner):
        self.inner = inner


class Zipped:
    def __init__(self, parts):
        self.parts = parts


_CONFIG_CONSTANTS = {
    "output_attentions": False,
    "output_hidden_states": False,
    "use_cache": True,
    "return_dict": True,
    "use_return_dict": True,
    "gradient_checkpointing": False,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
}


def _flip(outcome):
    return (not outcome) if isinstance(outcome, bool) else negate(outcome)


def _present(value):
    if isinstance(value, Choice):
        if value.then is MISSING:
            return value.other
        if value.other is MISSING:
            return value.then
    return value


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


__all__ = [
    "LEAVES",
    "Enumerated",
    "Expressions",
    "LayerSlice",
    "SymList",
    "SymRange",
    "Zipped",
]
