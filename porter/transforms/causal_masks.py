"""Whether masked scores are scores under a causal mask, proved element by element.

A key at position j is attended to from position i exactly where j <= i and, with a
window w, i - j < w. The masked scores are evaluated for every way that their comparisons
can go (see analyze/pair_values.py): each way must give the bare score where that holds
and something that softmax makes 0 of where it doesn't. How the mask is written (added,
filled, multiplied, chosen by where; triangles, ranges, slices of a buffer) doesn't matter.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from porter.analyze.axes import leaves
from porter.analyze.graph import Node
from porter.analyze.inequalities import KEY, QUERY, difference, follows, subtract
from porter.analyze.pair_values import BLOCKED, Data, coordinates, value
from porter.analyze.paths import Path, Unproved, explore, split
from porter.analyze.symbols import PAST, SEQ, Poly, Sym, constant, from_poly, key, same


@dataclass(frozen=True)
class Masked:
    """scores: the node whose elements are masked. window: w, or None."""

    scores: Node
    window: Any


def prove_causal(node: Node, known: tuple[Poly, ...] = ()) -> Masked:
    """The bare scores and the window of `node`. Raises Unproved with what is amiss.

    known: facts about positions beside those that hold of all models.
    """
    at = coordinates(node)
    return _prove(explore(lambda paths: value(node, at, paths), known))


def _prove(ways: list[Path]) -> Masked:
    for way in ways:
        if way.conditions:
            return _by_condition(ways, way.conditions[0][0])
    kept = [way for way in ways if isinstance(way.value, Data)]
    blocked = [way for way in ways if not isinstance(way.value, Data)]
    for way in blocked:
        number = constant(way.value)
        if number is None or not number <= BLOCKED:
            raise Unproved(f"a masked score is {way.value}")
    scores = {id(way.value.node): way.value.node for way in kept}
    if len(scores) > 1:
        scores = {id(n): n for n in map(_under_views, scores.values())}
    if len(scores) != 1:
        raise Unproved("the scores differ by position" if kept else "all is masked")
    for way in kept:
        if not follows(difference(QUERY, KEY), way.facts):
            raise Unproved("a later token is attended to")
    node = next(iter(scores.values()))
    future = difference(KEY, QUERY, 1)
    behind = [way for way in blocked if not follows(future, way.facts)]
    if not behind:
        return Masked(node, None)
    return Masked(node, _window(behind, kept))


def _under_views(node: Node) -> Node:
    """The scores of which a view has the same queries and keys: heads beside the batch,
    or apart from it. One step may view them to add a mask, where another has none."""
    while node.op == "rearrange":
        base = node.args[0]
        ends = [[leaves(a) for a in n.axes[-2:]] for n in (node, base)]
        if ends[0] != ends[1]:
            break
        node = base
    return node


def _window(behind: list[Path], kept: list[Path]) -> Any:
    """w, where the first ways are those with i - j >= w and the others aren't."""
    distance = difference(QUERY, KEY)
    for bound in behind[0].bounds:
        window = subtract(distance, bound)
        if any(atom in _RUNTIME for monomial in window for atom, _ in monomial):
            continue
        inside = subtract(subtract(window, distance), {(): Fraction(1)})
        if all(follows(subtract(distance, window), w.facts) for w in behind) and all(
            follows(inside, w.facts) for w in kept
        ):
            return from_poly(window, behind[0].atoms)
    raise Unproved("tokens are masked that aren't out of a window")


_RUNTIME = {key(s) for s in (PAST, SEQ, QUERY, KEY)}


def _by_condition(ways: list[Path], cond: Sym) -> Masked:
    """A mask that a condition on the config chooses: each of the two is proved."""
    then, other = (_prove(side) for side in split(ways, cond))
    if then.scores is not other.scores:
        raise Unproved("the scores differ by a condition on the config")
    if then.window is other.window or same(then.window, other.window):
        return then
    return Masked(then.scores, Sym("ifexp", (cond, then.window, other.window)))
