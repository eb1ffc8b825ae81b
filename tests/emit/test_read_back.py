"""Reading a method back finds the names that hold another value than the reader means."""

import pytest

from porter.analyze.graph import Node, Span
from porter.analyze.symbols import Sym, negate
from porter.convert import convert
from porter.emit.lines import Line, as_lines, as_tree
from porter.emit.method import Body
from porter.emit.read_back import read_back
from porter.gap import Refused
from tests.transforms.cases import SCAFFOLD, all_cases

SPAN = Span("made_up.py", 1)
COND = Sym("field", ("config", "flag"))


def node(op: str = "add", *args) -> Node:
    return Node(op, args, {}, (), None, SPAN)


def written(name: str, value: Node, text: str, *reads: tuple[str, Node]) -> Line:
    depth = len(text) - len(text.lstrip())
    return Line(
        " " * depth + f"{name} = {text.strip()}", [SPAN], reads, [(name, value)]
    )


def test_a_name_taken_before_its_last_reader() -> None:
    x, residual, total = node(), node(), node()
    saved = Line("residual = x", [SPAN], [("x", x)], [("residual", x)])
    ends = written("x", total, "residual + x", ("residual", residual), ("x", x))
    bound = {"x": x, "residual": residual}
    read_back([ends], bound, {"x": total}, SPAN)
    with pytest.raises(Refused, match="`residual` would hold another value"):
        read_back([saved, ends], bound, {"x": total}, SPAN)


def test_two_results_under_one_name() -> None:
    a, b, given = node(), node(), node()
    lines = [
        written("x", a, "f(x)", ("x", given)),
        written("x", b, "g(x)", ("x", a)),
        Line("return x, x", [SPAN], [("x", a), ("x", b)]),
    ]
    with pytest.raises(Refused, match="`x` would hold another value"):
        read_back(lines, {"x": given}, {}, SPAN)


def branch(then: Line, other: Line | None, cond=COND) -> list[Line]:
    head = Line("if self.flag:", [SPAN], cond=cond)
    return [head, then, *([Line("else:", [SPAN]), other] if other else [])]


@pytest.mark.parametrize(("cond", "right"), [(COND, True), (negate(COND), False)])
def test_sides_of_a_branch(cond, right: bool) -> None:
    x, a, b = node(), node(), node()
    phi = node("phi", COND, a, b)
    lines = branch(
        written("y", a, "    f(x)", ("x", x)),
        written("y", b, "    g(x)", ("x", x)),
        cond,
    )
    if right:
        read_back(lines, {"x": x}, {"y": phi}, SPAN)
        return
    with pytest.raises(Refused, match="`y` would hold"):
        read_back(lines, {"x": x}, {"y": phi}, SPAN)


def test_what_a_side_overwrites_is_lost_behind_the_branch() -> None:
    x, a = node(), node()
    phi = node("phi", COND, a, x)
    lines = branch(written("x", a, "    f(x)", ("x", x)), None)
    read_back(lines, {"x": x}, {"x": phi}, SPAN)
    with pytest.raises(Refused, match="`x` would hold"):
        read_back(lines, {"x": x}, {"x": x}, SPAN)


def test_what_the_next_layer_reads_is_still_there() -> None:
    x, cos, out = node(), node(), node()
    lines = [
        written("x", out, "layer(x, cos)", ("x", x), ("cos", cos)),
        written("cos", out, "x", ("x", out)),
    ]
    with pytest.raises(Refused, match="`cos` would hold"):
        read_back(lines, {"x": x, "cos": cos}, {"x": out, "cos": cos}, SPAN)


def test_what_is_written_over_in_place_is_no_value_any_more() -> None:
    x, residual, total = node(), node(), node()
    saved = Line("y = x", [SPAN], [("x", x)], [("y", x)])
    fused = written("total", total, "norm(x, r)", ("x", x), ("r", residual))
    fused.spends = (x, residual)
    bound = {"x": x, "r": residual}
    read_back([saved, fused], bound, {"total": total}, SPAN)
    for name, value in (("x", x), ("y", x), ("r", residual)):
        with pytest.raises(Refused, match=f"`{name}` would hold"):
            read_back([saved, fused], bound, {name: value}, SPAN)


@pytest.mark.parametrize("text", ["z = x", "y = f(y)"])
def test_names_that_nobody_accounts_for(text: str) -> None:
    x = node()
    with pytest.raises(Refused, match="accounted for|isn't known"):
        read_back([Line(text, [SPAN], (), [("y", x)])], {"x": x, "y": x}, {}, SPAN)


def test_sides_that_read_alike_need_no_condition() -> None:
    lines = branch(Line("    x = self.norm(x)"), Line("    x = self.norm(x)"))
    assert [line.text for line in as_lines(as_tree(lines))] == ["x = self.norm(x)"]
    lines = branch(Line("    x = self.norm(x)"), Line("    x = self.other(x)"))
    assert as_lines(as_tree(lines)) == lines


def test_careless_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the choice of names broken, no port comes out that reads the wrong values."""
    (case,) = [c for c in all_cases() if c.name.endswith("/residual_kept_for_a_call")]
    convert(SCAFFOLD, text=case.spliced[0])
    monkeypatch.setattr(Body, "_read_by", lambda *_: False)
    with pytest.raises(Refused, match="`residual` would hold another value"):
        convert(SCAFFOLD, text=case.spliced[0])
