"""Functions of one tensor are kept as they are, by name where Python has no operator."""

import pytest
import torch

from porter.analyze.torch_elementwise import UNARY
from porter.convert import convert
from porter.transforms.paths import ELEMENTWISE
from tests.transforms.cases import SCAFFOLD

FORWARD = "        return self.down(self.act(self.up(x)))\n"


@pytest.mark.parametrize("name", sorted(UNARY - {"neg", "square"}))
def test_it_is_written_as_it_was_read(name: str) -> None:
    module = "torch" if hasattr(torch, name) else "nn.functional"
    text = SCAFFOLD.read_text(encoding="utf-8")
    assert text.count(FORWARD) == 1
    changed = FORWARD.replace("self.act(", f"{module}.{name}(")
    port = convert(SCAFFOLD, text=text.replace(FORWARD, changed)).text
    forms = (f"torch.{name}(x)", f"F.{name}(x)", f"x.{name}()")
    assert any(f"self.down({form})" in port for form in forms)


def test_each_is_elementwise() -> None:
    assert UNARY <= ELEMENTWISE
