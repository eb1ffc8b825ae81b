"""Tensors that a port's constructor computes, and what `_init_weights` leaves in them."""

from porter.convert import convert
from tests.transforms.cases import SCAFFOLD, splice

TABLE = """\
def table_of(count, size, pad):
    rates = torch.exp(torch.arange(size // 2).float() * -0.1)
    angles = torch.arange(count).float().unsqueeze(1) * rates.unsqueeze(0)
    table = torch.cat((angles.sin(), angles.cos()), dim=1)
    if pad is not None:
        table[pad, :] = 0
    return table


class TernMLP:
    def __init__(self, config: TernConfig):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.register_buffer(
            "table",
            table_of(config.max_position_embeddings, config.hidden_size, {pad}),
            persistent=False,
        )

    def forward(self, x):
        return self.down(self.act(self.up(x + self.table[{row}])))
"""
INIT = """\


class TernPreTrainedModel:
    def _init_weights(self, module):
        if isinstance(module, TernMLP):
            config = self.config
            size, pad = config.hidden_size, None
            table = table_of(config.max_position_embeddings, size, pad)
            module.table.copy_(2 * table)
"""


def port_of(extra: str = "", pad: str = "config.sliding_window", row: str = "3") -> str:
    case = TABLE.format(pad=pad, row=row) + extra
    text, _ = splice(SCAFFOLD.read_text(encoding="utf-8"), case)
    return convert(SCAFFOLD, text=text).text


def test_the_source_s_arithmetic_and_names_are_kept() -> None:
    port = port_of()
    assert "angles = torch.arange(config.max_position_embeddings).float()" in port
    assert "torch.exp(" in port


def test_a_row_is_set_where_the_config_names_one() -> None:
    port = port_of()
    assert "if config.sliding_window is not None:" in port
    assert "index_fill(0, torch.tensor(config.sliding_window), 0)" in port


def test_a_buffer_has_what_init_weights_put_there() -> None:
    assert "2 *" not in port_of(pad="None")
    port = port_of(INIT, pad="None")
    assert "2 * table" in port or "2 * torch.cat(" in port
