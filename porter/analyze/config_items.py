"""Items of a config's dictionary, and of a copy of it with some items set anew."""

from typing import Any

from porter.analyze.symbols import Sym, unwrap
from porter.analyze.values import Opaque, is_scalar


def sliced(holder, index: slice) -> Any:
    """holder[a:b:c] of a config's list; what the bounds are may depend on the config."""
    bounds = (index.start, index.stop, index.step)
    if not all(is_scalar(bound) for bound in bounds):
        return Opaque("items at unknown places")
    return Sym("slice", (unwrap(holder), *bounds))


def read_item(holder, name, plain: Sym | None = None) -> Any:
    """holder[name], or what `plain` reads by that name (`holder.get(name, default)`).

    `{**d, "k": v}` has v under "k", and everything else from d.
    """
    inner = unwrap(holder)
    plain = Sym("item", (inner, name)) if plain is None else plain
    if isinstance(inner, Sym) and inner.op == "updated" and isinstance(name, str):
        for known, value in inner.args[1]:
            if known == name:
                return value
        base = unwrap(inner.args[0])
        return read_item(base, name, Sym(plain.op, (base, *plain.args[1:])))
    return plain
