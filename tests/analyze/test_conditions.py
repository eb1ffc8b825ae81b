"""Conditions that exclude themselves are decided, whatever their order."""

from itertools import permutations

import pytest

from porter.analyze.interpreter import Interpreter
from porter.analyze.symbols import Sym, config_field
from porter.analyze.values import Config
from porter.convert import convert
from porter.source import SourceSet
from tests.reference.sources import source_path, source_text
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


@pytest.mark.parametrize(("name", "joined"), [("any", "or"), ("all", "and")])
def test_any_and_all_of_a_config_s_fields(name: str, joined: str) -> None:
    """A generator of conditions is one condition, which the port keeps."""
    old = "inputs_embeds: torch.Tensor = self.embed_tokens(input_ids)"
    fields = "('attention_bias', 'mlp_bias')"
    scaled = (
        f"if {name}(getattr(self.config, k, False) for k in {fields}):\n"
        f"{' ' * 16}inputs_embeds = inputs_embeds * 2"
    )
    text = source_text("llama")
    assert text.count(old) == 1
    text = text.replace(old, f"{old}\n{' ' * 12}{scaled}")
    port = convert(source_path("llama"), text=text).text
    assert f"if self.attention_bias {joined} self.mlp_bias:" in port
