"""Under which condition something is there, that some configs don't set."""

from typing import Any

from porter.analyze.symbols import Sym, negate
from porter.analyze.values import MISSING, Choice


def presence(value: Any, unset: bool = False) -> Any:
    """Whether a value is there: a bool or the condition. unset: None says it isn't."""
    if not isinstance(value, Choice):
        return not (value is MISSING or (unset and value is None))
    return either(value.cond, presence(value.then, unset), presence(value.other, unset))


def either(cond: Any, then: Any, other: Any) -> Any:
    """`then` where cond holds, else `other`; both are bools or conditions."""
    if isinstance(then, bool) and isinstance(other, bool):
        if then is other:
            return then
        return cond if then else negate(cond)
    if then is False or other is True:
        cond, then, other = negate(cond), other, then
    if other is False:
        return Sym("and", (cond, then))
    if then is True:
        return Sym("or", (cond, other))
    return Sym("or", (Sym("and", (cond, then)), Sym("and", (negate(cond), other))))


def any_present(container: dict) -> Any:
    """Whether a dictionary has any item: a bool or the condition."""
    found = [presence(value) for value in container.values()]
    open_ = tuple(cond for cond in found if not isinstance(cond, bool))
    if True in found or not open_:
        return True in found
    return open_[0] if len(open_) == 1 else Sym("or", open_)


def require_all(interp, container: dict) -> None:
    """Raises a gap where some configs lack a key, which counts and loops would miss."""
    for name, value in container.items():
        if interp.decide(presence(value)) is not True:
            raise interp.gap(f"whether a dictionary has `{name}` depends on the config")
