"""What views, broadcasting and slices do to the axes of a tensor."""

import pytest

from porter.analyze.axes import (
    AxisError,
    broadcast,
    feature_layout,
    normalize,
    reshape,
    slice_size,
)
from porter.analyze.graph import (
    Axes,
    Factor,
    axis_size,
    batch_axis,
    feature_axis,
    seq_axis,
)
from porter.analyze.symbols import BATCH, SEQ, arith, config_field, describe, same

HIDDEN, HEADS, DIM = (config_field(("config",), n) for n in ("hidden", "heads", "dim"))
WIDTH = arith("mul", HEADS, DIM)


def states(*sizes) -> Axes:
    """[batch, seq, *sizes]"""
    return (batch_axis(), seq_axis(), *(feature_axis(s) for s in sizes))


def sizes(axes: Axes) -> list[str]:
    return [describe(axis_size(axis)) for axis in axes]


def test_a_view_splits_an_axis_into_heads() -> None:
    out = reshape(states(WIDTH), [BATCH, SEQ, HEADS, DIM])
    assert same(axis_size(out[2]), HEADS) and same(axis_size(out[3]), DIM)


def test_minus_one_is_what_is_left() -> None:
    out = reshape(states(WIDTH), [BATCH, SEQ, -1, DIM])
    assert same(axis_size(out[2]), HEADS)
    out = reshape(states(WIDTH), [-1, WIDTH])
    assert [f.role for f in out[0]] == ["batch", "seq"]


def test_splitting_and_merging_gives_the_same_factors() -> None:
    x = states(WIDTH)
    split = reshape(x, [BATCH, SEQ, HEADS, DIM])
    merged = reshape(split, [BATCH, SEQ, -1])
    assert merged[2] == (*split[2], *split[3])
    assert reshape(merged, [BATCH, SEQ, HEADS, DIM]) == split


def test_a_size_of_one_is_no_factor() -> None:
    out = reshape(states(DIM), [BATCH, 1, SEQ, DIM])
    assert out[1] == () and len(out) == 4


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([-1, -1, DIM], "more than one -1"),
        ([BATCH, SEQ], "leaves out"),
        ([BATCH, SEQ, WIDTH, HIDDEN], "no axis of size config.hidden"),
        ([arith("floordiv", BATCH, 2), -1], "split the batch axis"),
        ([BATCH, arith("floordiv", SEQ, 2), -1], "split the seq axis"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_views_that_do_not_fit(wanted, message: str) -> None:
    with pytest.raises(AxisError, match=message):
        reshape(states(WIDTH), wanted)


def test_broadcasting_is_right_aligned() -> None:
    x = states(HIDDEN)
    assert broadcast([x, (feature_axis(HIDDEN),)]) == x
    assert broadcast([(feature_axis(HIDDEN),), x]) == x
    assert broadcast([x, ((), (), ())]) == x


def test_broadcasting_keeps_the_copies_that_both_have() -> None:
    copies = (Factor(DIM), Factor(2, repeats=True))
    assert broadcast([(copies,), (copies,)]) == (copies,)
    plain = (Factor(arith("mul", 2, DIM)),)
    assert broadcast([(copies,), (plain,)]) == (plain,)


def test_broadcasting_of_other_sizes_is_refused() -> None:
    with pytest.raises(AxisError, match=r"sizes config\.hidden and config\.dim"):
        broadcast([states(DIM), states(HIDDEN)])


def test_a_token_axis_meets_only_a_token_axis() -> None:
    weight = ((Factor(SEQ),), feature_axis(HIDDEN))
    with pytest.raises(AxisError, match="another kind of axis"):
        broadcast([states(HIDDEN), weight])


def test_the_flat_layout_has_the_tokens_in_front() -> None:
    heads = (batch_axis(), feature_axis(HEADS), seq_axis(), feature_axis(DIM))
    tokens, features = feature_layout(heads)
    assert tokens and sizes(tuple(features)) == ["config.heads", "config.dim"]


def test_a_layout_without_tokens() -> None:
    axis = feature_axis(DIM)
    assert feature_layout((axis,)) == (False, [axis])


def test_an_axis_of_one_before_the_sequence_goes() -> None:
    axis = feature_axis(DIM)
    assert feature_layout(((), seq_axis(), axis)) == (True, [axis])


def test_two_axes_of_tokens_are_refused() -> None:
    with pytest.raises(AxisError, match="two axes of tokens"):
        feature_layout((batch_axis(), seq_axis(), seq_axis()))


def test_features_folded_into_tokens_are_refused() -> None:
    folded = (batch_axis(), (*seq_axis(), *feature_axis(DIM)))
    with pytest.raises(AxisError, match="mixes tokens with features"):
        feature_layout(folded)


@pytest.mark.parametrize(
    ("bounds", "size"),
    [
        ((None, None, None), DIM),
        ((0, arith("floordiv", DIM, 2), 1), arith("floordiv", DIM, 2)),
        ((arith("floordiv", DIM, 2), None, 1), arith("floordiv", DIM, 2)),
        ((None, -1, None), arith("sub", DIM, 1)),
        ((-2, None, None), 2),
        ((None, None, 2), arith("floordiv", DIM, 2)),
        ((1, None, 2), arith("floordiv", DIM, 2)),
        ((None, arith("neg", HEADS), None), arith("sub", DIM, HEADS)),
    ],
    ids=lambda value: "",
)
def test_length_of_a_slice(bounds, size) -> None:
    start, stop, step = bounds
    assert same(slice_size(start, stop, step, DIM), size)


def test_dimensions_count_from_either_end() -> None:
    assert normalize(-1, 3) == 2 and normalize(0, 3) == 0
    for dim in (3, -4):
        with pytest.raises(AxisError):
            normalize(dim, 3)
