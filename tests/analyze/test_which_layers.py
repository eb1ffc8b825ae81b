"""Which layers a loop runs through, and by what number it knows them."""

import pytest

from porter.convert import convert
from porter.gap import Refused
from tests.transforms.cases import SCAFFOLD

HEAD = "        for layer in self.layers:\n"
BODY = (
    "            hidden_states = layer(hidden_states, mask, tables, past_key_values)\n"
)
SCALED = f"{BODY}            hidden_states = hidden_states * k\n"
VALUES = "self.config.rope_parameters['factors']"


def loop(head: str, body: str = BODY) -> str:
    text = SCAFFOLD.read_text(encoding="utf-8")
    assert text.count(HEAD + BODY) == 1
    port = convert(SCAFFOLD, text=text.replace(HEAD + BODY, head + body)).text
    made = port[port.index("class TernModel") :]
    return " ".join(made[made.index("for layer") :].split())


@pytest.mark.parametrize(
    ("cut", "layers"),
    [
        ("1:", "islice(self.layers, max(self.start_layer, 1), self.end_layer)"),
        (":3", "islice(self.layers, self.start_layer, min(self.end_layer, 3))"),
        (":-1", "min(self.end_layer, self.num_hidden_layers - 1)"),
        (": self.config.num_hidden_layers", "self.start_layer, self.end_layer)"),
    ],
)
def test_a_part_of_the_layers(cut: str, layers: str) -> None:
    assert layers in loop(HEAD.replace("self.layers", f"self.layers[{cut}]"))


def test_layers_by_number() -> None:
    made = loop("        for k, layer in enumerate(self.layers):\n", SCALED)
    assert "* layer_idx" in made


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("for k, layer in enumerate(self.layers, 1):", "another number than 0"),
        ("for k, layer in enumerate(self.layers, start=1):", "another number than 0"),
        ("for k, layer in enumerate(self.layers[1:]):", "another one than the first"),
        (f"for layer, k in zip(self.layers[1:], {VALUES}):", "than the first"),
        ("for layer, k in zip(self.layers[:2], self.layers):", "different places"),
        ("for k, layer in zip(range(1, 9), self.layers):", "a range isn't followed"),
    ],
)
def test_it_is_refused(head: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        loop(f"        {head}\n", SCALED)
