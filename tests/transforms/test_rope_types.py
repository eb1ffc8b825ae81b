"""The rope types for which a table that the source makes by type is vLLM's."""

import re

import pytest

from porter.gap import Refused
from tests.transforms.cases import FOLDER, SCAFFOLD, splice
from tests.transforms.test_cases import port_of

CASE = (FOLDER / "substitute_rope/cached_by_type.py").read_text("utf-8")
SOURCE = CASE[: CASE.index("# output")]


def types(source: str) -> tuple[str, ...]:
    """What `check_rope` of the port lets pass."""
    text = port_of(splice(SCAFFOLD.read_text("utf-8"), source)[0]).text
    found = re.search(r"rope_type not in \((.*?)\)", text)
    assert found is not None
    return tuple(re.findall(r'"(\w+)"', found[1]))


def test_the_default_formula_divided_for_one_type() -> None:
    assert types(SOURCE) == ("default", "linear", "dynamic")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('places / rope["factor"]', 'places / (rope["factor"] + 1.0)'),
        ('places / rope["factor"]', 'places * rope["factor"]'),
        ('== "linear"', '== "yarn"'),
    ],
)
def test_another_formula_for_a_type_is_none_of_the_port_s(old: str, new: str) -> None:
    assert SOURCE.count(old) == 1
    assert types(SOURCE.replace(old, new)) == ("default", "dynamic")


def test_a_type_ignored_by_the_source_is_only_what_vllm_does_too() -> None:
    source = SOURCE.replace('if rope["rope_type"] == "linear":', "if False:")
    assert types(source) == ("default", "dynamic")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.cat((angles, angles), dim=-1)", "torch.cat((angles, -angles), dim=-1)"),
        ("1.0 / (rope", "2.0 / (rope"),
        ("torch.arange(config.max", "1 + torch.arange(config.max"),
    ],
)
def test_another_table_is_not_vllm_s(old: str, new: str) -> None:
    assert SOURCE.count(old) == 1
    source = SOURCE.replace(old, new)
    try:
        text = port_of(splice(SCAFFOLD.read_text("utf-8"), source)[0]).text
    except Refused:
        return
    assert "get_rope(" not in text


LENGTH = (FOLDER / "substitute_rope/scaled_by_length.py").read_text("utf-8")
BY_LENGTH = LENGTH[: LENGTH.index("# output")]


def test_a_scale_of_longrope_s_own_bounds_the_length() -> None:
    text = port_of(splice(SCAFFOLD.read_text("utf-8"), BY_LENGTH)[0]).text
    assert types(BY_LENGTH) == ("default", "longrope")
    bound = 'config.rope_parameters["original_max_position_embeddings"]'
    asked = re.search(r"if \((.*?)\):\n *raise ValueError\(\n? *\"exact", text, re.S)
    assert asked is not None and " ".join(asked[1].split()) == (
        'config.rope_parameters["rope_type"] != "default" and '
        f"vllm_config.model_config.max_model_len > {bound}"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('scale = rope["short_mscale"]', 'scale = rope["long_mscale"]'),
        ('scale = rope["short_mscale"]', 'scale = 2 * rope["short_mscale"]'),
        ('length > rope["orig', 'length < rope["orig'),
    ],
)
def test_another_scale_is_not_longrope_s(old: str, new: str) -> None:
    assert BY_LENGTH.count(old) == 1
    try:
        assert "longrope" not in types(BY_LENGTH.replace(old, new))
    except Refused:
        return
