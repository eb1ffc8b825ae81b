"""Every transform on small cases: what it rewrites, leaves alone, and refuses."""

import ast
from functools import cache

import pytest

from porter.convert import Port, convert
from porter.gap import Refused
from porter.pipeline import TRANSFORMS
from tests.conftest import CompareGolden
from tests.transforms.cases import HERE, SCAFFOLD, Case, all_cases, splice

CASES = all_cases()
PORTED = [case for case in CASES if case.kind != "gap"]
REFUSED = [case for case in CASES if case.kind == "gap"]


def port_of(text: str) -> Port:
    return convert(SCAFFOLD, text=text)


@cache
def ported(case: Case) -> Port:
    return port_of(case.spliced[0])


def acts_on(case: Case, port: Port) -> list[str]:
    """Why the case's transform changed lines of the case."""
    return [
        change.why
        for change in port.changes
        if change.transform == case.transform and change.span.line in case.spliced[1]
    ]


@pytest.mark.parametrize("case", PORTED, ids=lambda case: case.name)
def test_case(case: Case, compare_golden: CompareGolden) -> None:
    port = ported(case)
    if case.kind == "output":
        assert case.transform in {change.transform for change in port.changes}
    else:
        assert not acts_on(case, port)
    if case.kind:
        compare_golden(case.path, case.rewritten(port.text))


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_refused(case: Case) -> None:
    _, _, message, rest = case.parts
    assert message and not rest.strip()
    with pytest.raises(Refused) as refusal:
        port_of(case.spliced[0])
    assert any(
        message in gap.what and gap.line == case.here for gap in refusal.value.gaps
    ), f"line {case.here} was to be refused, not:\n{refusal.value}"


@pytest.mark.parametrize("case", PORTED, ids=lambda case: case.name)
def test_same_bytes_twice(case: Case) -> None:
    assert port_of(case.spliced[0]).text == ported(case).text


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layout_of_the_source_is_no_evidence(case: Case) -> None:
    text = ast.unparse(ast.parse(case.spliced[0]))
    if case.kind == "gap":
        with pytest.raises(Refused, match=r".") as refusal:
            port_of(text)
        assert any(case.parts[2] in gap.what for gap in refusal.value.gaps)
    else:
        assert code(port_of(text).text) == code(ported(case).text)


def code(text: str) -> str:
    """The text without comments, in one layout."""
    return ast.unparse(ast.parse(text))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda each: each.name())
def test_every_transform_has_cases(transform) -> None:
    mine = [case for case in CASES if case.transform == transform.name()]
    assert len(mine) >= 4
    assert {"output"} < {case.kind for case in mine}


def test_case_folders_are_transforms() -> None:
    names = {transform.name() for transform in TRANSFORMS}
    assert {case.transform for case in CASES} == names


def test_splice_replaces_members_classes_and_adds() -> None:
    scaffold = (
        "import x\n\n\nclass A(B):\n    a = 1\n\n    def f(self):\n        pass\n"
    )
    case = f"class A:\n    a = 2\n\n    b = 3\n\n\nclass C(D):\n    c = 4  {HERE}\n"
    text, lines = splice(scaffold, case)
    names = [node.name for node in ast.parse(text).body[1:]]  # type: ignore[attr-defined]
    assert names == ["C", "A"]
    assert (
        "a = 2" in text and "a = 1" not in text and "def f" in text and "b = 3" in text
    )
    assert all(
        any(
            part in text.splitlines()[line - 1]
            for part in ("class C", "= 2", "= 3", "= 4")
        )
        or not text.splitlines()[line - 1].strip()
        for line in lines
    )
