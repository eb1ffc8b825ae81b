"""What a port checks of its config before it is built; it stops rather than be wrong.

Where vLLM's rope differs from transformers' by the config's values, the port stops.

Which rope types and parameters vLLM 0.32 computes otherwise was measured against
transformers' ROPE_INIT_FUNCTIONS; the table stands in docs/rope.md.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from porter.analyze.equal_sizes import EqualSizes
from porter.analyze.folding import Decided
from porter.analyze.symbols import (
    Sym,
    contains,
    describe,
    negate,
    same,
    simplify,
    text,
    unwrap,
)
from porter.profiles.profile import Profile

_CHECK = '''\
def check_rope(rope_parameters: dict, max_position: int, max_model_len: int) -> None:
    """Stop where vLLM's rope doesn't compute what the original model does."""
    rope_type = rope_parameters["rope_type"]
    if rope_type not in {types}:
        raise ValueError(f"rope type {{rope_type!r}} isn't supported")
    foreign = [name for name in {foreign} if name in rope_parameters]
    if foreign:
        raise ValueError(f"the original model doesn't read {{', '.join(foreign)}}")
{partial}{dynamic}{yarn}    if rope_type == "longrope":
        original = rope_parameters["original_max_position_embeddings"]
        factor = rope_parameters.get("factor") or max_position / original
        if max_model_len > original:
            raise ValueError(
                f"longrope is exact up to {{original}} tokens: lower max_model_len"
            )
        if factor != max_position / original or rope_parameters.get("attention_factor"):
            raise ValueError("longrope with its own factor isn't supported")'''

_PARTIAL = """\
    if rope_parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("the original model rotates the whole head")
"""
_PROPORTIONAL = """\
    whole = rope_parameters.get("partial_rotary_factor", 1.0) == 1.0
    if rope_type != "proportional" and not whole:
        raise ValueError("the original model rotates the whole head")
    if rope_type == "proportional" and rope_parameters.get("factor", 1.0) != 1.0:
        raise ValueError("proportional rope with a factor isn't supported")
"""
_DYNAMIC = """\
    if rope_type == "dynamic" and max_model_len > max_position:
        raise ValueError(
            f"dynamic rope is exact up to {max_position} tokens: lower max_model_len"
        )
"""
_YARN = """\
    unread = [n for n in {names} if rope_parameters.get(n) is not None]
    if rope_type == "yarn" and unread:
        raise ValueError(f"yarn with {{', '.join(unread)}} isn't supported")
"""


_ALPHA = """\
    if not rope_parameters.get("alpha", 1.0):
        raise ValueError("alpha is either a factor or left out")
"""
# what vLLM's get_rope reads and transformers doesn't
_FOREIGN = (
    "alpha",
    "long_mscale",
    "mrope_section",
    "rope_dim",
    "short_mscale",
    "use_fope",
)


def rope_check(
    profile: Profile,
    partial: bool,
    of_source: Sequence[str],
    read: Sequence[str] = (),
) -> str:
    """The text of the check, for a source that rotates part of the head or all of it,
    the rope types for which it does what vLLM does, and of vLLM's own parameters those
    that it reads, too."""
    types = [t for t in profile.rope_types if t in of_source]
    lacks = profile.yarn_lacks if "yarn" in types else ()
    text = _CHECK.format(
        types=_tuple(types),
        foreign=_tuple([name for name in _FOREIGN if name not in read]),
        partial=("" if partial else _whole(types))
        + (_ALPHA if "alpha" in read else ""),
        dynamic=_DYNAMIC if "dynamic" in types else "",
        yarn=_YARN.format(names=_tuple(lacks)) if lacks else "",
    )
    return "\n".join(_for_types(text.splitlines(), types))


def _whole(types: Sequence[str]) -> str:
    """Of a source that rotates whole heads; vLLM reads a factor for every type."""
    return _PROPORTIONAL if "proportional" in types else _PARTIAL


def _for_types(lines: list[str], types: Sequence[str]) -> Iterator[str]:
    """Without what is asked of a type that is refused anyway."""
    skipping = False
    for line in lines:
        if line.startswith("    ") and line[4] != " ":
            asked = re.search(r'rope_type == "(\w+)"', line)
            skipping = asked is not None and asked[1] not in types
        if not skipping:
            yield line


def _tuple(names: Sequence[str]) -> str:
    comma = "," if len(names) == 1 else ""
    return "(" + ", ".join(f'"{n}"' for n in names) + comma + ")"


_DEFAULT_ONLY = """\
if {kind} != "default":
    raise ValueError("only rope type 'default' is supported")"""


def default_only_check(kind: str) -> str:
    """For a source whose own frequencies are kept: the scaled types are the library's."""
    return _DEFAULT_ONLY.format(kind=kind)


