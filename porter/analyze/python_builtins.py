"""What Python's builtins mean to the interpreter."""

import ast
import math
from collections.abc import Callable
from typing import Any

from porter.analyze import expert_loops, legacy_cache, old_configs
from porter.analyze.expert_loops import ExpertIndex, PairIndex
from porter.analyze.families import SymSet
from porter.analyze.graph import (
    Node,
)
from porter.analyze.inequalities import larger_of
from porter.analyze.kinds import kind_of
from porter.analyze.layer_configs import LayerConfig
from porter.analyze.presence import presence, require_all
from porter.analyze.sequences import SymList, different
from porter.analyze.symbols import (
    Sym,
    arith,
    constant,
    is_symbolic,
    negate,
    same,
    unwrap,
)
from porter.analyze.values import (
    MISSING,
    Cache,
    CacheLayers,
    Choice,
    Config,
    External,
    Module,
    Opaque,
    Peeked,
)


def builtin(interp, name: str, args: list, kwargs: dict) -> Any:
    fn = _BUILTINS.get(name)
    if fn is not None:
        return fn(interp, *args, **kwargs)
    if name.endswith(("Error", "Exception", "Warning")):
        return Opaque(name)
    raise interp.gap(f"the builtin `{name}` isn't followed")


def _int(interp, x=0):
    if isinstance(x, ExpertIndex):
        return x
    number = constant(x)
    if number is not None:
        return int(number)
    inner = unwrap(x)
    if isinstance(inner, Sym) and inner.op == "mul" and same(inner.args[1], 1):
        x = inner.args[0]  # int(size * 1.0), with a factor that isn't there
        if interp.is_size(unwrap(x)):
            return x
    if isinstance(inner, Sym) and inner.op == "truediv":
        if all(interp.is_size(unwrap(part)) for part in inner.args):
            return arith("floordiv", *inner.args)  # int(width / heads)
    if isinstance(inner, Sym):
        return Sym("call", ("int", x))
    return Opaque("int()")


def _float(interp, x=0.0):
    number = constant(x)
    if number is not None and not isinstance(x, str):
        return float(number)
    if isinstance(x, str):
        return float(x)
    return x


def _bool(interp, x=False):
    return interp.truth(x)


def _len(interp, x):
    x = interp.resolve(x)
    if isinstance(x, legacy_cache.PastLayer):
        return 2
    if isinstance(x, dict):
        require_all(interp, x)
    if isinstance(x, (tuple, list, dict, str)):
        return len(x)
    if isinstance(x, Node):
        from porter.analyze.graph import axis_size

        return axis_size(x.axes[0])
    if isinstance(x, PairIndex):
        return expert_loops.PAIRS
    if isinstance(x, CacheLayers):
        return math.inf
    if isinstance(x, Module) and x.leaf == "torch.nn.ModuleList":
        return x.count if x.element is not None else len(x.attrs.get("items", []))
    if isinstance(unwrap(x), Sym):
        return Sym("call", ("len", x))
    if isinstance(x, SymSet):
        raise interp.gap(
            "how many different items a list of the config has decides something here",
            "write what follows from it by hand",
        )
    raise interp.gap(f"`len` of {kind_of(x)} isn't followed")


def _range(interp, *args):
    from porter.analyze.sequences import SymRange

    numbers = [constant(a) for a in args]
    if all(
        n is not None and not is_symbolic(a) for n, a in zip(numbers, args, strict=True)
    ):
        return range(*[int(n) for n in numbers])
    if len(args) == 1:
        return SymRange(0, args[0])
    if len(args) == 2:
        return SymRange(args[0], args[1])
    raise interp.gap("this range isn't followed")


def _enumerate(interp, x, start=0):
    from porter.analyze.sequences import Enumerated, SymList

    if interp.layer_iteration(x) is not None:
        if constant(start) != 0:
            raise interp.gap("layers are counted from another number than 0")
        return Enumerated(x)
    if isinstance(x, SymList):
        raise interp.gap("`enumerate` of a list of symbolic length")
    return [(start + i, item) for i, item in enumerate(interp.sequence(x))]


