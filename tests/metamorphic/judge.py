"""convert(original) against convert(variant), for each model and variant."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from porter.gap import Refused
from tests.metamorphic.compare import difference
from tests.metamorphic.rename import Names
from tests.metamorphic.variants import Variant
from tests.reference.sources import source_path, source_text

Convert = Callable[..., Any]


@dataclass(frozen=True)
class Outcome:
    """same: equal up to the names. canonical: equal once order and bindings agree.

    first: the first strict difference, or why there is no port to compare.
    """

    model: str
    variant: str
    same: bool
    canonical: bool
    first: str = ""

    @property
    def word(self) -> str:
        if self.same:
            return "same"
        return "same*" if self.canonical else "DIFFERS"


@cache
def _compiler() -> Convert:
    from porter.convert import convert

    return convert


def convert_source(path: Path, text: str) -> str:
    """The generated file of the compiler under test."""
    return str(_compiler()(path, text=text).text)


@cache
def original_port(convert: Callable[[Path, str], str], model: str) -> str:
    return convert(source_path(model), source_text(model))


def judge(
    model: str,
    variant: Variant,
    convert: Callable[[Path, str], str] = convert_source,
) -> Outcome:
    """Compare both ports; a refusal or a crash of either is a difference, said."""
    text, names = variant.make(source_text(model))
    try:
        before = original_port(convert, model)
        after = convert(source_path(model), text)
    except Refused as refused:
        return Outcome(model, variant.name, False, False, f"refused: {refused.gaps[0]}")
    except Exception as error:  # a crash is a finding, and the suite must go on
        return Outcome(model, variant.name, False, False, f"crashed: {error!r}")
    first = difference(before, after, names)
    canonical = first is None or _canonical(before, after, names, variant)
    return Outcome(model, variant.name, first is None, canonical, first or "")


def _canonical(before: str, after: str, names: Names, variant: Variant) -> bool:
    if variant.canonical is None:
        return False
    one, two = variant.canonical(before), variant.canonical(after)
    return difference(one, two, names) is None
