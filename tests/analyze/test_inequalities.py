"""Which of two numbers is the larger, for every config and every step."""

from porter.analyze.inequalities import larger_of
from porter.analyze.symbols import PAST, SEQ, Sym, arith, config_field

HEADS = config_field(("config",), "heads")


def power_below(n) -> Sym:
    exponent = Sym("call", ("math.floor", Sym("call", ("math.log2", n))))
    return Sym("pow", (2, exponent))


def test_a_step_has_a_token() -> None:
    tokens = arith("add", PAST, SEQ)
    assert larger_of(0, arith("sub", 1, tokens)) == 0
    assert larger_of(tokens, 1) == 0
    assert larger_of(1, tokens) == 1


def test_what_is_left_beside_the_power_below_is_less() -> None:
    power = power_below(HEADS)
    rest = arith("sub", HEADS, power)
    assert larger_of(power, rest) == 0
    assert larger_of(rest, power) == 1


def test_other_sizes_are_not_compared() -> None:
    third = arith("floordiv", HEADS, 3)
    assert larger_of(third, arith("sub", HEADS, third)) is None
    assert larger_of(HEADS, 8) is None
    assert larger_of(power_below(arith("mul", 2, HEADS)), HEADS) is None
