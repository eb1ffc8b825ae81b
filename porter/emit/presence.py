"""Under which condition a module is there: an attribute that is None otherwise."""

from typing import Any

from porter.analyze.symbols import Sym, negate
from porter.analyze.values import MISSING, Choice, Module, does_nothing


def present_where(held: Any, child: Module) -> Any:
    """A choice of choices between the module and nothing, as one choice; anything else
    as it is."""
    conds = _conditions(held, child)
    if conds is None or len(conds) < 2:
        return held
    return Choice(Sym("and", tuple(conds)), child, None)


def condition_of(held: Any, child: Module) -> Any:
    """The condition under which the attribute is the module and not None, else None."""
    conds = _conditions(held, child)
    if not conds:
        return None
    return conds[0] if len(conds) == 1 else Sym("and", tuple(conds))


def _conditions(held: Any, child: Module) -> list[Any] | None:
    """Those that all hold where `held` is the module, which it never is otherwise."""
    if held is child:
        return []
    if not isinstance(held, Choice):
        return None
    for side, missing, cond in (
        (held.then, held.other, held.cond),
        (held.other, held.then, negate(held.cond)),
    ):
        inner = _conditions(side, child)
        if inner is not None and (does_nothing(missing) or missing is MISSING):
            return [cond, *inner]
    return None
