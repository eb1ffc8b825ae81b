"""What a value is, in the words of a gap's reader."""

from typing import Any

from porter.analyze.expert_loops import ExpertIndex
from porter.analyze.graph import Node
from porter.analyze.symbols import Sym, unwrap
from porter.analyze.values import Choice, Config, Function, Module, Opaque

_KINDS: tuple[tuple[Any, str], ...] = (
    (type(None), "None"),
    (bool, "a truth value"),
    ((int, float), "a number"),
    (str, "a string"),
    ((tuple, list), "a list"),
    (dict, "a dictionary"),
    (Node, "a tensor"),
    (Sym, "a value that the config decides"),
    (Choice, "one of two things, as the config decides,"),
    (Module, "a module"),
    (Config, "the config"),
    (Function, "a function"),
    (ExpertIndex, "an expert's number"),
)


def kind_of(value: Any) -> str:
    """With its article; the name of the analysis' own class where there are no words."""
    value = unwrap(value)
    if isinstance(value, Opaque):
        return value.what
    for kind, words in _KINDS:
        if isinstance(value, kind):
            return words
    return f"a {type(value).__name__}"
