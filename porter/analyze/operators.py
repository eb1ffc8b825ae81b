"""Arithmetic, comparisons, conditions."""

import ast
from collections.abc import Callable
from typing import Any

from porter.analyze import (
    hf_api,
    old_configs,
    torch_complex,
    torch_elementwise,
    torch_ops,
)
from porter.analyze.expert_loops import ExpertIndex, compare_expert
from porter.analyze.graph import Node
from porter.analyze.kinds import kind_of
from porter.analyze.legacy_cache import FIRST, is_past
from porter.analyze.part import Part
from porter.analyze.presence import any_present, either, presence
from porter.analyze.python_builtins import builtin
from porter.analyze.sequences import SymList
from porter.analyze.symbols import (
    BOOLEAN,
    Sym,
    arith,
    compare,
    constant,
    is_positive,
    is_symbolic,
    negate,
    unwrap,
)
from porter.analyze.torch_complex import Complex
from porter.analyze.values import (
    DEVICE,
    Activation,
    Cache,
    Choice,
    Class,
    Config,
    DeviceType,
    Dtype,
    DtypeOf,
    External,
    Function,
    Module,
    Opaque,
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
_UNKNOWN = Opaque("a comparison with an unknown value")
_COMPARE = {
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
}


class Operators(Part):
    """Operators and the truth of values."""

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
            return torch_elementwise.invert(self, value)
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
        if isinstance(left, Complex) or isinstance(right, Complex):
            return torch_complex.binary(self, op, left, right)
        if isinstance(left, Node) or isinstance(right, Node):
            return torch_elementwise.binary(self, op, left, right)
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
        if isinstance(right, list) and isinstance(left, int) and op == "mul":
            return right * left
        if isinstance(left, list) and len(left) == 1 and op == "mul":
            if isinstance(unwrap(right), Sym):
                return SymList(left[0], right)
        if isinstance(left, Opaque) or isinstance(right, Opaque):
            return Opaque("an expression of an unknown value")
        if op == "xor" and isinstance(left, bool) and isinstance(right, bool):
            return left ^ right
        if isinstance(left, str) and not is_symbolic(right):
            return Opaque("a string")
        if not (is_scalar(left) and is_scalar(right)):
            raise self.gap(
                f"`{op}` of {kind_of(left)} and {kind_of(right)} isn't followed"
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
            if isinstance(other, Opaque) and not is_or and self.refuse_where(verdict):
                value = False  # what is asked beyond the config can't be known
                continue
            value = self._bool_join(is_or, verdict, value, other)
        return value

    def _bool_join(self, is_or: bool, verdict, value, other):
        if other is is_or:
            return is_or
        inner = unwrap(value)
        if is_or and isinstance(inner, Sym) and inner.op == "or_default":
            return Sym("or_default", (inner.args[0], inner.args[1], other))
        if is_or and self.is_size(inner):
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

    def is_size(self, value) -> bool:
        fields = self.config.fields
        if fields is None or not isinstance(value, Sym):
            return False
        if value.op == "of":  # of one layer's config, which is of the same class
            return fields.is_size(value.args[1])
        if value.op != "field":
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
        if isinstance(left, ExpertIndex) or isinstance(right, ExpertIndex):
            return compare_expert(self, _COMPARE.get(type(op)), left, right)
        if isinstance(op, (ast.Is, ast.IsNot)):
            if right is None:
                outcome = self.is_none(left)
            elif isinstance(right, bool) or isinstance(left, bool):
                outcome = compare("eq", left, right)
            elif isinstance(left, Choice) or isinstance(right, Choice):
                raise self.gap("`is` of one of two things, as the config decides")
            elif isinstance(left, Opaque) or isinstance(right, Opaque):
                return _UNKNOWN
            elif isinstance(left, External) and isinstance(right, External):
                outcome = left.name == right.name
            else:
                outcome = left is right
            return _flip(outcome) if isinstance(op, ast.IsNot) else outcome
        if isinstance(op, (ast.In, ast.NotIn)):
            items = right if isinstance(right, (tuple, list)) else ()
            if any(isinstance(item, Opaque) for item in (left, *items)):
                return _UNKNOWN
            outcome = self.contains(left, right)
            return _flip(outcome) if isinstance(op, ast.NotIn) else outcome
        if isinstance(left, Node) or isinstance(right, Node):
            return torch_elementwise.comparison(self, _COMPARE[type(op)], left, right)
        if isinstance(left, (Dtype, DtypeOf)) or isinstance(right, (Dtype, DtypeOf)):
            return hf_api.compare_dtypes(self, op, left, right)
        if left is DEVICE and right is DEVICE:
            return isinstance(op, ast.Eq)
        if isinstance(left, DeviceType) or isinstance(right, DeviceType):
            return _compare_device(op, left, right)
        if isinstance(left, Opaque) or isinstance(right, Opaque):
            return _UNKNOWN
        if isinstance(left, (tuple, list)) and isinstance(right, (tuple, list)):
            equal = _all_equal(left, right)
            return equal if isinstance(op, ast.Eq) else _flip(equal)
        if not (is_scalar(left) and is_scalar(right)):
            raise self.gap("this comparison isn't followed")
        return compare(_COMPARE[type(op)], left, right)

    def contains(self, item, container):
        container = self.resolve(container)
        if isinstance(container, (tuple, list, dict)):
            if not is_symbolic(item):
                if all(not is_symbolic(c) for c in container):
                    if isinstance(container, dict) and item in container:
                        return self.decide(presence(container[item]))
                    return item in container
                raise self.gap("`in` a list of symbolic values isn't followed")
            return Sym("in", (item, tuple(container)))
        if isinstance(container, Config):
            return self.config_has(container, item)
        if isinstance(container, str) and isinstance(item, str):
            return item in container
        if is_symbolic(container):
            return Sym("in", (item, container))
        raise self.gap("`in` isn't followed here")

    def is_none(self, value):
        value = self.resolve(value)
        if value is None:
            return True
        if is_past(value):
            return self.decide(FIRST)
        inner = unwrap(value)
        if isinstance(inner, Choice):
            return self.ask_both(inner, self._decided_none)
        if not isinstance(inner, Sym):
            return False
        if inner.op == "ifexp":
            return self.ask_both(Choice(*inner.args), self._decided_none)
        scaling = old_configs.scaling_is_none(self.config, inner)
        if scaling is not None:
            return scaling
        if inner.op == "field":
            fields = self.config.fields
            if fields is None or inner.args[0] != self.config.path:
                return Sym("is_none", (inner,))
            name = inner.args[1]
            if name in fields.fields and not fields.may_be_none(name):
                return False
            return Sym("is_none", (inner,))
        if inner.op in ("item", "get", "call", "of"):
            return Sym("is_none", (inner,))
        if inner.op == "or_default":
            return Sym("is_none", (inner,)) if inner.args[2] is None else False
        return False

    def _decided_none(self, value) -> Any:
        return self.decide(self.is_none(value))

    def ask_both(self, choice: Choice, ask: Callable[[Any], Any]) -> Any:
        """ask of whichever side the condition takes: a bool, or the condition of it."""
        with self.assuming(choice.cond, True):
            then = ask(choice.then)
        with self.assuming(choice.cond, False):
            other = ask(choice.other)
        return self.decide(either(choice.cond, then, other))

    def truth(self, value):
        """Python's truth of a value: a bool, or a condition on the config."""
        value = self.resolve(value)
        inner = unwrap(value)
        if is_past(inner):
            first = self.decide(FIRST)
            return (not first) if isinstance(first, bool) else negate(first)
        if isinstance(inner, Opaque):
            raise self.gap(f"a branch depends on {inner.what}")
        if isinstance(inner, Node):
            return torch_ops.tensor_truth(self, inner)
        if isinstance(inner, Choice):
            return self.ask_both(inner, self.truth)
        if isinstance(inner, Sym):
            number = constant(inner)
            if number is not None:
                return bool(number)
            if inner.op in BOOLEAN:
                return self.decide(inner)
            if inner.op == "ifexp":
                cond, a, b = inner.args
                return self.ask_both(Choice(cond, a, b), self.truth)
            scaling = old_configs.scaling_is_none(self.config, inner)
            if scaling is not None:
                return self.decide(scaling) if scaling is False else negate(scaling)
            if inner.op in ("field", "item", "get", "call", "or_default", "of"):
                return self.decide(Sym("truthy", (inner,)))
            if not is_positive(inner):
                return self.decide(compare("ne", inner, 0))
            return True
        if isinstance(inner, Module) and inner.leaf == "torch.nn.ModuleList":
            return self.truth(builtin(self, "len", [inner], {}))
        if isinstance(
            inner, (Module, Cache, Function, Class, External, Config, Activation)
        ):
            return True
        if isinstance(inner, dict):
            return self.decide(any_present(inner))
        return bool(inner)


def _all_equal(left, right) -> Any:
    """Whether two sequences are equal: a bool, or a condition on sizes."""
    if len(left) != len(right):
        return False
    open_: list[Any] = []
    for a, b in zip(left, right, strict=True):
        verdict = compare("eq", a, b) if is_scalar(a) and is_scalar(b) else a is b
        if verdict is False:
            return False
        if verdict is not True:
            open_.append(verdict)
    if not open_:
        return True
    return open_[0] if len(open_) == 1 else Sym("and", tuple(open_))


def _flip(outcome):
    return (not outcome) if isinstance(outcome, bool) else negate(outcome)


def _compare_device(op, left, right):
    """vLLM runs on no Apple GPU; of other devices the source may make a difference."""
    other = right if isinstance(left, DeviceType) else left
    if other == "mps" and isinstance(op, (ast.Eq, ast.NotEq)):
        return isinstance(op, ast.NotEq)
    return Opaque("a comparison of devices")
