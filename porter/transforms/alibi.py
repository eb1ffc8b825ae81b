"""A bias on attention scores that grows with the key's position  ->  alibi_slopes.

vLLM's Attention adds slope * (key position - query position), a slope for each head.
Softmax takes no notice of what is the same for all keys, so a bias is that wherever, for
each head, it is slope * key position + anything that doesn't depend on the key. This is
proved on the bias's elements (analyze/pair_values.py); the slopes are what the source
computes them to be. Attention with Linear Biases (Press et al. 2021), arXiv:2108.12409.
"""

from collections.abc import Callable
from typing import Any

from porter.analyze.axes import leaves
from porter.analyze.graph import Node
from porter.analyze.inequalities import KEY
from porter.analyze.pair_values import Data, coordinates, value
from porter.analyze.paths import Unproved, explore
from porter.analyze.symbols import Sym, arith, constant, contains, same, unwrap
from porter.transforms.matching import strip_views


def slopes_of(bias: Node, make: Callable[..., Node]) -> Node:
    """The slope of each head, [heads], of a bias on scores [..., heads, query, key].

    make(op, args, axes): a new node. Raises Unproved with what is amiss.
    """
    at = coordinates(bias)
    ways = explore(lambda paths: value(bias, at, paths))
    if len(ways) != 1:
        raise Unproved("a bias on the scores that isn't one line over the positions")
    found = ways[0].value
    if not isinstance(found, Data) or found.terms is None:
        raise Unproved(
            "a bias on the scores that isn't slope * position, or not in float32"
        )
    heads = _heads(bias)
    total: Node | None = None
    for factors, expression in found.terms:
        rise = _rise(expression)
        if constant(rise) == 0:
            continue
        part = _product(factors, rise, heads, make)
        total = part if total is None else make("add", (total, part), (heads,))
    if total is None:
        raise Unproved("a bias on the scores that doesn't depend on the key")
    return total


def _heads(bias: Node) -> tuple:
    """The factors of the axes that aren't tokens: the heads, in order."""
    lead = bias.axes[:-2] if len(bias.axes) > 2 else ()
    return tuple(f for a in lead for f in leaves(a) if not f.role)


def _rise(expression: Any) -> Any:
    """How much an expression of the positions grows by from one key to the next."""
    x = unwrap(expression)
    if not isinstance(x, Sym) or not _has_key(x):
        return 0
    if same(x, KEY):
        return 1
    if x.op == "neg":
        return arith("neg", _rise(x.args[0]))
    a, b = x.args if len(x.args) == 2 else (None, None)
    if x.op in ("add", "sub"):
        return _sum(x.op, _rise(a), _rise(b))
    if x.op == "mul" and not (_has_key(a) and _has_key(b)):
        moving, fixed = (a, b) if _has_key(a) else (b, a)
        return arith("mul", _rise(moving), _free(fixed))
    if x.op == "truediv" and not _has_key(b):
        return arith("truediv", _rise(a), _free(b))
    raise Unproved("a bias on the scores that is no line over the positions")


def _sum(op: str, a: Any, b: Any) -> Any:
    if constant(b) == 0:
        return a
    if constant(a) == 0:
        return b if op == "add" else arith("neg", b)
    return arith(op, a, b)


def _free(x: Any) -> Any:
    if contains(x, "runtime"):
        raise Unproved("a bias on the scores whose slope depends on the tokens")
    return x


def _has_key(x: Any) -> bool:
    x = unwrap(x)
    if isinstance(x, Sym):
        return x.key == KEY.key or any(_has_key(a) for a in x.args)
    return False


def _product(factors, rise, heads, make) -> Node:
    made: Node | None = None
    for factor in factors:
        flat = _along_heads(factor, heads, make)
        made = flat if made is None else make("mul", (made, flat), (heads,))
    if made is None:
        raise Unproved("a bias on the scores that is the same for all heads")
    if constant(rise) == 1:
        return made
    return make("mul", (made, rise), (heads,))


def _along_heads(factor: Node, heads, make) -> Node:
    mine = tuple(f for a in factor.axes for f in leaves(a))
    if [id(f) for f in mine] != [id(f) for f in heads]:
        raise Unproved("a bias on the scores whose slopes aren't one for each head")
    base = strip_views(factor)
    if base.axes == (heads,):
        return base
    return make("rearrange", (base,), (heads,))


def scaled_slopes(slopes: Node, scale: Any, make) -> Node:
    """The slopes of scale * (q @ k.T + bias)."""
    if constant(scale) == 1:
        return slopes
    return make("mul", (slopes, scale), slopes.axes)


def summed(parts: list[Node], make) -> Node:
    total = parts[0]
    for part in parts[1:]:
        total = make("add", (total, part), total.axes)
    return total
