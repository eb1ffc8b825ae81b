"""What each pipeline stage has of the model's own modules."""

from pathlib import Path

import pytest

from porter.convert import convert
from porter.gap import Refused
from porter.verify.verification import verify
from tests.reference.sources import source_path
from tests.transforms.cases import SCAFFOLD

FIRST = "        hidden_states = inputs_embeds\n"
LAYER = (
    "            hidden_states = layer(hidden_states, mask, tables, past_key_values)\n"
)


def edited(*edits: tuple[str, str]) -> str:
    text = SCAFFOLD.read_text(encoding="utf-8")
    for old, new in edits:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def test_a_norm_behind_the_layers_is_on_the_last_stage() -> None:
    port = convert(SCAFFOLD).text
    guard = "        if get_pp_group().is_last_rank:\n            self.last_norm = "
    assert guard in port


def test_a_norm_before_and_behind_the_layers_is_on_every_stage() -> None:
    normed = FIRST.replace("inputs_embeds", "self.last_norm(inputs_embeds)")
    port = convert(SCAFFOLD, text=edited((FIRST, normed))).text
    assert port.count("self.last_norm = ") == 1
    assert "\n        self.last_norm = RMSNorm(" in port


def test_the_layers_use_nothing_that_a_stage_lacks() -> None:
    """A module beside the layers, whether or not it is used before them, too."""
    between = LAYER.replace("layer(", "layer(self.last_norm(").replace(
        "states, mask", "states), mask"
    )
    normed = FIRST.replace("inputs_embeds", "self.last_norm(inputs_embeds)")
    for edits in ([(LAYER, between)], [(LAYER, between), (FIRST, normed)]):
        with pytest.raises(Refused, match="uses a module beside the layers"):
            convert(SCAFFOLD, text=edited(*edits))


def test_stages_of_a_model_that_norms_twice_by_one_module(tmp_path: Path) -> None:
    port = tmp_path / "nanochat.py"
    port.write_text(convert(source_path("nanochat")).text)
    result = verify(port, device="cpu")
    assert result.passed, result.failures
    assert result.invariances["pp2"] and result.invariances["tp2"]
