"""`hasattr` and `getattr` of what a constructor sets under some configs only."""

import pytest

from porter.convert import Port, convert
from tests.transforms.cases import SCAFFOLD

INIT = "        self.down = nn.Linear(config.intermediate_size, config.hidden_size)\n"
FORWARD = "        return self.down(self.act(self.up(x)))\n"
LINEAR = "self.extra = nn.Linear(config.hidden_size, config.hidden_size)"
TWICE = "            x = x * 2\n        return x\n"
DOUBLED = '        return x * 2 if hasattr(self, "extra") else x\n'


def ported(init: str, forward: str) -> Port:
    """A port of the scaffold whose MLP has these lines more."""
    text = SCAFFOLD.read_text(encoding="utf-8")
    assert text.count(INIT) == text.count(FORWARD) == 1
    text = text.replace(INIT, INIT + init).replace(
        FORWARD, FORWARD.replace("return", "x =") + forward
    )
    return convert(SCAFFOLD, text=text)


def mlp(init: str, forward: str) -> str:
    port = ported(init, forward).text
    return port[port.index("class TernMLP") : port.index("class TernLayer")]


@pytest.mark.parametrize("value", [LINEAR, "self.extra = 3.0"])
def test_what_is_set_under_a_condition_is_there_under_it(value: str) -> None:
    made = mlp(f"        if config.attention_bias:\n            {value}\n", DOUBLED)
    assert "self.attention_bias = config.attention_bias" in made
    assert f"        if self.attention_bias:\n{TWICE}" in made


def test_under_two_conditions() -> None:
    init = "        if config.attention_bias:\n            if config.logit_cap:\n"
    made = mlp(f"{init}                {LINEAR}\n", DOUBLED)
    assert f"        if self.attention_bias and self.logit_cap:\n{TWICE}" in made


@pytest.mark.parametrize("value", [LINEAR, "self.extra = None"])
def test_what_is_always_set_is_always_there(value: str) -> None:
    made = mlp(f"        {value}\n", DOUBLED)
    assert "return x * 2\n" in made


def test_none_is_there() -> None:
    init = f"        {LINEAR} if config.attention_bias else None\n"
    assert "return x * 2\n" in mlp(init, DOUBLED)


def test_what_is_never_set_is_never_there() -> None:
    assert "* 2" not in mlp("", DOUBLED)


def test_a_module_that_may_be_missing_is_called() -> None:
    forward = '        if hasattr(self, "extra"):\n            x = self.extra(x)\n'
    init = f"        if config.attention_bias:\n            {LINEAR}\n"
    made = mlp(init, forward + "        return x\n")
    assert "if self.extra is not None:\n            x, _ = self.extra(x)\n" in made


def test_a_default_for_what_is_missing() -> None:
    init = "        if config.attention_bias:\n            self.extra = 3.0\n"
    made = mlp(init, '        return x * getattr(self, "extra", 5.0)\n')
    assert "3.0 if config.attention_bias else 5.0" in made


def test_missing_in_some_configs_and_none_in_others() -> None:
    """Which of the two isn't told apart: the port is for the side of the default config."""
    init = f"""\
        if config.attention_bias:
            if config.logit_cap:
                {LINEAR}
        else:
            self.extra = None
"""
    port = ported(init, DOUBLED)
    assert list(port.settled_by) == ["attention_bias"]
    assert "return x * 2\n" in port.text
