"""Iterables of symbolic length: layers, ranges over a config field, their slices."""

from collections.abc import Hashable

from porter.analyze.symbols import is_symbolic
from porter.analyze.values import Module


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


def different(items: list) -> tuple:
    """A set's items: those that are known to be equal once."""
    if any(is_symbolic(item) or not isinstance(item, Hashable) for item in items):
        return tuple(items)
    return tuple(dict.fromkeys(items))
