"""Each variant is another text for the same HF model: its logits are the original's."""

import ast

import pytest
import torch

from tests.metamorphic.rename import Names
from tests.metamorphic.variants import VARIANTS, Variant
from tests.reference.sources import SIX, exec_source, release, source_text
from tests.reference.tiny import build, logits, prompts, tiny_config

PROMPT = prompts()[1]
_original: dict[str, torch.Tensor] = {}


def causal_lm(model: str, names: Names) -> str:
    return names.globals.get(SIX[model].causal_lm, SIX[model].causal_lm)


def run(model: str, text: str, names: Names) -> torch.Tensor:
    module = exec_source(model, text)
    try:
        back = {new: old for old, new in names.attributes.items()}
        config = tiny_config(model)
        net = build(module, causal_lm(model, names), config, back)
        return logits(net, PROMPT)
    finally:
        release(module)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize("model", SIX)
def test_variant_computes_the_same(model: str, variant: Variant) -> None:
    text = source_text(model)
    if model not in _original:
        _original[model] = run(model, text, Names())
    changed, names = variant.make(text)
    assert changed != text
    torch.testing.assert_close(
        run(model, changed, names), _original[model], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize("model", SIX)
def test_variant_is_deterministic(model: str, variant: Variant) -> None:
    text = source_text(model)
    assert variant.make(text) == variant.make(text)


@pytest.mark.parametrize("model", SIX)
def test_no_author_name_is_left(model: str) -> None:
    (variant,) = (v for v in VARIANTS if v.name == "all names")
    changed, names = variant.make(source_text(model))
    left = {
        node.attr
        for node in ast.walk(ast.parse(changed))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    assert not left & set(names.attributes)
    assert len(names.attributes) >= 20
    assert len(names.locals) >= 20
