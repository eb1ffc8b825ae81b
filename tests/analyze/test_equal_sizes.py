"""Sizes that are equal because the source fails where they aren't."""

from porter.analyze.equal_sizes import SizeFacts
from porter.analyze.graph import Span
from porter.analyze.symbols import SEQ, Sym, arith, config_field, same

A, B, C = (config_field(("config",), name) for name in "abc")
HERE = Span("model.py", 1)


def test_a_size_is_neither_none_nor_zero() -> None:
    facts = SizeFacts()
    given = Sym("ifexp", (Sym("truthy", (A,)), A, B))
    there = Sym("ifexp", (Sym("is_none", (A,)), B, A))
    assert facts.require(arith("mul", given, C), arith("mul", A, C), (), HERE)
    assert facts.require(there, A, (), HERE)
    assert not facts.checked


def test_a_condition_on_another_field_decides_nothing() -> None:
    facts = SizeFacts()
    either = Sym("ifexp", (Sym("truthy", (C,)), A, B))
    assert facts.require(either, A, (), HERE)
    assert len(facts.checked) == 1


def test_what_is_read_by_key_is_there() -> None:
    read, defaulted = Sym("item", (A, "k")), Sym("get", (A, "k", 1.0))
    other = Sym("get", (A, "other", 1.0))
    facts = SizeFacts()
    assert facts.same(arith("mul", read, B), arith("mul", defaulted, B))
    assert not facts.same(arith("mul", read, B), arith("mul", other, B))


def test_sizes_that_cannot_be_equal() -> None:
    facts = SizeFacts()
    assert not facts.require(A, arith("mul", 2, A), (), HERE)
    assert not facts.require(A, arith("add", A, 1), (), HERE)
    assert not facts.require(4, 8, (), HERE)
    assert not facts.checked


def test_a_number_of_tokens_is_not_checked() -> None:
    facts = SizeFacts()
    assert not facts.require(A, arith("mul", B, SEQ), (), HERE)


def test_what_follows_from_a_fact() -> None:
    facts = SizeFacts()
    assert not facts.same(A, arith("mul", B, C))
    assert facts.require(A, arith("mul", B, C), (), HERE)
    assert facts.same(arith("floordiv", A, B), C)
    assert facts.same(arith("mul", B, C), A)
    assert not facts.same(A, B)
    assert facts.require(
        arith("mul", 2, A), arith("mul", arith("mul", 2, B), C), (), HERE
    )
    assert len(facts.checked) == 1


def test_a_fact_under_a_condition_holds_only_there() -> None:
    facts = SizeFacts()
    cond = (Sym("truthy", (C,)), True)
    assert facts.require(A, B, (cond,), HERE)
    assert not facts.same(A, B)
    assert facts.require(A, B, (), HERE)
    assert [f.conds for f in facts.checked] == [(cond,), ()]


def test_the_check_has_no_common_factor() -> None:
    facts = SizeFacts()
    left, right = (Sym("call", ("int", arith("mul", x, C))) for x in (A, B))
    assert facts.require(left, right, (), HERE)
    assert same(facts.checked[0].left, A) and same(facts.checked[0].right, B)
    assert facts.same(left, right)


def test_a_sum_is_as_good_as_a_field() -> None:
    for left, right in ((A, arith("add", B, C)), (arith("add", B, C), A)):
        facts = SizeFacts()
        assert facts.require(left, right, (), HERE)
        assert facts.same(arith("mul", 2, A), arith("mul", 2, arith("add", B, C)))
        assert not facts.same(A, B)
