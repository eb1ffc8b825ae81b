"""What a mutant is, and that the judge tells a right port from a wrong one."""

import ast
from types import SimpleNamespace

import pytest

import porter.convert
from porter.zoo.listing import find
from tests.fuzz.__main__ import make_cases
from tests.fuzz.judge import PORTED, WRONG, Case, judge
from tests.fuzz.mutants import Mutant, mutants, sample

TEXT = '''
def f(x, scale=2.0):
    """Doc."""
    y = torch.cos(x, dim=-1) * 0.5  # ünï
    return y if scale > 1 else g(x, y)
'''


def test_every_mutant_is_python_and_another_text() -> None:
    found = mutants(TEXT, {4, 5})
    texts = [mutant.apply(TEXT) for mutant in found]
    assert len(set(texts)) == len(texts) and TEXT not in texts
    for text in texts:
        ast.parse(text)
    assert any("torch.sin(x, dim=-1)" in text for text in texts)
    assert any("g(y, x)" in text for text in texts)
    assert any("cos(x)" in text for text in texts)
    assert any("scale <= 1" in text for text in texts)


def test_only_the_lines_that_are_asked_for_change() -> None:
    assert {mutant.line for mutant in mutants(TEXT, {5})} == {5}
    assert mutants(TEXT, {2}) == []


def test_a_sample_is_the_same_for_the_same_seed() -> None:
    assert sample(TEXT, {4, 5}, 5, seed=1) == sample(TEXT, {4, 5}, 5, seed=1)
    assert sample(TEXT, {4, 5}, 5, seed=1) != sample(TEXT, {4, 5}, 5, seed=2)
    assert len(sample(TEXT, {4, 5}, 999, seed=1)) == len(mutants(TEXT, {4, 5}))


@pytest.fixture
def scaled() -> Case:
    """A model whose residual is scaled: expressible, and another function."""
    (specimen,) = find(["llama"])
    text = specimen.path.read_text(encoding="utf-8")
    old = "hidden_states = residual + hidden_states"
    start = text.index(old)
    line = text.count("\n", 0, start) + 1
    mutant = Mutant(line, start, start + len(old), old, f"{old} * 1.25")
    return Case(specimen, mutant, {})


def test_a_port_of_the_change_passes(scaled: Case) -> None:
    assert judge(scaled).verdict == PORTED


def test_a_port_of_the_old_arithmetic_is_wrong(
    scaled: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    unchanged = porter.convert.convert(scaled.specimen.path).text
    monkeypatch.setattr(
        porter.convert, "convert", lambda *_, **__: SimpleNamespace(text=unchanged)
    )
    assert judge(scaled).verdict == WRONG


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_random_changes_are_never_silently_wrong(name: str) -> None:
    (specimen,) = find([name])
    outcomes = [judge(case) for case in make_cases(specimen, 4, seed=11)]
    assert len(outcomes) == 4
    assert [o for o in outcomes if o.verdict == WRONG] == []
