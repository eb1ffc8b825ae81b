"""Every way through a computation that branches on positions and on the config.

`explore(compute)` runs `compute(paths)` once for each way. A comparison that the facts
don't decide is taken both ways, and is a fact from there on; so each result comes with
the inequalities, and the conditions on the config, under which it holds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from porter.analyze.inequalities import difference, domain, follows, opposite
from porter.analyze.symbols import Poly, Sym, collect_atoms, contains, unwrap

_MOST_PATHS = 512


class Unproved(Exception):
    """What a value is can't be told; the message says of what and why."""


@dataclass
class Path:
    """One way: facts (polynomials >= 0), bounds (those decided on the way, in order),
    conditions on the config with their truth, what was computed, and the terms of the
    bounds by key."""

    facts: list[Poly]
    bounds: list[Poly]
    conditions: list[tuple[Sym, bool]]
    value: Any = None
    atoms: dict[Any, Sym] = field(default_factory=dict)


@dataclass
class Paths:
    """The way that is being gone: what was decided so far, and the script to follow."""

    script: list[bool]
    facts: list[Poly] = field(default_factory=domain)
    bounds: list[Poly] = field(default_factory=list)
    conditions: list[tuple[Sym, bool]] = field(default_factory=list)
    taken: list[bool] = field(default_factory=list)
    atoms: dict[Any, Sym] = field(default_factory=dict)

    def _choose(self) -> bool:
        at = len(self.taken)
        choice = self.script[at] if at < len(self.script) else True
        self.taken.append(choice)
        return choice

    def at_least_zero(self, p: Poly) -> bool:
        """Whether the integer p is >= 0 here; decided, and noted, if it isn't known."""
        if any(c.denominator != 1 for c in p.values()):
            raise Unproved("positions are compared with something that is no integer")
        if follows(p, self.facts):
            return True
        if follows(opposite(p), self.facts):
            return False
        choice = self._choose()
        fact = p if choice else opposite(p)
        self.facts.append(fact)
        self.bounds.append(fact)
        return choice

    def compare(self, op: str, a: Any, b: Any) -> bool:
        collect_atoms(a, self.atoms)
        collect_atoms(b, self.atoms)
        if op == "lt":
            return self.at_least_zero(difference(b, a, 1))
        if op == "le":
            return self.at_least_zero(difference(b, a))
        if op == "gt":
            return self.at_least_zero(difference(a, b, 1))
        if op == "ge":
            return self.at_least_zero(difference(a, b))
        equal = self.at_least_zero(difference(a, b)) and self.at_least_zero(
            difference(b, a)
        )
        return equal if op == "eq" else not equal

    def condition(self, cond: Any) -> bool:
        """Python's truth of a condition on the config or on the runtime sizes."""
        cond = unwrap(cond)
        if not isinstance(cond, Sym):
            return bool(cond)
        if cond.op == "not":
            return not self.condition(cond.args[0])
        if contains(cond, "runtime"):
            if cond.op in ("and", "or"):
                fn = all if cond.op == "and" else any
                return fn(self.condition(c) for c in cond.args)
            if cond.op in ("eq", "lt"):
                return self.compare(cond.op, *cond.args)
            raise Unproved("a condition on the number of tokens")
        for known, holds in self.conditions:
            if known.key == cond.key:
                return holds
        choice = self._choose()
        self.conditions.append((cond, choice))
        return choice


def explore(
    compute: Callable[[Paths], Any], known: tuple[Poly, ...] = ()
) -> list[Path]:
    """All ways of `compute`; raises Unproved where it does, or where they are too many.

    known: facts beside those that hold of all models.
    """
    found: list[Path] = []
    todo: list[list[bool]] = [[]]
    while todo:
        if len(found) > _MOST_PATHS:
            raise Unproved("it depends on too many comparisons")
        script = todo.pop()
        paths = Paths(script, [*domain(), *known])
        value = compute(paths)
        found.append(
            Path(paths.facts, paths.bounds, paths.conditions, value, paths.atoms)
        )
        for at in range(len(script), len(paths.taken)):
            todo.append([*paths.taken[:at], not paths.taken[at]])
    return found


def split(ways: list[Path], cond: Sym) -> tuple[list[Path], list[Path]]:
    """The ways on which cond holds, and those on which it doesn't."""
    sides: tuple[list[Path], list[Path]] = ([], [])
    for way in ways:
        rest = [(c, h) for c, h in way.conditions if c.key != cond.key]
        held = [h for c, h in way.conditions if c.key == cond.key]
        for i, side in enumerate((True, False)):
            if not held or held[0] is side:
                sides[i].append(replace(way, conditions=rest))
    return sides