_REFUSED = """\
if {test}:
    raise ValueError("{shown} isn't supported: try porter convert --config")"""


def refused_check(cond) -> str:
    """For a branch that vLLM can't express: the port is that of the other branch."""
    test = describe(cond)
    shown = test.replace("config.", "").replace('"', "'")
    return _REFUSED.format(test=test, shown=shown)


_LENGTH = """\
if {test}vllm_config.model_config.max_model_len > {most}:
    raise ValueError("exact up to {shown} tokens: lower max_model_len")"""


def length_check(most, conditions: Sequence[tuple[Any, bool]]) -> str:
    """For a branch that the source takes only beyond a number of tokens, where the
    conditions on the config hold."""
    length = describe(simplify(most))
    shown = length.replace("config.", "").replace('"', "'")
    asked = [c if holds else negate(c) for c, holds in conditions if _of_config(c)]
    test = "".join(f"{text(c, lambda part: None, 3)} and " for c in asked)
    return _LENGTH.format(test=test, most=length, shown=shown)


_DECIDED = """\
if {test}:
    raise ValueError("this port was made for {shown}")"""

_FOLDED = """\
if config.{name} {differs} {value!r}:
    raise ValueError("this port was made for {name} = {shown}")"""


def folded_check(decided: Decided) -> str:
    """For a port whose branches were folded by the values of one config."""
    cond = decided.cond
    switch = isinstance(cond, Sym) and cond.op == "truthy" and len(decided.fields) == 1
    if switch:
        ((name, value),) = decided.fields.items()
        if isinstance(value, bool):
            return _field_check(name, value)
    test = describe(negate(cond) if decided.value else cond)
    shown = describe(cond if decided.value else negate(cond))
    shown = shown.replace("config.", "").replace('"', "'")
    return _DECIDED.format(
        test=test, shown=shown if len(shown) < 60 else "another config"
    )


def _field_check(name: str, value) -> str:
    shown = str(value).replace('"', "'")
    differs = "is not" if value is None or isinstance(value, bool) else "!="
    return _FOLDED.format(name=name, value=value, shown=shown, differs=differs)


def each_layer(check: str, layers) -> str:
    """The check, made for every layer where it reads something of the layer's own."""
    if not re.search(r"\blayer_idx\b", check):
        return check
    head = f"for layer_idx in range({describe(layers)}):"
    return f"{head}\n{textwrap.indent(check, '    ')}"


_WINDOW = """\
window = vllm_config.cache_config.sliding_window
if {test}window is not None and window < vllm_config.model_config.max_model_len:
    raise ValueError(f"exact up to {{window}} tokens: lower max_model_len")"""


def window_check(window) -> str | None:
    """For attention without a window, where the config has one for all layers.

    The engine then gives it to every attention, and transformers' cache, by the same
    rule, forgets the tokens behind it, which the mask of the source's prefill still sees.
    """
    inner = unwrap(window)
    if not isinstance(inner, Sym):
        return _WINDOW.format(test="") if inner is None else None
    if inner.op == "ifexp" and unwrap(inner.args[0]).op in ("is_none", "truthy"):
        tested, sides = unwrap(inner.args[0]).args[0], inner.args[1:]
        if any(same(tested, side) for side in sides) and None in sides:
            inner = unwrap(tested)  # `None if window is None else window`
    if inner.op == "field" and inner.args[1] == "sliding_window":
        return None
    if _reads(inner, "layer_types"):  # the cache goes by them, too
        return None
    return _WINDOW.format(test=f"{describe(Sym('is_none', (inner,)))} and ")


def _reads(value, name: str) -> bool:
    inner = unwrap(value)
    if not isinstance(inner, Sym):
        return False
    if inner.op in ("field", "or_default") and inner.args[1] == name:
        return True
    return any(_reads(a, name) for a in inner.args)


_SIZES = """\
if {test}:
    raise ValueError("{message}")"""


def sizes_check(fact: EqualSizes) -> str:
    """For sizes that the source needs equal: it fails itself, later, where they aren't."""
    conds = [c if holds else negate(c) for c, holds in fact.conds if _of_config(c)]
    differ = Sym("not", (Sym("eq", (fact.left, fact.right)),))
    message = f"{text(fact.left, _field)} must be {text(fact.right, _field)}"
    if len(message) > 60 or "(" in message or "[" in message:
        message = "sizes that must be equal differ"
    test = describe(Sym("and", (*conds, differ)) if conds else differ)
    return _SIZES.format(test=test, message=message)


def _field(value) -> str | None:
    """A field by its name alone."""
    inner = unwrap(value)
    known = isinstance(inner, Sym) and inner.op in ("field", "or_default")
    return inner.args[1] if known else None


def _of_config(cond) -> bool:
    return isinstance(cond, Sym) and not any(
        contains(cond, op) for op in ("runtime", "node_value")
    )