def _zip(interp, *args, **kwargs):
    from porter.analyze.sequences import Zipped

    if any(interp.layer_iteration(a) is not None for a in args):
        return Zipped(args)
    return list(zip(*[interp.sequence(a) for a in args], strict=False))


def _isinstance(interp, x, kinds):
    kinds = kinds if isinstance(kinds, (tuple, list)) else (kinds,)
    x = interp.resolve(x)
    if isinstance(x, Choice):
        return interp.ask_both(x, lambda side: _isinstance(interp, side, kinds))
    verdicts = [_is_kind(interp, x, k) for k in kinds]
    if any(v is True for v in verdicts) or all(v is False for v in verdicts):
        return any(v is True for v in verdicts)
    unknown = [v for v in verdicts if v is not False]
    return unknown[0] if len(unknown) == 1 else Sym("or", tuple(unknown))


def _is_kind(interp, x, kind) -> Any:
    name = kind.name if isinstance(kind, External) else getattr(kind, "name", "")
    short = name.rsplit(".", 1)[-1]
    plain = {
        "int": int,
        "float": float,
        "str": str,
        "dict": dict,
        "list": list,
        "tuple": tuple,
        "bool": bool,
    }
    inner = unwrap(x)
    if isinstance(kind, Opaque):
        raise interp.gap(
            "`isinstance` of a type that is asked of a value isn't followed"
        )
    if legacy_cache.is_past(x):
        return short in ("tuple", "list")
    none = old_configs.scaling_is_none(interp.config, inner)
    if none is not None and short == "dict":
        return interp.decide(negate(none))
    if isinstance(inner, Sym):
        if short in plain and inner.op == "field":
            return Sym("isinstance", (inner, short))
        raise interp.gap("the type of a config value decides here")
    if short in plain:
        return isinstance(inner, plain[short])
    if short == "NoneType":
        return x is None
    if short in ("Tensor", "LongTensor", "FloatTensor"):
        return isinstance(x, Node)
    if isinstance(x, Cache):
        return short in ("Cache", x.kind)
    if isinstance(x, Module):
        from porter.analyze.interpreter import lineage

        own = x.cls is not None and any(c is kind for c in lineage(x.cls))
        return x.leaf == name or own
    return False


def _getattr(interp, obj, name, *default):
    obj = interp.resolve(obj)
    if isinstance(unwrap(name), Sym):
        found = MISSING
        if isinstance(obj, Module) and not default:
            found = interp.built_attribute(obj, unwrap(name))
        if found is MISSING:
            raise interp.gap("`getattr` of a name that can't be followed")
        return found
    if isinstance(obj, Config):
        known = obj.fields is None or obj.fields.declares(name) or not default
        if known and obj.fields is not None:
            return interp.config_attribute(obj, name)
        if name == "_attn_implementation":
            return "eager"
        if not default:
            return interp.config_attribute(obj, name)
        if old_configs.lacks(obj, name):
            return default[0]
        return Sym("or_default", (obj.path, name, default[0]))
    if isinstance(obj, LayerConfig) and obj.declares(name):
        return obj.attribute(name)
    if isinstance(obj, Module) and not default:
        return interp.module_attribute(obj, name)
    if isinstance(obj, Module):
        return if_there(
            interp, _module_has(interp, obj, name),
            lambda: interp.module_attribute(obj, name), default[0],
        )  # fmt: skip
    if isinstance(obj, Peeked):
        return if_there(
            interp, _module_has(interp, obj.module, name),
            lambda: interp.attribute(obj, name), default[0] if default else None,
        )  # fmt: skip
    if isinstance(obj, (Node, Opaque, Peeked)):
        return interp.attribute(obj, name)
    if isinstance(obj, Cache) or obj is None:
        return default[0] if default else None
    if isinstance(obj, External):
        return interp.attribute(obj, name)
    raise interp.gap("`getattr` isn't followed here")


def if_there(interp, there, get: Callable[[], Any], default) -> Any:
    """What get() gives where `there` holds, else the default."""
    if isinstance(there, bool):
        return get() if there else default
    with interp.assuming(there, True):
        found = get()
    return interp.join(there, found, default)


