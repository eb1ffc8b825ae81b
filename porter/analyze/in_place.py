"""Methods that change a tensor itself: `x.scatter_(...)`, `x[..., :n].copy_(y)`.

The graph has pure operations only. An in-place one is its pure form, and the name of the
tensor stands for the result from there on. Where another name sees the same tensor it is
a Gap.
"""

import ast

from porter.analyze import torch_parts
from porter.analyze.graph import Node
from porter.analyze.initialisation import initialise
from porter.analyze.part import Part
from porter.analyze.values import ExternalMethod

_STORED = ("parameter", "buffer", "leaf_parameter", "expert_part")


class InPlace(Part):
    """Calls of in-place methods."""

    def call_in_place(self, node: ast.Call, func: ast.Attribute, env):
        """The value of `base.method_(...)`; its name is bound to it."""
        base = self.resolve(self.eval(func.value, env))
        args, kwargs = self._arguments(node, env)
        if isinstance(base, Node) and base.op == "parameter" and self.frame is None:
            return base  # what it is filled with at first is of no account
        if self.initialising and isinstance(base, Node):
            return initialise(self, func.attr, [base, *args], kwargs)
        if not isinstance(base, Node):
            return self.call(self.attribute(base, func.attr), args, kwargs)
        name = func.attr.removesuffix("_")
        target = func.value
        if isinstance(target, ast.Call):  # a tensor that nothing else holds
            self._refuse_stored(base)
            return self._pure(base, name, args, kwargs)
        if isinstance(target, ast.Subscript) and name in ("copy", "fill", "zero"):
            return self._store_part(target, name, args, env)
        if not isinstance(target, ast.Name):
            raise self.gap(f"the in-place `{func.attr}` isn't followed")
        self._refuse_stored(base)
        self._refuse_shared(base, target, env)
        value = self._pure(base, name, args, kwargs)
        self.assign(ast.Name(target.id, ast.Store()), value, env)
        return value

    def _pure(self, base: Node, name: str, args: list, kwargs: dict) -> Node:
        if name == "index_add":
            return self.index_add(base, *args, **kwargs)
        if name == "copy":
            return self._copied(base, args[0])
        if name == "zero":
            return self.node("fill", (0.0,), base.axes, dtype=base.dtype)
        if name == "fill":
            return self.node("fill", (args[0],), base.axes, dtype=base.dtype)
        value = self.call(ExternalMethod(base, name), args, kwargs)
        if not isinstance(value, Node):
            raise self.gap(f"the in-place `{name}_` isn't followed")
        if value.dtype != base.dtype:
            raise self.gap(f"the in-place `{name}_` keeps the dtype of its tensor")
        return value

    def _copied(self, base: Node, value) -> Node:
        if not isinstance(value, Node) or value.dtype != base.dtype:
            raise self.gap("a copy into a tensor of another dtype")
        return value

    def _refuse_stored(self, value: Node) -> None:
        while value.op in ("rearrange", "slice", "select"):
            value = value.args[0]
        if value.op in _STORED:
            raise self.gap("a parameter or buffer is changed in the forward")

    def _store_part(self, target: ast.Subscript, name: str, args: list, env):
        """`x[..., a:b].copy_(y)`: y in the place of that part of x."""
        if not isinstance(target.value, ast.Name):
            raise self.gap("a part of a tensor is written to in place")
        base = self.resolve(self.eval(target.value, env))
        index = self.eval(target.slice, env)
        self._refuse_stored(base)
        self._refuse_shared(base, target.value, env)
        value = torch_parts.put(self, base, index, args[0] if args else 0.0)
        self.assign(ast.Name(target.value.id, ast.Store()), value, env)
        return value
