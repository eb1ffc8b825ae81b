"""Conditions that exclude themselves are decided, whatever their order."""

from itertools import permutations

import pytest

from porter.analyze.interpreter import Interpreter
from porter.analyze.symbols import Sym, config_field
from porter.analyze.values import Config
from porter.source import SourceSet
from tests.transforms.cases import SCAFFOLD

A, B, C = (Sym("truthy", (config_field(("config",), name),)) for name in "abc")
BOTH = Sym("and", (A, B))
EITHER = Sym("or", (A, B))


def decide(cond: Sym):
    sources = SourceSet()
    file = sources.load(SCAFFOLD)
    return Interpreter(sources, file, Config(("config",), None)).decide(cond)


@pytest.mark.parametrize("parts", list(permutations((Sym("not", (BOTH,)), A, B))))
def test_what_excludes_the_rest_is_false(parts: tuple) -> None:
    assert decide(Sym("and", parts)) is False


@pytest.mark.parametrize("parts", list(permutations((Sym("not", (EITHER,)), A, B))))
def test_what_holds_without_the_rest_is_true(parts: tuple) -> None:
    assert decide(Sym("or", parts)) is True


@pytest.mark.parametrize(
    ("op", "parts"),
    [
        ("and", (Sym("not", (BOTH,)), A)),
        ("and", (Sym("not", (BOTH,)), A, C)),
        ("or", (Sym("not", (EITHER,)), A)),
        ("or", (Sym("not", (BOTH,)), C)),
        ("and", (A, B)),
        ("or", (A, B)),
    ],
)
def test_others_stay_open(op: str, parts: tuple) -> None:
    assert not isinstance(decide(Sym(op, parts)), bool)
