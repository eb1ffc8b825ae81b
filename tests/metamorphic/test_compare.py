"""The comparison accepts what a renaming does and nothing else."""

import pytest

from tests.metamorphic import canonical
from tests.metamorphic.compare import difference
from tests.metamorphic.judge import judge
from tests.metamorphic.rename import Names
from tests.metamorphic.variants import VARIANTS

PORT = '''
class AMlp(nn.Module):
    """Doc of AMlp."""

    mapper = WeightsMapper({".up.": (".both.", 1)}, text="up to")

    def __init__(self, config, prefix=""):
        self.up = Linear(config.up, prefix=f"{prefix}.up")
        self.act = act(config.act)

    def forward(self, x):
        y = self.up(x)
        z = self.act(x)
        return y * z
'''
NAMES = Names(
    globals={"AMlp": "K0"}, attributes={"up": "w", "act": "w2"}, locals={"x": "l0"}
)
RENAMED = (
    PORT.replace("AMlp", "K0")
    .replace('".up.', '".w.')
    .replace("{prefix}.up", "{prefix}.w")
    .replace("self.up", "self.w")
    .replace("self.act", "self.w2")
    .replace('"up to"', '"w to"')
    .replace("(self, x)", "(self, l0)")
    .replace("(x)", "(l0)")
)


def test_equal_files_and_docstrings() -> None:
    assert difference(PORT, PORT) is None
    assert difference(PORT, PORT.replace("Doc of", "About")) is None
    assert difference(PORT, PORT + "# comment") is None


def test_renamed_file_is_the_same() -> None:
    assert difference(PORT, RENAMED, NAMES) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.w(l0)", "self.up(l0)"),
        ("self.w(l0)", "self.w2(l0)"),
        ('".w."', '".up."'),
        ("{prefix}.w", "{prefix}.up"),
        ("{prefix}.w", "{prefix}.w2"),
        ("self.w2(l0)", "self.w2(y)"),
        ("y * z", "z * y"),
        ("y * z", "y + z"),
        ('".both.", 1', '".both.", 0'),
        ("class K0", "class AMlp"),
        ("config.up", "config.other"),
        ("        z = self.w2(l0)\n", ""),
        ('(".both.", 1)', '(".both", 1)'),
    ],
)
def test_anything_else_differs(old: str, new: str) -> None:
    assert old in RENAMED
    assert difference(PORT, RENAMED.replace(old, new), NAMES) is not None


def test_locals_map_one_to_one() -> None:
    both = RENAMED.replace("z = ", "y = ").replace("y * z", "y * y")
    assert difference(PORT, both, NAMES) is not None


BRANCHES = """
def f(a, c):
    b = a + 1
    if c:
        b = b * 2
        d = b
    else:
        d = a
    for e in c:
        d = d + e
    return b, d
"""


def test_a_name_used_again_is_the_same_value() -> None:
    again = BRANCHES.replace("d = b\n", "t = b\n        d = t\n")
    assert difference(BRANCHES, again) is not None
    one = "def f(x):\n    x = g(x)\n    x = h(x)\n    return x\n"
    two = "def f(x):\n    y = g(x)\n    z = h(y)\n    return z\n"
    assert difference(one, two) is None
    assert difference(one, two.replace("h(y)", "h(x)")) is not None
    assert difference(one, two.replace("return z", "return y")) is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return b, d", "return d, b"),
        ("d = d + e", "d = b + e"),
        ("d = b\n", "d = a\n"),
        ("d = a\n", "d = b\n"),
        ("b = b * 2", "d = b * 2"),
        ("d = d + e", "b = d + e"),
    ],
)
def test_branches_and_loops_are_followed(old: str, new: str) -> None:
    renamed = BRANCHES.replace("d", "k").replace("kef", "def")
    assert difference(BRANCHES, renamed) is None
    assert difference(BRANCHES, BRANCHES.replace(old, new)) is not None


def test_an_attribute_has_one_name_in_a_class() -> None:
    half = RENAMED.replace("z = self.w2(l0)", "z = self.act(l0)")
    assert difference(PORT, half, NAMES) is not None


def test_canonical_forms() -> None:
    lines = PORT.splitlines(True)
    at = next(i for i, line in enumerate(lines) if "y = self" in line)
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    swapped = "".join(lines)
    assert difference(PORT, swapped) is not None
    assert canonical.ordered(PORT) == canonical.ordered(swapped)
    inlined = PORT.replace("        y = self.up(x)\n", "").replace(
        "y * z", "self.up(x) * z"
    )
    assert difference(PORT, inlined) is not None
    assert canonical.bound(PORT) == canonical.bound(inlined)
    assert canonical.bound(PORT) != canonical.bound(PORT.replace("y * z", "z * y"))


def test_dependent_statements_keep_their_order() -> None:
    one = "def f(a):\n    a = a + 1\n    b = a\n    return a, b\n"
    two = "def f(a):\n    b = a\n    a = a + 1\n    return a, b\n"
    assert canonical.ordered(one) != canonical.ordered(two)
    assert canonical.bound(one) != canonical.bound(two)


def test_a_compiler_that_reads_names_is_caught() -> None:
    """One that keeps a comment-free source as it is, but for a class by its name."""

    def by_name(path: object, text: str) -> str:
        return text.replace("q_proj(", "q_proj_fused(")

    renames = [variant for variant in VARIANTS if variant.name == "attributes"]
    outcome = judge("llama", renames[0], by_name)
    assert not outcome.canonical and "line" in outcome.first
