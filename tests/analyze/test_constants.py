"""Tensors of the config alone: what a forward fills in, what a constructor computed."""

import pytest

from porter.convert import convert
from porter.gap import Refused
from tests.transforms.cases import SCAFFOLD, splice

ROTARY = """\
class TernRotaryEmbedding:
    def __init__(self, config: TernConfig):
        super().__init__()
        self.config = config
        steps = torch.arange(0, config.head_dim, 2).float() / config.head_dim
        {made}

    def forward(self, x, position_ids):
        {filled}
        angles = position_ids[..., None].float() * self.{read}
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)
"""


def port_of(made: str, filled: str, read: str) -> str:
    body = ROTARY.format(
        made=made.replace("\n", "\n        "),
        filled=filled.replace("\n", "\n        "),
        read=read,
    )
    text, _ = splice(SCAFFOLD.read_text(encoding="utf-8"), body)
    return convert(SCAFFOLD, text=text).text


FILL = """\
if self.table is None:
    size = self.config.head_dim
    self.table = {value}"""


def test_what_the_first_forward_fills_in_is_a_table_of_the_constructor() -> None:
    value = "0.5 / 100.0 ** (torch.arange(0, size, 2).float() / size)"
    port = port_of("self.table = None", FILL.format(value=value), "table")
    assert 'self.register_buffer(\n            "table"' in port
    assert "positions.unsqueeze(-1).float() * self.table" in port


def test_what_depends_on_the_tokens_is_no_table() -> None:
    """What the first call leaves behind, later calls would read."""
    value = "position_ids[0, -1:].float() / size"
    with pytest.raises(Refused):
        port_of("self.table = None", FILL.format(value=value), "table")


STORED = """\
self.register_buffer("stored", 0.5 / 100.0**steps)
{rest}"""


def test_a_table_made_of_a_stored_buffer_is_of_its_value_then() -> None:
    """What a checkpoint has under its name comes later."""
    rest = 'self.register_buffer("table", self.stored * 2, persistent=False)'
    port = port_of(STORED.format(rest=rest), "pass", "table")
    made = port.partition('"table",')[2].partition("persistent=False")[0]
    assert "arange" in made and "* 2" in made
    assert '"stored"' not in port


def test_a_view_of_a_stored_buffer_is_what_the_checkpoint_has() -> None:
    port = port_of(STORED.format(rest="pass"), "pass", "stored")
    assert "persistent=False" not in port.partition('"stored",')[2][:200]


def test_a_tensor_that_was_registered_is_not_changed_afterwards() -> None:
    made = (
        "table = 0.5 / 100.0**steps\n"
        'self.register_buffer("table", table)\n'
        "table.mul_(2)"
    )
    with pytest.raises(Refused, match="in-place"):
        port_of(made, "pass", "table")
