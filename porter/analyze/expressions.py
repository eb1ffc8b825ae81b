"""Names, literals and displays of the source."""

import ast
from typing import Any

from porter.analyze.families import EachKey, SymSet
from porter.analyze.part import Part
from porter.analyze.sequences import SymList, SymRange, different
from porter.analyze.symbols import LAYER, Sym, key, same, unwrap
from porter.analyze.values import (
    MISSING,
    Choice,
    External,
    Function,
    Opaque,
    is_scalar,
)
from porter.analyze.written_config import built_alike

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
    "__name__",
}


class Names(Part):
    """What a name or a literal is."""

    def eval(self, node: ast.expr, env) -> Any:
        method = getattr(self, f"on_{type(node).__name__}", None)
        if method is None:
            raise self.gap(f"`{type(node).__name__}` expressions aren't followed")
        with self.at(node):
            return method(node, env)

    def on_Constant(self, node, env):
        return node.value

    def on_JoinedStr(self, node, env):
        """A string, a name built from config values, or one that nobody knows."""
        parts: list[Any] = []
        for part in node.values:
            plain = isinstance(part, ast.Constant)
            value = part.value if plain else self._formatted(part, env)
            if isinstance(value, (str, int)) and not isinstance(value, bool):
                value = str(value)
                if parts and isinstance(parts[-1], str):
                    value = parts.pop() + value
            elif not isinstance(value, Sym):
                return Opaque("a formatted string")
            parts.append(value)
        if all(isinstance(p, str) for p in parts):
            return "".join(parts)
        return Sym("format", tuple(parts))

    def _formatted(self, part: ast.FormattedValue, env):
        if part.format_spec is not None or part.conversion != -1:
            return None
        return unwrap(self.eval(part.value, env))

    def on_Name(self, node, env):
        scope = env
        while scope is not None:
            if node.id in scope.vars:
                value = self.resolve(scope.vars[node.id])
                bound = self._bound(value)
                if bound is not value:
                    self.hint(bound, node.id, env)
                return bound
            scope = scope.outer
        found = self.sources.lookup(env.file, node.id)
        if isinstance(found, ast.expr):
            found = self._module_constant(env, node.id, found)
        if isinstance(found, Function) and not found.static:
            for decorator in getattr(found.node, "decorator_list", []):
                self.decorate(found, decorator, type(env)(found.file))
        if found is not None:
            return found
        if node.id in ("__name__", "__file__"):
            return Opaque(node.id)
        if node.id in _BUILTINS:
            return External(f"builtins.{node.id}")
        if node.id.endswith(("Error", "Warning", "Exception")):
            return External(f"builtins.{node.id}")
        raise self.gap(f"`{node.id}` isn't bound to anything that can be read")

    def _bound(self, value):
        """A name's value where it has one: Python fails on the other sides."""
        if not isinstance(value, Choice):
            return value
        then, other = self._bound(value.then), self._bound(value.other)
        if then is MISSING or other is MISSING:
            return other if then is MISSING else then
        if then is value.then and other is value.other:
            return value
        return self.join(value.cond, then, other)

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
        return different(self._items(node.elts, env))

    def _items(self, elts, env) -> list:
        out: list[Any] = []
        for item in elts:
            if isinstance(item, ast.Starred):
                out.extend(self.sequence(self.eval(item.value, env)))
            else:
                out.append(self.eval(item, env))
        return out

    def on_Dict(self, node, env):
        out: dict[Any, Any] = {}
        base = None
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            value = self.eval(value_node, env)
            if key_node is not None:
                out[self.eval(key_node, env)] = value
            elif isinstance(value, dict):
                out.update(value)
            elif isinstance(unwrap(value), Sym) and not out and base is None:
                base = unwrap(value)
            else:
                raise self.gap("`**` of something that isn't a plain dictionary")
        if base is None:
            return out
        if not all(isinstance(k, str) and is_scalar(v) for k, v in out.items()):
            raise self.gap(
                "a dictionary of the config's with items that aren't followed"
            )
        return Sym("updated", (base, tuple(out.items())))

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

    def on_SetComp(self, node, env):
        """The different items of a config's list, all or those of which a test holds."""
        generator = node.generators[0]
        iterable = self.eval(generator.iter, env)
        items = self.symbolic_set(iterable)
        if items is None:
            made = self._comprehend(node, env)
            return different(made) if isinstance(made, list) else made
        if iterable is not items:
            items = SymSet(items.of)
        inner = type(env)(env.file, env.inst, env.cls, env)
        self.assign(generator.target, items.each, inner)
        tests = [self.truth(self.eval(c, inner)) for c in generator.ifs]
        tests = [t for t in tests if t is not True]
        taken = key(self.eval(node.elt, inner)) == key(items.each)
        if not taken or len(tests) > 1 or False in tests:
            raise self.gap("this set of a config's items isn't followed")
        items.cond = tests[0] if tests else items.cond
        return items

    def on_DictComp(self, node, env):
        if len(node.generators) != 1 or node.generators[0].ifs:
            raise self.gap("this dictionary comprehension isn't followed")
        generator = node.generators[0]
        inner = type(env)(env.file, env.inst, env.cls, env)
        iterable = self.eval(generator.iter, env)
        items = self.each_of(iterable)
        if items is None:
            out = {}
            for item in self.sequence(iterable):
                self.assign(generator.target, item, inner)
                out[self.eval(node.key, inner)] = self.eval(node.value, inner)
            return out
        with self.running(items, [], env):
            self.assign(generator.target, self.each_item(iterable), inner)
            each = self.each_running(self.eval(node.key, inner))
            value = self.eval(node.value, inner)
        if each is None:
            raise self.gap("a dictionary by something else than the layer type")
        return {EachKey.of(each): value}

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
            return SymList(self._each_layer(node.elt, inner), iterable.stop)
        out = []
        for item in self.sequence(iterable):
            self.assign(generator.target, item, inner)
            if all(self._sure(self.truth(self.eval(c, inner))) for c in generator.ifs):
                out.append(self.eval(node.elt, inner))
        return out

    def _each_layer(self, expr: ast.expr, env):
        """What stands for every layer; where making one changes the config, the next."""
        before = dict(self.config_values)
        first = self.eval(expr, env)
        if self.config_values == before:
            return first
        changed = dict(self.config_values)
        second = self.eval(expr, env)
        if not (
            built_alike(first, second) and built_alike(changed, self.config_values)
        ):
            raise self.gap("the config is changed while the layers are built")
        return second

    def _sure(self, cond) -> bool:
        if not isinstance(cond, bool):
            raise self.gap("a comprehension depends on the config")
        return cond
