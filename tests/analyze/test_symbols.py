"""Symbolic scalars: when two are equal, and how one is written."""

import pytest

from porter.analyze.symbols import (
    LAYER,
    SEQ,
    Sym,
    arith,
    compare,
    config_field,
    constant,
    contains,
    describe,
    negate,
    same,
    simplify,
)

A, B, C = (config_field(("config",), name) for name in "abc")
GIVEN = Sym("truthy", (C,))
VALUES = {"a": 24.0, "b": 8.0, "c": 2.0}


def test_sums_and_products_are_equal_in_any_order() -> None:
    assert same(arith("add", A, B), arith("add", B, A))
    assert same(
        arith("mul", arith("mul", A, B), C), arith("mul", C, arith("mul", B, A))
    )
    left = arith("mul", A, arith("add", B, C))
    assert same(left, arith("add", arith("mul", A, B), arith("mul", C, A)))


def test_squares_multiply_out() -> None:
    total = arith("add", A, B)
    double = arith("mul", 2, arith("mul", A, B))
    squares = arith("add", arith("pow", A, 2), arith("pow", B, 2))
    assert same(arith("pow", total, 2), arith("add", squares, double))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (arith("add", A, 1), A),
        (arith("sub", A, B), arith("sub", B, A)),
        (arith("truediv", A, B), arith("truediv", B, A)),
        (arith("pow", A, -0.5), arith("pow", A, 0.5)),
        (arith("pow", arith("add", A, B), 2), arith("add", A, B)),
        (arith("mod", A, B), A),
        (A, config_field(("config", "text_config"), "a")),
        (A, 1),
        (A, None),
    ],
    ids=describe,
)
def test_different_values_differ(one, other) -> None:
    assert not same(one, other)


def test_numbers_equal_by_value_but_true_is_not_one() -> None:
    assert same(1, 1.0) and not same(True, 1) and not same(None, 0)
    assert not same("1", 1)


def test_sizes_divide() -> None:
    assert same(arith("mul", arith("floordiv", A, B), B), A)
    assert same(arith("floordiv", arith("mul", A, B), A), B)


@pytest.mark.parametrize("index", [LAYER, arith("add", LAYER, 1), SEQ])
def test_an_index_that_is_floored_does_not_divide(index) -> None:
    halved = Sym("floordiv", (index, 2))
    assert not same(arith("mul", halved, 2), index)
    assert not same(halved, arith("truediv", index, 2))


def test_constants_that_are_floored_stay_floored() -> None:
    assert constant(Sym("floordiv", (7, 2))) == 3
    assert constant(Sym("mod", (7, 2))) == 1
    assert constant(Sym("floordiv", (8, 2))) == 4


def test_arithmetic_on_numbers_is_done() -> None:
    assert arith("floordiv", 7, 2) == 3 and arith("pow", 4, -0.5) == 0.5
    assert arith("mul", A, 1) is A and arith("add", 0, A) is A
    assert arith("mul", A, 1.0) is not A  # an int times 1.0 is a float


