"""From a list of equal and different modules to the one at fault."""

import pytest
import torch

from porter.verify.bisection import (
    first_lasting_difference,
    partner,
    same_values,
    telling_tolerance,
)


@pytest.mark.parametrize(
    ("verdicts", "found"),
    [
        ([("embed", True), ("a", True)], None),
        ([("embed", False), ("a", False)], "embed"),
        ([("embed", True), ("a", False), ("b", False)], "a"),
        # What later modules don't show is a difference of form.
        ([("a", False), ("b", True)], None),
        ([("a", False), ("b", True), ("c", False)], "c"),
        # The second layer's activation differs as the first one's did: by form.
        (
            [("0.act", False), ("0.down", True), ("1.act", False), ("1.down", False)],
            "1.down",
        ),
        # Nothing but form is left: better than nothing.
        ([("0.act", False), ("0.down", True), ("1.act", False)], "1.act"),
    ],
)
def test_first_lasting_difference(
    verdicts: list[tuple[str, bool]], found: str | None
) -> None:
    assert first_lasting_difference(verdicts) == found


def test_a_pair_may_be_a_sum_still_to_be_made() -> None:
    hidden, residual = torch.randn(5, 8), torch.randn(5, 8)
    whole = (hidden + residual).view(1, 5, 8)
    assert same_values(whole, [hidden, residual], 1e-5)
    assert same_values(hidden[None], [hidden, residual], 1e-5)
    assert not same_values(residual[None], [hidden, residual], 1e-5)


def test_axes_do_not_matter_and_sizes_do() -> None:
    tensor = torch.randn(5, 2, 4)
    assert same_values(tensor[None], [tensor.flatten(1)], 1e-5)
    assert same_values(tensor, [torch.randn(5, 3)], 1e-5)  # can't be compared
    assert not same_values(tensor, [tensor * 1.01], 1e-3)


def test_partners_may_have_another_root() -> None:
    one = [torch.ones(1)]
    outputs = {"model.layers.0": one, "lm_head": [torch.zeros(1)]}
    assert partner("model.layers.0", outputs) is one
    assert partner("transformer.layers.0", outputs) is one
    assert partner("transformer.layers.1", outputs) is None
    assert partner("head", outputs) is None


def test_tolerance_follows_the_error() -> None:
    assert telling_tolerance(0.5) == 1e-3
    assert telling_tolerance(3e-4) == pytest.approx(3e-5)
    assert telling_tolerance(1e-9) == 1e-5
    assert telling_tolerance(float("nan")) == 1e-3
