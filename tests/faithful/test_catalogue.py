"""Each entry is pinned to one place, runs in HF, and moves HF's logits (or doesn't)."""

from collections import Counter

import pytest

from tests.faithful.catalogue import CATALOGUE, HANDFUL
from tests.faithful.mutation import Mutation, NotPinned
from tests.faithful.reference import original_logits, reference
from tests.reference.sources import SIX, SOURCES, SPARSE, source_text
from tests.reference.tiny import rel_rmse

VISIBLE = 1e-3
INVISIBLE = 1e-5


def test_names_are_unique() -> None:
    counts = Counter(mutation.name for mutation in CATALOGUE)
    assert [name for name, count in counts.items() if count > 1] == []


def test_catalogue_is_large_enough() -> None:
    changes = [m for m in CATALOGUE if not m.control]
    mixers = [m for m in changes if m.mixes_tokens]
    assert len(changes) - len(mixers) >= 50
    assert len(mixers) >= 10
    assert {m.model for m in changes} == set(SOURCES)
    assert {m.model for m in mixers} >= set(SIX)
    assert len([m for m in changes if m.model in SPARSE]) >= 20
    assert set(HANDFUL) <= {m.name for m in changes if m.tp2}


@pytest.mark.parametrize("mutation", CATALOGUE, ids=lambda m: m.name)
def test_entry_is_pinned_and_judgeable(mutation: Mutation) -> None:
    text, lines = mutation.apply()
    assert text != source_text(mutation.model)
    assert lines
    with reference(mutation) as mutated:
        moved = max(
            rel_rmse(got, want)
            for got, want in zip(mutated.logits, original_logits(mutation), strict=True)
        )
    if mutation.control:
        assert moved < INVISIBLE, f"a control that moves the logits by {moved:.1e}"
    else:
        assert moved > VISIBLE, f"moves the logits by {moved:.1e} only: invisible"


def test_a_snippet_that_moved_is_said() -> None:
    gone = Mutation("x", "llama", "LlamaMLP.forward", (("no such", ""),), kind="x")
    with pytest.raises(NotPinned, match="0 times, not 1"):
        gone.apply()
    twice = Mutation(
        "y", "llama", "LlamaDecoderLayer.forward", (("residual", ""),), kind="x"
    )
    with pytest.raises(NotPinned, match="times, not 1"):
        twice.apply()


def test_lines_point_at_the_change() -> None:
    for mutation in CATALOGUE:
        text, lines = mutation.apply()
        shown = text.splitlines()
        original = {line.strip() for line in source_text(mutation.model).splitlines()}
        made = [shown[line - 1].strip() for line in sorted(lines)]
        assert len(lines) <= 5, mutation.name
        if mutation.kind == "tokens":
            assert all(line not in original for line in made), mutation.name
