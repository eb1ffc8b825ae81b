"""What Python's own statements make of numbers, as a factor in the port."""

import pytest

from porter.convert import convert
from porter.gap import Refused
from tests.transforms.cases import SCAFFOLD

FORWARD = "        return self.down(self.act(self.up(x)))\n"
CASES = {
    "a loop's else behind its end": ("""\
        k = 2.0
        for i in range(3):
            if i == 5:
                break
        else:
            k = 7.0
""", "7.0"),
    "no else behind a break": ("""\
        k = 2.0
        for i in range(3):
            if i == 1:
                break
        else:
            k = 7.0
""", "2.0"),
    "closures bind late": ("""\
        made = [lambda: i for i in range(3)]
        k = made[0]()
""", "2"),
    "a name bound again": ("""\
        k = 2.0
        read = lambda: k
        k = 3.0
        k = read()
""", "3.0"),
    "a loop's last value": ("        for k in range(3):\n            pass\n", "2"),
    "a set's items": ("        k = len({1, 1, 2})\n", "2"),
    "set()": ("        k = len(set([1, 1, 2, 3]))\n", "3"),
    "a set's comprehension": ("        k = len({i % 2 for i in range(5)})\n", "2"),
    "one list twice": ("        a = [[1.0]] * 2\n        a[0].append(2.0)\n"
                       "        k = len(a[1])\n", "2"),
    "rounded down": ("        k = -7 // 2\n", "-4"),
    "of the divisor's sign": ("        k = -7 % 3\n", "2"),
    "compared in a row": ("        k = 2.0 if 1 < 3 < 2 else 5.0\n", "5.0"),
    "the rest": ("        _, *rest = [1.0, 2.0, 3.0]\n        k = rest[1]\n", "3.0"),
    "None is of None's type": (
        "        k = 2.0 if isinstance(None, (type(None), int)) else 5.0\n", "2.0"),
    "a number isn't": (
        "        k = 2.0 if isinstance(3.0, (type(None), int)) else 5.0\n", "5.0"),
    "exchanged": ("        a, k = 2.0, 3.0\n        a, k = k, a\n", "2.0"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_factor(name: str) -> None:
    lines, factor = CASES[name]
    text = SCAFFOLD.read_text(encoding="utf-8")
    assert text.count(FORWARD) == 1
    changed = lines + FORWARD.rstrip() + " * k\n"
    port = convert(SCAFFOLD, text=text.replace(FORWARD, changed)).text
    assert f"* {factor}\n" in port[port.index("class TernMLP") :]


TYPES = {
    "isinstance of a value's type": "isinstance(1.0, type(2.0))",
    "a value's type is None's": "type(self.config.hidden_size) is type(None)",
    "a value's type is another's": "type(1.0) is type(2.0)",
    "a value's type equals one": "type(1.0) == float",
    "a value's type is one of some": "type(1.0) in (int, float)",
}


@pytest.mark.parametrize("test", TYPES.values(), ids=TYPES.keys())
def test_types_of_values_are_refused_or_right(test: str) -> None:
    text = SCAFFOLD.read_text(encoding="utf-8")
    changed = f"        k = 2.0 if {test} else 5.0\n" + FORWARD.rstrip() + " * k\n"
    right = eval(test.replace("self.config.hidden_size", "4"))
    try:
        port = convert(SCAFFOLD, text=text.replace(FORWARD, changed)).text
    except Refused:
        return
    factor = "2.0" if right else "5.0"
    assert f"* {factor}\n" in port[port.index("class TernMLP") :]
