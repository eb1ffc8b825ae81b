"""The constructor's text for attention that reads an earlier layer's cache.

Which layer that is is worked out when the layer is built, from the source's own
expressions: the last one before it that leaves its keys and values under the key that
this layer reads.
"""

from typing import Any

from porter.analyze.symbols import Sym, contains, simplify, text, unwrap
from porter.transforms.shared_caches import Sharing, of_target, same_in_both

NAME = "kv_sharing_target_layer_name"
_LAYER = "kv_layer_idx"
_TARGET = """\
{name} = None
if {cond}:
    {layer} = max(
        i
        for i in range(layer_idx)
        if {earlier}
    )
{check}    {name} = f"{{prefix}}.attn".replace(
        f".{{layer_idx}}.", f".{{{layer}}}."
    )"""
_CHAINED = """\
    if {chained}:
        raise ValueError("a layer can't share the cache of one that has none")
"""
_CHECK = """\
    if ({theirs}) != ({mine}):
        raise ValueError("a layer can't share the cache of one with other sizes")
"""


def target(sharing: Sharing, attrs: dict[str, Any], number, name) -> str:
    """Statements that set kv_sharing_target_layer_name. number(x): the text of a scalar;
    name(sym): the constructor's names, see `symbols.text`."""
    sizes = [attrs[n] for n in ("num_kv_heads", "head_size", "head_size_v", "window")]
    open_ = {number(s): s for s in sizes if not same_in_both(s, sharing)}
    check = ""
    if open_:
        theirs = [_text(of_target(s), _LAYER, name) for s in open_.values()]
        check = _CHECK.format(theirs=_tuple(theirs), mine=_tuple(list(open_)))
    parts = [c for part in sharing.earlier for c in _parts(part)]
    earlier = " and ".join(dict.fromkeys(_text(c, "i", name, 3) for c in parts))
    cond = number(sharing.cond)
    chained = _text(of_target(sharing.cond), _LAYER, name)
    chain = _CHAINED.format(chained=chained) if sharing.may_chain else ""
    return _TARGET.format(
        name=NAME, cond=cond, layer=_LAYER, earlier=earlier, check=chain + check
    )


def _parts(cond: Any) -> list[Any]:
    inner = unwrap(cond)
    if isinstance(inner, Sym) and inner.op == "and":
        return [p for part in inner.args for p in _parts(part)]
    return [inner]


def _text(value: Any, layer: str, name, level: int = 0) -> str:
    def named(sym: Sym) -> str | None:
        if sym.op == "target":
            return layer
        return None if contains(sym, "target") else name(sym)

    return text(simplify(value), named, level)


def _tuple(items: list[str]) -> str:
    return ", ".join(items) + ("," if len(items) == 1 else "")
