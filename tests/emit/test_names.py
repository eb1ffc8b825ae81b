"""Local names in the port: the source's own, kept apart while their values are read."""

import ast
import textwrap

import pytest

from tests.transforms.cases import SCAFFOLD, selection, splice
from tests.transforms.test_cases import port_of

INIT = """\
def __init__(self, config):
    super().__init__()
    self.config = config
    self.up = nn.Linear(config.hidden_size, config.intermediate_size)
    self.act = ACT2FN[config.hidden_act]
    self.down = nn.Linear(config.intermediate_size, config.hidden_size)


"""


def forward(name: str, methods: str) -> ast.FunctionDef:
    """The port's forward of a class of the scaffold that is given these methods."""
    case = f"class {name}:\n" + textwrap.indent(methods, "    ")
    text, _ = splice(SCAFFOLD.read_text(encoding="utf-8"), case)
    shown = selection(port_of(text).text, f"class {name}:\n    def forward(): ...\n")
    method = ast.parse(textwrap.dedent(shown)).body[0].body[0]  # type: ignore[attr-defined]
    assert isinstance(method, ast.FunctionDef)
    return method


def lines(method: ast.FunctionDef) -> list[str]:
    return [ast.unparse(statement) for statement in method.body]


LAYER = """\
def forward(self, x, attention_mask, position_embeddings, past_key_values):
    residual = x
    x = self.norm_1(x)
    x = self.attention(x, attention_mask, position_embeddings, past_key_values)
    x = residual - x
    residual = x
    x = self.norm_2(x)
    x = self.mlp(x)
    return residual - x
"""


def test_a_value_read_again_keeps_its_second_name() -> None:
    assert lines(forward("TernLayer", LAYER)) == [
        "residual = x",
        "x = self.norm_1(x)",
        "x = self.attention(positions, x)",
        "x = residual - x",
        "residual = x",
        "x = self.norm_2(x)",
        "x = self.mlp(x)",
        "return residual - x",
    ]


def test_a_name_that_is_not_needed_is_not_written() -> None:
    method = forward(
        "TernMLP",
        "def forward(self, x):\n    kept = x\n    x = self.up(x)\n"
        "    return self.down(self.act(x))\n",
    )
    assert "kept" not in ast.unparse(method)


OVERWRITTEN = """\
def forward(self, x):
    wide = self.up(x)
    first = wide.sigmoid()
    wide = self.act(wide)
    return self.down(first * wide + wide.tanh())
"""


class Text(str):
    """A value that writes down how it was made."""

    def sigmoid(self) -> "Text":
        return Text(f"sigmoid({self})")

    def tanh(self) -> "Text":
        return Text(f"tanh({self})")

    def __mul__(self, other) -> "Text":
        return Text(f"({self} * {other})")

    def __add__(self, other) -> "Text":
        return Text(f"({self} + {other})")


class Source:
    def up(self, x):
        return Text(f"up({x})")

    def act(self, x):
        return Text(f"act({x})")

    def down(self, x):
        return Text(f"down({x})")


class Parallel(Source):
    """vLLM's linear layers return their bias too."""

    def up(self, x):
        return super().up(x), None

    def down(self, x):
        return super().down(x), None


def test_an_overwritten_value_that_is_read_again_is_not_lost() -> None:
    ported = forward("TernMLP", OVERWRITTEN)
    ported.args.args[1].annotation = ported.returns = None
    text = ast.unparse(ported)
    for name in ("sigmoid", "tanh"):
        text = text.replace(f"torch.{name}(", f"Text.{name}(")
    results = []
    for code, module in ((OVERWRITTEN, Source()), (text, Parallel())):
        scope: dict = {"Text": Text}
        exec(code, scope)
        results.append(scope["forward"](module, Text("x")))
    assert results[0] == results[1]


@pytest.mark.parametrize("test", ["is None", "is not None"])
def test_a_branch_on_the_config_stays_a_branch(test: str) -> None:
    body = (
        "def forward(self, x):\n    x = self.up(x)\n    y = self.act(x)\n"
        f"    if self.config.sliding_window {test}:\n        y = y * 2.0\n"
        "    return self.down(y)\n"
    )
    method = forward("TernMLP", INIT + body)
    (branch,) = (n for n in ast.walk(method) if isinstance(n, ast.If))
    assert ast.unparse(branch.test) == f"self.sliding_window {test}"
    assert ast.unparse(branch.body[0]).endswith("* 2.0") and not branch.orelse


def test_both_sides_of_a_branch_have_one_name() -> None:
    method = forward(
        "TernMLP",
        INIT + "def forward(self, x):\n    x = self.up(x)\n"
        "    if self.config.sliding_window is None:\n        y = self.act(x)\n"
        "    else:\n        y = x * 2.0\n"
        "    return self.down(y)\n",
    )
    (branch,) = (n for n in ast.walk(method) if isinstance(n, ast.If))
    sides = [side[-1] for side in (branch.body, branch.orelse)]
    assert all(isinstance(each, ast.Assign) for each in sides)
    assert len({ast.unparse(each.targets[0]) for each in sides}) == 1  # type: ignore[attr-defined]
