"""Frequencies whose base grows with `alpha`, beside transformers' own rope types.

theta * alpha ** (dim / (dim - 2)) where the rope type is `dynamic` and an alpha is given:
vLLM's get_rope computes it under the same names.
"""

from typing import Any

from porter.analyze.graph import Node
from porter.analyze.symbols import Sym, arith, same, unwrap
from porter.transforms.matching import is_op


def split_alpha(node: Any, parameters_of) -> tuple[Any, Node, Node] | None:
    """(condition, frequencies with alpha, the others) of a choice between the two.

    parameters_of(type): the rope_parameters that a rope type was read from.
    """
    if not is_op(node, "phi"):
        return None
    cond, own, rest = node.args
    cond = unwrap(cond)
    if not (isinstance(cond, Sym) and cond.op == "and" and len(cond.args) == 2):
        return None
    for kind, given in (cond.args, cond.args[::-1]):
        kind, given = unwrap(kind), unwrap(given)
        if not (isinstance(kind, Sym) and kind.op == "eq" and "dynamic" in kind.args):
            continue
        rope_type = next(a for a in kind.args if a != "dynamic")
        parameters = parameters_of(rope_type)
        if parameters is None or not isinstance(given, Sym) or given.op != "truthy":
            continue
        if same(given.args[0], Sym("get", (parameters, "alpha", None))):
            return cond, own, rest
    return None


def alpha_base(theta, parameters, dim):
    """The base: theta times alpha^(dim / (dim - 2))."""
    alpha = Sym("item", (parameters, "alpha"))
    exponent = arith("truediv", dim, arith("sub", dim, 2))
    return arith("mul", theta, arith("pow", alpha, exponent))


def without_alpha(scaling, cond):
    """The attention scaling where there is no alpha; with it, it has to be 1."""
    inner = unwrap(scaling)
    if isinstance(inner, Sym) and inner.op == "ifexp" and same(inner.args[0], cond):
        return inner.args[2] if same(inner.args[1], 1) else None
    return None
