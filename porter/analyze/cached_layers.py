"""Layers whose cache stays empty: those of which a condition says that none is written.

A source may ask whether a layer's cache holds anything yet, and skip the layer while it
doesn't (cross-attention without images). Where it asks under a condition on the layer
under which nothing ever writes that cache, the answer is no, at every step: the first
step finds the cache empty and leaves it so. Both sides are noted and compared.
"""

from typing import Any

from porter.analyze.part import Part
from porter.analyze.symbols import Sym, contains, same, unwrap


class CachedLayers(Part):
    """The part of the interpreter that knows which caches stay empty."""

    def decide_cached(self, cond: Sym) -> Any:
        """Whether a layer's cache holds tokens: False where no such layer writes it."""
        if not any(contains(c, "layer") for c, _ in self.conditions):
            return cond
        self.cache_asked.append(self.conditions)
        self._compare_caches()
        return False

    def note_cache_write(self) -> None:
        self.cache_written.append(self.conditions)
        self._compare_caches()

    def _compare_caches(self) -> None:
        for asked in self.cache_asked:
            for written in self.cache_written:
                if not _exclude(asked, written):
                    raise self.gap(
                        "what a layer computes depends on whether its cache is empty"
                    )


def _exclude(a, b) -> bool:
    """Whether two lists of conditions can't hold of the same layer."""
    plain = [[_plain(*item) for item in side] for side in (a, b)]
    return any(
        same(x, y) and holds is not other
        for x, holds in plain[0]
        for y, other in plain[1]
    )


def _plain(cond, holds: bool) -> tuple[Any, bool]:
    cond = unwrap(cond)
    while isinstance(cond, Sym) and cond.op == "not":
        cond, holds = unwrap(cond.args[0]), not holds
    return cond, holds
