"""What a constructor sets under some configs only: whether it is there, and how much."""

import pytest

from porter.convert import Port, convert
from porter.gap import Refused
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


SOME = "        if config.attention_bias:\n"
HELD = f"        self.held = {{}}\n{SOME}            self.held['a'] = 3.0\n"
MORE = HELD.replace("{}", "{'b': 5.0}")
EITHER = (
    "        self.one = nn.Linear(4, 4) if config.attention_bias else nn.Identity()\n"
)
DELETED = f"        self.extra = 2.0\n{SOME}            del self.extra\n"
KIND = "        return x * 2 if isinstance(self.one, nn.Linear) else x\n"
BRANCH = f"        if self.attention_bias:\n{TWICE}"


@pytest.mark.parametrize(
    ("init", "forward", "expected"),
    [
        (HELD, "        return x * 2 if 'a' in self.held else x\n", BRANCH),
        (HELD, "        return x * 2 if self.held else x\n", BRANCH),
        (MORE, "        return x * 2 if self.held else x\n", "return x * 2\n"),
        (HELD, "        return x * self.held.get('a', 7.0)\n",
         "3.0 if config.attention_bias else 7.0"),
        (EITHER, KIND, BRANCH),
        (DELETED, DOUBLED, BRANCH.replace("if self", "if not self")),
    ],
)  # fmt: skip
def test_what_a_config_decides(init: str, forward: str, expected: str) -> None:
    assert expected in mlp(init, forward)


@pytest.mark.parametrize(
    "forward",
    [
        "        return x * len(self.held)\n",
        "        for name in self.held:\n            x = x * 2\n        return x\n",
        "        for _ in self.held.items():\n            x = x * 2\n        return x\n",
        "        return x * self.held.pop('a', 7.0)\n",
    ],
)  # fmt: skip
def test_how_many_there_are(forward: str) -> None:
    with pytest.raises(Refused, match="depends on the config"):
        mlp(MORE, forward)


def test_which_of_two_it_is() -> None:
    init = "        self.one = nn.Linear(4, 4)\n        self.other = self.one\n"
    init += (
        "        if config.attention_bias:\n            self.other = nn.Identity()\n"
    )
    with pytest.raises(Refused, match="`is` of one of two things"):
        mlp(init, "        return x * 2 if self.one is self.other else x\n")


@pytest.mark.parametrize("count", ["0", "config.num_hidden_layers"])
def test_a_list_of_modules_may_be_empty(count: str) -> None:
    init = (
        "        self.many = nn.ModuleList(\n            [nn.Identity() for _ in range("
    )
    made = mlp(
        f"{init}{count})]\n        )\n", "        return x * 2 if self.many else x\n"
    )
    assert ("* 2" in made) == (count != "0")


def test_a_deletion_that_is_not_followed() -> None:
    init = "        self.held = [1.0, 2.0]\n        del self.held[0]\n"
    with pytest.raises(Refused, match=r"`del self.held\[0\]` isn't followed"):
        mlp(init, "        return x * len(self.held)\n")
