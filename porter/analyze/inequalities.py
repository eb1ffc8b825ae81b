"""Proofs about integers: which comparisons of positions follow from which.

A fact is a polynomial (see symbols.poly) known to be at least 0. Whether another one is
too is decided by the search for a few facts whose sum is it, up to a constant that isn't
negative. That is sound, and enough for comparisons of positions with each other.
"""

from fractions import Fraction
from typing import Any

from porter.analyze.symbols import PAST, SEQ, Poly, Sym, poly, same, simplify

QUERY = Sym("runtime", ("query",))  # absolute position of the token that attends
KEY = Sym("runtime", ("key",))  # absolute position of the token attended to

_MOST_FACTS = 4


def subtract(a: Poly, b: Poly) -> Poly:
    out = dict(a)
    for m, c in b.items():
        out[m] = out.get(m, Fraction(0)) - c
    return {m: c for m, c in out.items() if c}


def difference(a: Any, b: Any, less: int = 0) -> Poly:
    """a - b - less."""
    return subtract(subtract(poly(a), poly(b)), poly(less))


def opposite(p: Poly) -> Poly:
    """-p - 1: at least 0 where p, an integer, is not."""
    return subtract(subtract({}, p), {(): Fraction(1)})


def domain() -> list[Poly]:
    """What always holds: keys 0 .. past + seq - 1, queries past .. past + seq - 1."""
    last = Sym("sub", (Sym("add", (PAST, SEQ)), 1))
    return [
        difference(KEY, 0),
        difference(last, KEY),
        difference(QUERY, PAST),
        difference(last, QUERY),
        difference(PAST, 0),
        difference(SEQ, 1),
    ]


def without_cache() -> tuple[Poly, ...]:
    """What holds beside where a model reads all tokens anew: there are none before."""
    return (difference(0, PAST),)


def follows(goal: Poly, facts: list[Poly]) -> bool:
    """Whether goal >= 0 is a sum of a few of the facts and a constant >= 0."""
    return _follows(goal, facts, _MOST_FACTS)


def _follows(goal: Poly, facts: list[Poly], most: int) -> bool:
    rest = [m for m in goal if m != ()]
    if not rest:
        return goal.get((), Fraction(0)) >= 0
    if not most:
        return False
    # one of its terms must come from a fact that has it with the same sign
    term = min(rest, key=repr)
    positive = goal[term] > 0
    for fact in facts:
        if term in fact and (fact[term] > 0) is positive:
            if _follows(subtract(goal, fact), facts, most - 1):
                return True
    return False


def contradictory(facts: list[Poly]) -> bool:
    """Whether the newest fact can't hold beside the others: 0 > its negation's sum."""
    *others, last = facts
    return follows(opposite(last), others)


def larger_of(a: Any, b: Any) -> int | None:
    """0 where a >= b always, 1 where b >= a, None where neither is known."""
    if follows(difference(a, b), domain()):
        return 0
    if follows(difference(b, a), domain()):
        return 1
    total = Sym("add", (a, b))  # n - p < p for the largest power of two p <= n
    for at, part in enumerate((a, b)):
        if same(part, _power_below(total)):
            return at
    return None


def _power_below(n: Any) -> Sym:
    """2 ** floor(log2(n)), as sources write it."""
    exponent = Sym("call", ("math.log2", simplify(n)))
    return Sym("pow", (2, Sym("call", ("math.floor", exponent))))
