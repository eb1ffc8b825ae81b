"""The variants by name, and how each is judged."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.metamorphic import bind, canonical, layout, order, rename
from tests.metamorphic.rename import Names

Canonical = Callable[[str], str]


@dataclass(frozen=True)
class Variant:
    """make: text -> (text, names). canonical: a second form in which it may be same."""

    name: str
    make: Callable[[str], tuple[str, Names]]
    canonical: Canonical | None = None


VARIANTS = (
    Variant("prefix", rename.rename_prefix),
    Variant("classes", rename.rename_classes),
    Variant("attributes", rename.rename_attributes),
    Variant("locals", rename.rename_locals),
    Variant("all names", rename.rename_all),
    Variant("unparsed", layout.unparsed),
    Variant("narrow", layout.narrow),
    Variant("wide", layout.wide),
    Variant(
        "reorder 1", lambda text: order.reorder_statements(text, 1), canonical.ordered
    ),
    Variant(
        "reorder 2", lambda text: order.reorder_statements(text, 2), canonical.ordered
    ),
    Variant("moved 1", lambda text: order.move_definitions(text, 1), canonical.ordered),
    Variant("moved 2", lambda text: order.move_definitions(text, 2), canonical.ordered),
    Variant(
        "hoist some", lambda text: bind.hoist_locals(text, 1, 0.3), canonical.bound
    ),
    Variant("hoist all", lambda text: bind.hoist_locals(text, 2, 1.0), canonical.bound),
    Variant("inline", bind.inline_locals, canonical.bound),
)

# Judged by running the port on the renamed checkpoint, since its weight map differs.
PARAMETERS = Variant("parameters", rename.rename_parameters)
