"""transformers' renamings of checkpoints, read from a table of our own."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from porter.emit.checkpoint_names import renamings
from porter.gap import Refused

TABLE = """
ALIASES = {"petrel": "tern"}


def mapping():
    table = {
        "tern": [
            WeightRenaming("wi", "up"),
            WeightRenaming(source_patterns=r"\\.wo$", target_patterns=".down"),
        ],
        "GullForCausalLM": [WeightRenaming("a", "b")],
        "gull": [WeightRenaming("c", "d")],
        "skua": [WeightConverter(["w1", "w3"], "w13", operations=[Concatenate(0)])],
        "added": [PrefixChange(prefix_to_add="model")],
        "removed": [PrefixChange(prefix_to_remove="inner", model_prefix="model")],
        "named": [PrefixChange("model", None, NAME)],
        "tuples": [WeightRenaming(["a", "b"], "c")],
    }
    table["late"] = [WeightRenaming("late", "later")]
    raise RuntimeError("a table that is read, not run")
"""
CLASSES = """
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict(
    [
        ("gull", "GullForCausalLM"),
    ]
)
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A package as transformers is laid out, with a table of ours."""
    package = tmp_path / "transformers"
    auto = package / "models/auto"
    auto.mkdir(parents=True)
    (package / "__init__.py").touch()
    (auto / "modeling_auto.py").write_text(CLASSES, encoding="utf-8")
    (package / "conversion_mapping.py").write_text(TABLE, encoding="utf-8")
    return package


def facts(library: Path, model_type: str | None, name: str = "BirdForCausalLM") -> Any:
    path = library.resolve() / "models/bird/modeling_bird.py"
    return SimpleNamespace(
        file=SimpleNamespace(path=path, shown="modeling_bird.py"),
        cls=SimpleNamespace(name=name, node=SimpleNamespace(lineno=7)),
        config=SimpleNamespace(model_type=model_type),
    )


def test_renamings_of_a_model_type_in_order(library: Path) -> None:
    found = renamings(facts(library, "tern"))
    assert list(found.items()) == [("wi", "up"), (r"\.wo$", ".down")]


def test_an_alias_is_followed(library: Path) -> None:
    assert renamings(facts(library, "petrel")) == renamings(facts(library, "tern"))


def test_the_library_s_class_goes_before_the_model_type(library: Path) -> None:
    assert renamings(facts(library, "gull")) == {"a": "b"}


def test_the_name_of_the_class_at_hand_is_no_evidence(library: Path) -> None:
    assert renamings(facts(library, "late", "GullForCausalLM")) == {"late": "later"}


def test_an_entry_added_later_counts(library: Path) -> None:
    assert renamings(facts(library, "late")) == {"late": "later"}


@pytest.mark.parametrize("model_type", ["auk", None])
def test_no_entry_no_renaming(library: Path, model_type: str | None) -> None:
    assert renamings(facts(library, model_type)) == {}


@pytest.mark.parametrize(
    ("model_type", "before", "after"),
    [
        ("added", "layers.0.weight", "model.layers.0.weight"),
        ("added", "model.layers.0.weight", "model.layers.0.weight"),
        ("removed", "model.inner.layers.0.weight", "model.layers.0.weight"),
        ("removed", "model.layers.0.inner.weight", "model.layers.0.inner.weight"),
        ("removed", "models.inner.weight", "models.inner.weight"),
    ],
)
def test_a_changed_prefix(
    library: Path, model_type: str, before: str, after: str
) -> None:
    ((pattern, new),) = renamings(facts(library, model_type)).items()
    assert re.sub(pattern, new, before) == after


@pytest.mark.parametrize("model_type", ["skua", "tuples", "named"])
def test_what_is_no_plain_renaming_is_refused(library: Path, model_type: str) -> None:
    with pytest.raises(Refused, match="reshaped when transformers loads") as refusal:
        renamings(facts(library, model_type))
    assert refusal.value.gaps[0].line == 7


def test_files_outside_the_library_have_no_entry(library: Path) -> None:
    assert renamings(facts(library.parent, "tern")) == {}
