"""Branches of which a port keeps one side, and checks at load that it is taken."""

import ast
from types import SimpleNamespace

import pytest

from porter.analyze.settling import beyond_length
from porter.analyze.symbols import PAST, SEQ, arith, compare, config_field, same
from porter.convert import convert
from porter.gap import NeedsConfig, Refused
from tests.transforms.cases import SCAFFOLD, splice

MLP = """\
class TernMLP:
    def forward(self, x):
        if {test}:
            x = x.flip(1)
        return self.down(self.act(self.up(x)))
"""


def port_of(test: str) -> str:
    text, _ = splice(SCAFFOLD.read_text(encoding="utf-8"), MLP.format(test=test))
    text = text.replace(
        "self.act = ACT2FN[config.hidden_act]",
        "self.act = ACT2FN[config.hidden_act]\n        self.config = config",
    )
    return convert(SCAFFOLD, text=text).text


def test_the_side_of_the_defaults_is_kept_and_checked() -> None:
    port = port_of("self.config.attention_bias")
    assert "if config.attention_bias:" in port
    assert "attention_bias isn't supported" in port
    assert "flip" not in port


def test_a_side_that_the_defaults_take_is_refused() -> None:
    with pytest.raises(Refused, match="mixes tokens"):
        port_of("not self.config.attention_bias")


def test_what_no_field_decides_is_refused() -> None:
    with pytest.raises(Refused, match="mixes tokens"):
        port_of("x.shape[1] > 1")


def test_a_branch_beyond_a_length_bounds_it() -> None:
    rows = config_field(("config",), "rows")
    noted = SimpleNamespace(most_tokens=[], conditions=())
    tokens = arith("add", arith("add", PAST, SEQ), 2)
    assert beyond_length(noted, compare("gt", tokens, rows)) is False
    ((most, _),) = noted.most_tokens
    assert same(most, arith("sub", rows, 2))


def test_other_counts_of_tokens_bound_nothing() -> None:
    rows = config_field(("config",), "rows")
    noted = SimpleNamespace(most_tokens=[], conditions=())
    assert beyond_length(noted, compare("gt", SEQ, rows)) is None
    assert beyond_length(noted, compare("lt", arith("add", PAST, SEQ), rows)) is None
    assert not noted.most_tokens


def test_two_models_in_one_source_ask_for_a_config() -> None:
    body = """\
class TernMLP:
    def __init__(self, config: TernConfig):
        super().__init__()
        self.wide = config.attention_bias
        width = config.intermediate_size * (2 if config.attention_bias else 1)
        self.up = nn.Linear(config.hidden_size, width)
        self.act = ACT2FN[config.hidden_act]
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x):
        x = self.act(self.up(x))
        return self.down(x[..., ::2] if self.wide else x)
"""
    text, _ = splice(SCAFFOLD.read_text(encoding="utf-8"), body)
    try:
        port = convert(SCAFFOLD, text=text).text
    except NeedsConfig as asked:
        assert asked.fields == ["attention_bias"]
        assert "--config" in asked.gaps[0].advice
    else:
        assert ast.parse(port)
