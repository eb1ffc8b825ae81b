"""The property under pytest: another text of the model, the same port."""

import pytest

from tests.metamorphic.judge import judge
from tests.metamorphic.variants import VARIANTS, Variant
from tests.reference.sources import SIX


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize("model", SIX)
def test_same_port_up_to_names(model: str, variant: Variant) -> None:
    outcome = judge(model, variant)
    assert outcome.canonical, outcome.first
