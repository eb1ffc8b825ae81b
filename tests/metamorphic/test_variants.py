"""Each variant is another text for the same HF model: its logits are the original's."""

import ast

import pytest
import torch

from tests.metamorphic.rename import Names
from tests.metamorphic.run_variant import variant_logits
from tests.metamorphic.variants import PARAMETERS, VARIANTS, Variant
from tests.reference.sources import SIX, source_text
from tests.reference.tiny import prompts

PROMPTS = prompts()[1:2]
ALL = (*VARIANTS, PARAMETERS)
_original: dict[str, list[torch.Tensor]] = {}


@pytest.mark.parametrize("variant", ALL, ids=lambda v: v.name)
@pytest.mark.parametrize("model", SIX)
def test_variant_computes_the_same(model: str, variant: Variant) -> None:
    text = source_text(model)
    if model not in _original:
        _original[model] = variant_logits(model, text, Names(), PROMPTS)
    changed, names = variant.make(text)
    assert changed != text
    torch.testing.assert_close(
        variant_logits(model, changed, names, PROMPTS),
        _original[model],
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("variant", ALL, ids=lambda v: v.name)
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
