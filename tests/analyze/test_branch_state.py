"""What one side of a branch on the config changes isn't there on the other."""

import pytest

from porter.convert import convert
from porter.gap import Refused
from tests.transforms.cases import SCAFFOLD

BUILT = "        self.act = ACT2FN[config.hidden_act]\n"
RUN = "        return self.down(self.act(self.up(x)))\n"
CALLED = "self.down(self.act(self.up(x)))"
HELPERS = """def collect(flag, x, outs):
    if flag:
        outs.append(x)


def replace(flag, x, outs):
    if flag:
        outs["x"] = x


class TernMLP"""


def port(forward: str, attribute: str = "") -> str:
    """The port of the scaffold whose MLP has another forward, and an attribute more."""
    text = SCAFFOLD.read_text(encoding="utf-8")
    for old, new in (
        (BUILT, f"{BUILT}        self.config = config\n        {attribute}\n"),
        (RUN, forward),
        ("class TernMLP", HELPERS),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return convert(SCAFFOLD, text=text).text


def forward_of(text: str) -> str:
    start = text.index("def forward", text.index("class TernMLP"))
    return text[start : text.index("class ", start)]


def test_an_attribute_that_a_forward_sets() -> None:
    made = port(
        f"""\
        if self.config.logit_scale > 2:
            self.extra = x
        y = {CALLED}
        if self.extra is not None:
            y = y + self.extra
        return y
""",
        "self.extra = None",
    )
    assert "if 2 < self.logit_scale:\n            y = y + x" in forward_of(made)


@pytest.mark.parametrize("held", ["self.gain = 1.0", "self.gain = [1.0, 4.0]"])
def test_what_the_next_step_would_find_is_refused(held: str) -> None:
    at = "[0]" if "[" in held else ""
    with pytest.raises(Refused, match="something else than the first"):
        port(
            f"""\
        if self.config.logit_scale > 2:
            self.gain{at} = 2.0
        return {CALLED} * self.gain{at}
""",
            held,
        )


def test_a_callers_dictionary() -> None:
    made = port(
        """\
        outs = {"x": x}
        replace(self.config.tie_word_embeddings, x * 2.0, outs)
        return self.down(self.act(self.up(outs["x"])))
"""
    )
    assert "if self.tie_word_embeddings:\n            x = x * 2.0" in forward_of(made)


def test_a_callers_list_of_unknown_length_is_that_of_the_defaults() -> None:
    """The port stops at load for the configs that would make it longer."""
    made = port(
        """\
        outs = [x]
        collect(self.config.logit_scale > 2, x * 2.0, outs)
        return self.down(self.act(self.up(outs[-1])))
"""
    )
    assert "2.0" not in forward_of(made)
    assert "if 2 < config.logit_scale:\n            raise ValueError(" in made


def test_both_sides_go_on_with_the_loop() -> None:
    made = port(
        f"""\
        for gain in (2.0, 3.0):
            if self.config.tie_word_embeddings:
                x = x * gain
                continue
            else:
                x = x + gain
                continue
        return {CALLED}
"""
    )
    assert "x = x * 2.0 * 3.0" in forward_of(made)
    assert "x = x + 2.0 + 3.0" in forward_of(made)


def test_both_sides_return() -> None:
    made = port(
        f"""\
        return self.scaled(x) * self.extra[0]

    def scaled(self, x):
        if self.config.tie_word_embeddings:
            self.extra[0] = x
            return {CALLED}
        else:
            self.extra[0] = x * 2.0
            return {CALLED}
""",
        "self.extra = [None]",
    )
    body = forward_of(made)
    assert "if not self.tie_word_embeddings:\n            x = x * 2.0" in body