def _listed(interp, x):
    """A set of the config's items, in whatever order: it stays one."""
    from porter.analyze.families import SymSet

    x = interp.resolve(x)
    return x if isinstance(x, (SymSet, SymList)) else None


def set_attribute(interp, obj, name, value) -> None:
    name = unwrap(name)
    if isinstance(name, str):
        interp.set_attribute(obj, name, value)
    elif isinstance(name, Sym) and name.op == "format" and isinstance(obj, Module):
        interp.set_built_attribute(obj, name, value)
    else:
        raise interp.gap("an attribute whose name can't be followed is set")


def _module_has(interp, obj: Module, name: str) -> Any:
    """Whether a module has an attribute, or the condition under which it has."""
    if name == "training" or any(
        interp._class_member(c, name, obj) is not MISSING for c in interp._lineage(obj)
    ):
        return True
    return interp.decide(presence(obj.attrs.get(name, MISSING), name in obj.maybe))


def _hasattr(interp, obj, name):
    obj = interp.resolve(obj)
    if isinstance(obj, Config):
        return interp.config_has(obj, name)
    if isinstance(obj, Module):
        return _module_has(interp, obj, name)
    if isinstance(obj, Peeked):
        return _module_has(interp, obj.module, name)
    return False


def _extreme(which: str):
    def fn(interp, *args, **kwargs):
        values = interp.sequence(args[0]) if len(args) == 1 else list(args)
        numbers = [constant(v) for v in values]
        if all(n is not None for n in numbers):
            return max(numbers) if which == "max" else min(numbers)
        if len(values) == 2 and not kwargs:
            known = larger_of(*values)
            if known is not None:
                return values[known if which == "max" else 1 - known]
        return Sym("call", (which, *values))

    return fn


def _type(interp, x):
    return External("types.NoneType") if x is None else Opaque("a type")


def _all(interp, x):
    return _together(interp, x, "and")


def _any(interp, x):
    return _together(interp, x, "or")


def _together(interp, x, op: str):
    """The truth of all values or of any: a bool, or a condition on the config."""
    settles = op == "or"
    unknown = []
    for value in interp.sequence(x):
        verdict = interp.truth(value)
        if verdict is settles:
            return settles
        if not isinstance(verdict, bool):
            unknown.append(verdict)
    if not unknown:
        return not settles
    return interp.decide(unknown[0] if len(unknown) == 1 else Sym(op, tuple(unknown)))


_BUILTINS: dict[str, Any] = {
    "int": _int, "float": _float, "bool": _bool, "len": _len, "range": _range,
    "enumerate": _enumerate, "zip": _zip, "isinstance": _isinstance, "getattr": _getattr,
    "hasattr": _hasattr, "max": _extreme("max"), "min": _extreme("min"), "type": _type,
    "str": lambda interp, x="": x if isinstance(x, str) else Opaque("a string"),
    "tuple": lambda interp, x=(): _listed(interp, x) or tuple(interp.sequence(x)),
    "list": lambda interp, x=(): _listed(interp, x) or list(interp.sequence(x)),
    "dict": lambda interp, x=None, **kw: {**(x or {}), **kw},
    "slice": lambda interp, *a: slice(*a),
    "print": lambda interp, *a, **k: None,
    "callable": lambda interp, x: True,
    "abs": lambda interp, x: abs(constant(x)),
    "all": _all, "any": _any,
    "set": lambda interp, x=(): interp.symbolic_set(x)
    or list(different(interp.sequence(x))),
    "sorted": lambda interp, x: _listed(interp, x) or sorted(interp.sequence(x)),
    "setattr": lambda interp, obj, name, value: set_attribute(interp, obj, name, value),
    "round": lambda interp, x: Sym("call", ("round", x)),
    "sum": lambda interp, x: _sum(interp, x),
    "reversed": lambda interp, x: interp.sequence(x)[::-1],
}  # fmt: skip


def _sum(interp, x):
    out: Any = 0
    for item in interp.sequence(x):
        out = interp.binary(ast.Add, out, item)
    return out
