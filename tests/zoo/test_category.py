"""The category of a specimen follows the fields that its config class declares."""

import pytest

from porter.config_class import ConfigClass
from porter.zoo.category import category, category_of
from porter.zoo.listing import find


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LlamaForCausalLM", "attention"),
        ("GPT2LMHeadModel", "attention"),
        ("MixtralForCausalLM", "moe"),
        ("MiniCPM3ForCausalLM", "mla"),
        ("DeepseekV3ForCausalLM", "mla+moe"),
        ("MambaForCausalLM", "state"),
        ("Lfm2ForCausalLM", "state"),
    ],
)
def test_category_of_a_specimen(name: str, expected: str) -> None:
    (specimen,) = find([name])
    assert category(specimen) == expected


def test_a_count_that_is_off_is_not_there() -> None:
    def declared(default: int | None) -> ConfigClass:
        config = ConfigClass("A", fields={"num_experts": default})
        config.annotations["num_experts"] = "int | None"
        return config

    assert category_of(declared(8)) == "moe"
    assert category_of(declared(None)) == category_of(declared(0)) == "attention"
