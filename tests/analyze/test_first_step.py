"""A forward that does something else without a cache is refused, where it does."""

import pytest

from porter.convert import convert
from porter.gap import Refused
from tests.reference.sources import source_path, source_text

CACHE_MADE = "if use_cache and past_key_values is None:"
EMBEDDED = "inputs_embeds: torch.Tensor = self.embed_tokens(input_ids)"


def refusal(old: str, new: str) -> str:
    text = source_text("llama")
    assert text.count(old) == 1
    with pytest.raises(Refused) as caught:
        convert(source_path("llama"), text=text.replace(old, new))
    return str(caught.value)


def test_a_cache_that_is_made_anew_at_each_step() -> None:
    message = refusal(CACHE_MADE, CACHE_MADE.replace(" and ", " or "))
    assert "another cache than that of the steps before" in message


def test_arithmetic_of_later_steps_alone() -> None:
    margin = "\n" + " " * 12
    scaled = "if past_key_values is not None: inputs_embeds = inputs_embeds * 2"
    message = refusal(EMBEDDED, EMBEDDED + margin + scaled)
    assert "a step with a cache computes something else than the first" in message


def test_another_order_of_heads_in_later_steps() -> None:
    """Equal sizes, other factors: the layout tells them apart."""
    old = "attn_output = self.o_proj(attn_output)"
    swapped = (
        "if use_cache_before:\n"
        "            attn_output = attn_output.view(*input_shape, 2, -1)"
        ".transpose(-1, -2).reshape(*input_shape, -1)\n"
        f"        {old}"
    )
    swapped = swapped.replace("use_cache_before", "kwargs.get('again') is not None")
    text = source_text("llama").replace(old, swapped)
    handed = "self.model(\n            input_ids=input_ids,"
    assert text.count(handed) == 1
    text = text.replace(handed, f"{handed}\n            again=past_key_values,")
    with pytest.raises(Refused) as caught:
        convert(source_path("llama"), text=text)
    assert "a step with a cache" in str(caught.value)
