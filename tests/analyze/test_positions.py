"""The ways in which sources number their tokens, each in a model of its own."""

import pytest

from porter.gap import Refused
from tests.transforms.cases import SCAFFOLD
from tests.transforms.test_cases import port_of

PLUS_PAST = "(torch.arange(inputs_embeds.shape[1]) + past)[None]"
FROM_PAST = "torch.arange(past, past + inputs_embeds.shape[1])[None]"
COUNTED = (
    "(torch.ones(inputs_embeds.shape[0], past + inputs_embeds.shape[1])"
    ".long().cumsum(1) - 1)[:, past:]"
)


def source(positions: str, places: str = "position_ids") -> str:
    """The scaffold, its tokens numbered by `positions`, with learned `places`."""
    text = SCAFFOLD.read_text(encoding="utf-8")
    at = text.index("            position_ids = torch.arange")
    end = text.index("        mask = create_causal_mask", at)
    text = f"{text[:at]}            position_ids = {positions}\n{text[end:]}"
    tokens = (
        "        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)\n"
    )
    assert tokens in text
    sizes = "config.max_position_embeddings, config.hidden_size"
    text = text.replace(
        tokens, f"{tokens}        self.places = nn.Embedding({sizes})\n"
    )
    sum_ = f"hidden_states = inputs_embeds + self.places({places})\n"
    return text.replace("hidden_states = inputs_embeds\n", sum_)


def looked_up(positions: str, places: str = "position_ids") -> str:
    """What the port looks its learned places up with."""
    text = port_of(source(positions, places)).text
    return text.partition("self.places(")[2].partition(")\n")[0]


@pytest.mark.parametrize("expression", [PLUS_PAST, FROM_PAST, COUNTED])
def test_each_way_is_the_engine_s_positions(expression: str) -> None:
    assert looked_up(expression) == "positions"


@pytest.mark.parametrize(
    ("places", "shown"),
    [
        ("position_ids + 2", "positions + 2"),
        (f"{PLUS_PAST} + 2", "positions + 2"),
        (f"{FROM_PAST} - 1", "positions - 1"),
        (COUNTED.replace("- 1", "+ 1"), "positions + 2"),
        (COUNTED.replace(" - 1", ""), "positions + 1"),
    ],
)
def test_an_offset_is_kept(places: str, shown: str) -> None:
    positions = COUNTED if "cumsum" in places else PLUS_PAST
    assert looked_up(positions, places) == shown


def test_positions_with_an_offset_make_another_mask() -> None:
    with pytest.raises(Refused, match="mask is made from other positions"):
        port_of(source(f"{PLUS_PAST} + 2"))


@pytest.mark.parametrize(
    "places",
    [
        "torch.arange(inputs_embeds.shape[1])[None]",
        f"{PLUS_PAST} + past",
        f"{FROM_PAST} - past",
        "torch.arange(past + inputs_embeds.shape[1])[None]",
        "torch.arange(past, past + inputs_embeds.shape[1], 2)[None]",
        COUNTED.replace("past:]", "1:]"),
        COUNTED.replace("[:, past:]", ""),
        COUNTED.replace("cumsum(1)", "cumsum(0)"),
    ],
)
def test_other_numbers_are_refused(places: str) -> None:
    positions = COUNTED if "cumsum" in places else PLUS_PAST
    with pytest.raises(Refused):
        port_of(source(positions, places))
