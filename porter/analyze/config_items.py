"""Items of a config's dictionary, and of a copy of it with some items set anew."""

from typing import Any

from porter.analyze.symbols import Sym, unwrap


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
