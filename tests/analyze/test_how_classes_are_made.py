"""What stands around a class or function and would change what it computes."""

import pytest

from porter.convert import convert
from porter.gap import Refused
from tests.transforms.cases import SCAFFOLD

CLASS = "class TernMLP(nn.Module):\n"
INIT = "        self.down = nn.Linear(config.intermediate_size, config.hidden_size)\n"
FORWARD = "    def forward(self, x):\n        return self.down(self.act(self.up(x)))\n"
TWICE = "def twice(f):\n    return lambda self, x: f(self, x) * 2\n\n\n"
UTILS = "torch.nn.utils"


def port(*edits: tuple[str, str]) -> str:
    text = SCAFFOLD.read_text(encoding="utf-8")
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return convert(SCAFFOLD, text=text).text


MINE = "is code of the source's"
FOREIGN = "is a library's that isn't known"
SAY = "has a say in how its objects are made"


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([(CLASS, f"{TWICE}@twice\n{CLASS}")], MINE),
        ([(CLASS, TWICE + CLASS), (FORWARD, f"    @twice\n{FORWARD}")], MINE),
        ([(CLASS, f"@wrapper.twice\n{CLASS}")], FOREIGN),
        ([(FORWARD, f"    @wrapper.twice\n{FORWARD}")], FOREIGN),
        ([("def turn(x):\n", "@wrapper.twice\ndef turn(x):\n")], FOREIGN),
        ([(CLASS, CLASS.replace(")", ", metaclass=wrapper.Meta)"))], SAY),
        ([(INIT, f"{INIT}\n    def __new__(cls, *args):\n        return None\n")], SAY),
        ([(INIT, f"{INIT}\n    def __init_subclass__(cls):\n        pass\n")], SAY),
        ([(INIT, f"{INIT}        {UTILS}.parametrizations.weight_norm(self.down)\n")],
         "changes what a module computes"),
        ([(FORWARD, """\
    def forward(self, x, seen=[]):
        seen.append(1)
        return self.down(self.act(self.up(x))) * len(seen)
""")], "`forward` changes the default of its `seen`"),
    ],
)  # fmt: skip
def test_it_is_refused(edits: list[tuple[str, str]], message: str) -> None:
    foreign = ("import torch\n", "import torch\nimport wrapper\n")
    with pytest.raises(Refused, match=message):
        port(*edits, foreign)


LIBRARY = "from transformers.utils import auto_docstring\n"


def test_the_librarys_own_change_nothing() -> None:
    head = f"from abc import ABCMeta\nfrom functools import lru_cache\n{LIBRARY}"
    abstract = CLASS.replace(")", ", metaclass=ABCMeta)")
    made = port(
        ("import torch\n", f"{head}import torch\n"),
        (CLASS, f"@auto_docstring\n{abstract}"),
        ("def turn(x):\n", "@lru_cache\ndef turn(x):\n"),
        (FORWARD, f"    @torch.no_grad()\n{FORWARD}"),
    )
    assert made == port()


def test_a_default_that_is_only_read() -> None:
    read = FORWARD.replace("x):", "x, factors=[2.0, 3.0]):").replace(
        "return ", "return factors[1] * "
    )
    assert "* 3.0" in port((FORWARD, read)) or "3.0 *" in port((FORWARD, read))