def test_constant_of_what_cancels() -> None:
    assert constant(Sym("sub", (A, A))) == 0
    assert constant(Sym("truediv", (A, A))) == 1
    assert constant(A) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (arith("pow", arith("pow", A, -0.5), 2), "(config.a ** -0.5) ** 2"),
        (arith("pow", A, arith("pow", B, 2)), "config.a ** config.b ** 2"),
        (arith("sub", A, arith("sub", B, C)), "config.a - (config.b - config.c)"),
        (arith("sub", arith("sub", A, B), C), "config.a - config.b - config.c"),
        (arith("mul", A, arith("add", B, C)), "config.a * (config.b + config.c)"),
        (arith("truediv", A, arith("mul", B, C)), "config.a / (config.b * config.c)"),
        (arith("mul", A, arith("floordiv", B, C)), "config.a * (config.b // config.c)"),
        (arith("pow", arith("neg", A), 2), "(-config.a) ** 2"),
        (arith("neg", arith("pow", A, 2)), "-config.a ** 2"),
        (arith("neg", arith("add", A, B)), "-(config.a + config.b)"),
        (Sym("not", (compare("lt", A, B),)), "config.a >= config.b"),
        (Sym("not", (Sym("is_none", (A,)),)), "config.a is not None"),
        (
            Sym("and", (Sym("or", (compare("lt", A, B), GIVEN)), Sym("truthy", (A,)))),
            "(config.a < config.b or config.c) and config.a",
        ),
        (
            arith("mul", Sym("ifexp", (Sym("is_none", (A,)), B, C)), 2),
            "(config.b if config.a is None else config.c) * 2",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_text_has_the_parentheses_that_it_needs(value, text: str) -> None:
    assert describe(value) == text


@pytest.mark.parametrize(
    "value",
    [
        arith("pow", arith("pow", A, -0.5), 2),
        arith("pow", A, arith("pow", C, C)),
        arith("sub", A, arith("sub", B, arith("sub", C, A))),
        arith("truediv", A, arith("truediv", B, C)),
        arith("mul", arith("truediv", A, B), arith("add", C, 1)),
        arith("pow", arith("neg", C), 2),
        arith("neg", arith("pow", C, 2)),
        arith("pow", C, arith("neg", C)),
        arith("mod", arith("add", A, 1), arith("add", C, 3)),
        arith("mul", 2, arith("mod", A, 5)),
    ],
    ids=describe,
)
def test_text_computes_the_value(value) -> None:
    class Config:
        a, b, c = VALUES["a"], VALUES["b"], VALUES["c"]

    assert eval(describe(value), {"config": Config}) == pytest.approx(_value(value))


def _value(x):
    if not isinstance(x, Sym):
        return x
    if x.op == "field":
        return VALUES[x.args[1]]
    return arith(x.op, *(_value(a) for a in x.args))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (arith("floordiv", arith("mul", A, B), B), "config.a"),
        (arith("mul", arith("floordiv", A, B), B), "config.a"),
        (arith("mul", arith("mul", 2, A), arith("floordiv", 6, 3)), "4 * config.a"),
        (arith("mul", arith("floordiv", LAYER, 2), 2), "layer_idx // 2 * 2"),
        (arith("pow", arith("pow", A, -0.5), 2), "(config.a ** -0.5) ** 2"),
        (arith("add", A, B), "config.a + config.b"),
        (
            arith("sub", 1, arith("sub", 0.75, arith("mul", 0.5, A))),
            "1 - (0.75 - 0.5 * config.a)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_simplify(value, text: str) -> None:
    out = simplify(value)
    assert describe(out) == text and same(out, value)


def test_compare_decides_what_the_values_decide() -> None:
    assert compare("eq", A, A) is True and compare("ne", A, A) is False
    assert compare("eq", arith("add", A, 1), A) is False
    assert compare("eq", 2, "2") is False
    assert compare("lt", 1, 2) is True and compare("ge", 1, 2) is False
    assert isinstance(compare("eq", A, B), Sym)
    assert isinstance(compare("eq", A, None), Sym)


def test_comparisons_turned_around_are_the_same() -> None:
    assert same(compare("gt", A, B), compare("lt", B, A))
    assert same(compare("ge", A, B), negate(compare("lt", A, B)))
    assert same(compare("eq", A, B), compare("eq", B, A))
    assert not same(compare("lt", A, B), compare("le", A, B))


def test_negate_twice_is_nothing() -> None:
    condition = compare("lt", A, B)
    assert negate(negate(condition)) is condition
    assert negate(True) is False


def test_contains_looks_inside_names() -> None:
    named = Sym("param", ("scale",), actual=arith("pow", A, -0.5))
    assert contains(named, "pow") and not contains(named, "mul")
    assert same(named, arith("pow", A, -0.5))
