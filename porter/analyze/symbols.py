"""Symbolic scalars: what a size, a scale or a condition is in terms of the config.

A `Sym` is an expression tree over config fields, the layer index and the runtime sizes
(batch, sequence, history). Two Syms are equal when their keys are: arithmetic is brought
to polynomials with rational exponents, so `a // b * b` is `a` (sizes are taken to divide;
where they don't, the source itself fails on its views).
"""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

ARITHMETIC = {"add", "sub", "mul", "truediv", "floordiv", "pow", "neg", "mod"}
BOOLEAN = {
    "cached",
    "eq",
    "lt",
    "is_none",
    "not",
    "and",
    "or",
    "truthy",
    "in",
    "isinstance",
    "is_expert",
    "expert_below",
    "dtype_is",
    "latent_cache",
}
WRAPPERS = {"param", "attr"}


@dataclass(frozen=True, eq=False)
class Sym:
    """op: what the node is. args: operands (Syms or constants). actual: for the wrappers
    `param` and `attr`, the value behind the name; owner: the module it is a name of."""

    op: str
    args: tuple = ()
    actual: Any = None
    owner: Any = None
    _key: list = field(default_factory=list, repr=False)

    @property
    def key(self):
        if not self._key:
            self._key.append(_key(self))
        return self._key[0]

    def __repr__(self) -> str:
        return f"Sym<{describe(self)}>"


def config_field(path: tuple[str, ...], name: str) -> Sym:
    return Sym("field", (path, name))


BATCH = Sym("runtime", ("batch",))
SEQ = Sym("runtime", ("seq",))
PAST = Sym("runtime", ("past",))
HIST = Sym("add", (PAST, SEQ))  # the cached tokens, the new ones among them
MAX_MODEL_LEN = Sym("field", (("vllm_config", "model_config"), "max_model_len"))
LAYER = Sym("layer", ())
LATENT_CACHE = Sym("latent_cache", ())  # whether the engine caches latent vectors


def unwrap(x):
    while isinstance(x, Sym) and x.op in WRAPPERS:
        x = x.actual
    return x


def is_symbolic(x) -> bool:
    return isinstance(unwrap(x), Sym)


def key(x):
    """A hashable that is equal for equal values."""
    if isinstance(x, Sym):
        return x.key
    if isinstance(x, bool) or x is None or isinstance(x, str):
        return ("lit", x)
    if isinstance(x, (int, float)):
        return _number_key(x)
    if isinstance(x, (tuple, list)):
        return ("seq", tuple(key(item) for item in x))
    return ("obj", id(x))


def same(a, b) -> bool:
    return key(a) == key(b)


def _number_key(x):
    if x != x or x in (float("inf"), float("-inf")):
        return ("lit", repr(x))
    return ("c", Fraction(x))


def _key(sym: Sym):
    if sym.op in WRAPPERS:
        return key(sym.actual)
    if sym.op in ARITHMETIC:
        return _poly_key(poly(sym))
    if sym.op == "or_default":  # getattr(config, f, d), getattr(config, f, None) or d
        return ("or_default", sym.args[0], sym.args[1], key(sym.args[2]))
    if sym.op == "eq":
        return ("eq", frozenset((key(sym.args[0]), key(sym.args[1]))))
    return (sym.op, *(a if _plain(a) else key(a) for a in sym.args))


def _plain(a) -> bool:
    return isinstance(a, str) or (
        isinstance(a, tuple) and all(isinstance(i, str) for i in a)
    )


Poly = dict[tuple, Fraction]


def poly(x) -> Poly:
    """x as a polynomial: monomial (sorted tuple of (atom key, exponent)) -> coefficient."""
    x = unwrap(x)
    if isinstance(x, bool):
        return {(): Fraction(int(x))}
    if isinstance(x, (int, float)):
        if x != x or x in (float("inf"), float("-inf")):
            return {((("lit", repr(x)), Fraction(1)),): Fraction(1)}
        return {(): Fraction(x)} if x else {}
    if isinstance(x, Sym) and x.op in ARITHMETIC:
        return _poly_op(x)
    return {((key(x), Fraction(1)),): Fraction(1)}


def _poly_op(x: Sym) -> Poly:
    op, args = x.op, x.args
    if op == "neg":
        return {m: -c for m, c in poly(args[0]).items()}
    a, b = poly(args[0]), poly(args[1])
    if op in ("add", "sub"):
        out = dict(a)
        for m, c in b.items():
            out[m] = out.get(m, Fraction(0)) + (c if op == "add" else -c)
        return {m: c for m, c in out.items() if c}
    if op == "mul":
        return _poly_mul(a, b)
    if op == "truediv" or (op == "floordiv" and _divides_by_assumption(a, b)):
        if len(b) == 1:
            return _poly_mul(a, _poly_pow(b, Fraction(-1)))
        whole = _quotient(a, b)
        if whole is not None:
            return whole
    if op in ("truediv", "floordiv"):
        quotient = _exact_quotient(a, b)
        if quotient is not None and (len(b) > 1 or _is_whole(quotient)):
            return quotient
    if op == "pow" and len(b) <= 1 and (not b or () in b):
        exponent = b.get((), Fraction(0))
        if len(a) == 1:
            powered = _poly_pow(a, exponent)
            if powered is not None:
                return powered
        if exponent.denominator == 1 and 0 <= exponent <= 4:
            out = {(): Fraction(1)}
            for _ in range(int(exponent)):
                out = _poly_mul(out, a)
            return out
    if op in ("floordiv", "mod") and set(a) <= {()} and set(b) == {()}:
        num, den = a.get((), Fraction(0)), b[()]
        value = num // den if op == "floordiv" else num % den
        return {(): Fraction(value)} if value else {}
    if op == "truediv":  # a / (b + c) and a * (1 / (b + c)) are the same
        inverse = (op, key(1), _poly_key(b)), Fraction(1)
        return _poly_mul(a, {(inverse,): Fraction(1)})
    return {(((op, _poly_key(a), _poly_key(b)), Fraction(1)),): Fraction(1)}


def _quotient(a: Poly, b: Poly) -> Poly | None:
    """a / b where a is b times one monomial: `n * (x + y) / (x + y)` is n."""
    if not a or not b or len(a) != len(b):
        return None
    ((first, divisor),) = list(b.items())[:1]
    inverse = {tuple((atom, -e) for atom, e in first): 1 / divisor}
    for monomial, coefficient in a.items():
        ratio = _poly_mul({monomial: coefficient}, inverse)
        if _poly_mul(ratio, b) == a:
            return ratio
    return None


def _divides_by_assumption(a: Poly, b: Poly) -> bool:
    """Sizes divide; an index (layer, position) that is floored does not."""
    if len(b) != 1:
        return _quotient(a, b) is not None
    if set(a) <= {()} and set(b) == {()}:
        return a.get((), Fraction(0)) % b[()] == 0
    return not any(
        isinstance(atom, tuple) and atom[:1] in (("layer",), ("runtime",))
        for m in a
        for atom, _ in m
    )


def _exact_quotient(a: Poly, b: Poly) -> Poly | None:
    """q of one term with q * b = a, as in (heads + 2) * dim over heads + 2."""
    if not b:
        return None
    divisor, factor = next(iter(b.items()))
    inverse = tuple((atom, -e) for atom, e in divisor)
    for monomial, coefficient in a.items():
        q = _poly_mul({monomial: coefficient}, {inverse: 1 / factor})
        if _poly_mul(q, b) == a:
            return q
    return None


def _is_whole(p: Poly) -> bool:
    """A product of whole numbers, whatever its factors are."""
    return all(
        c.denominator == 1 and all(e > 0 and e.denominator == 1 for _, e in m)
        for m, c in p.items()
    )


def _poly_mul(a: Poly, b: Poly) -> Poly:
    out: Poly = {}
    for ma, ca in a.items():
        for mb, cb in b.items():
            powers: dict = dict(ma)
            for atom, exponent in mb:
                powers[atom] = powers.get(atom, Fraction(0)) + exponent
            m = tuple(sorted(((k, e) for k, e in powers.items() if e), key=repr))
            out[m] = out.get(m, Fraction(0)) + ca * cb
    return {m: c for m, c in out.items() if c}


def _poly_pow(a: Poly, exponent: Fraction):
    ((m, c),) = a.items()
    if exponent.denominator != 1 and c != 1:
        root = float(c) ** float(exponent)
        if c < 0 or Fraction(root) ** (1 / exponent) != c:
            return None
        coefficient: float | Fraction = Fraction(root)
    else:
        coefficient = c**exponent if c != 1 else c
    return {tuple((atom, e * exponent) for atom, e in m): Fraction(coefficient)}


def _poly_key(p: Poly):
    if not p:
        return ("c", Fraction(0))
    if len(p) == 1:
        ((m, c),) = p.items()
        if m == ():
            return ("c", c)
        if c == 1 and len(m) == 1 and m[0][1] == 1:
            return m[0][0]
    return ("p", frozenset(p.items()))


def constant(x):
    """The number that x always is, or None."""
    if isinstance(x, bool):
        return int(x)
    if isinstance(x, (int, float)):
        return x
    if isinstance(x, Sym):
        k = x.key
        if k[0] == "c":
            value = k[1]
            return int(value) if value.denominator == 1 else float(value)
    return None


def arith(op: str, a, b=None):
    """a op b, folded where both are numbers."""
    ca, cb = constant(a), constant(b)
    if op == "neg":
        return -ca if ca is not None and not is_symbolic(a) else Sym("neg", (a,))
    if ca is not None and cb is not None and not (is_symbolic(a) or is_symbolic(b)):
        return _FOLD[op](unwrap(a), unwrap(b))
    if op == "mul" and cb == 1 and isinstance(unwrap(b), int):
        return a
    if op == "mul" and ca == 1 and isinstance(unwrap(a), int):
        return b
    if op in ("add", "sub") and cb == 0:
        return a
    if op == "add" and ca == 0:
        return b
    return Sym(op, (a, b))


_FOLD = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "truediv": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "pow": lambda a, b: a**b,
}


def product(sizes) -> Any:
    out: Any = 1
    for size in sizes:
        out = arith("mul", out, size)
    return out


def negate(cond):
    if isinstance(cond, bool):
        return not cond
    cond = unwrap(cond)
    if isinstance(cond, Sym) and cond.op == "not":
        return cond.args[0]
    return Sym("not", (cond,))


def compare(op: str, a, b):
    """A bool where it is decided by the values, else a condition."""
    if op in ("eq", "ne"):
        outcome = _decide_equal(a, b)
        result = Sym("eq", (a, b)) if outcome is None else outcome
        return negate(result) if op == "ne" else result
    ca, cb = constant(a), constant(b)
    if is_symbolic(a) and not is_symbolic(b) and b == float("inf"):
        return op in ("lt", "le")
    if ca is not None and cb is not None:
        return {"lt": ca < cb, "le": ca <= cb, "gt": ca > cb, "ge": ca >= cb}[op]
    if _numeric(a) and _numeric(b) and (is_symbolic(a) or is_symbolic(b)):
        difference = poly(Sym("sub", (a, b)))
        if set(difference) <= {()}:
            d = difference.get((), Fraction(0))
            return {"lt": d < 0, "le": d <= 0, "gt": d > 0, "ge": d >= 0}[op]
    if op == "lt":
        return Sym("lt", (a, b))
    if op == "gt":
        return Sym("lt", (b, a))
    return negate(Sym("lt", (b, a) if op == "le" else (a, b)))


def _decide_equal(a, b):
    if key(a) == key(b):
        return True
    ka, kb = key(a), key(b)
    if ka[0] in ("lit", "c") and kb[0] in ("lit", "c"):
        return False
    if is_symbolic(a) or is_symbolic(b):
        difference = poly(Sym("sub", (a, b))) if _numeric(a) and _numeric(b) else None
        if difference is not None and set(difference) == {()}:
            return False
        return None
    return False


def _numeric(x) -> bool:
    x = unwrap(x)
    return isinstance(x, (int, float)) or (isinstance(x, Sym) and x.op not in BOOLEAN)


def is_positive(x) -> bool:
    """A number of tokens, or a sum of products of sizes: never 0. An index, a difference
    and a remainder may be, and so may the number of tokens before; it adds nothing less."""
    p = poly(x)
    return (
        all(c > 0 for c in p.values())
        and any(map(_is_size, p))
        and all(_is_size(m) or m == ((PAST.key, Fraction(1)),) for m in p)
    )


def are_tokens(x) -> bool:
    """A multiple of the number of new tokens, which is never 0."""
    now = {BATCH.key, SEQ.key}
    return is_positive(x) and all(now & {atom for atom, _ in m} for m in poly(x))


def _is_size(monomial: tuple) -> bool:
    return not any(
        isinstance(atom, tuple)
        and (atom[0] in ("layer", "mod", "floordiv", "sub", "neg") or atom == PAST.key)
        for atom, _ in monomial
    )


def contains(x, op: str) -> bool:
    """Whether a part of x is a Sym of that op."""
    x = unwrap(x)
    if isinstance(x, Sym):
        return x.op == op or any(contains(a, op) for a in x.args)
    if isinstance(x, (tuple, list)):
        return any(contains(a, op) for a in x)
    return False


_INFIX = {
    "add": ("+", 4),
    "sub": ("-", 4),
    "mul": ("*", 5),
    "truediv": ("/", 5),
    "floordiv": ("//", 5),
    "mod": ("%", 5),
    "pow": ("**", 7),
}


def fields_of(x) -> set[str]:
    """The names of the config's own fields in a value."""
    x = unwrap(x)
    if isinstance(x, (tuple, list)):
        return {name for a in x for name in fields_of(a)}
    if not isinstance(x, Sym):
        return set()
    if x.op in ("field", "or_default", "hasattr") and len(x.args[0]) == 1:
        return {x.args[1]} | fields_of(x.args[2:])
    return {name for a in x.args for name in fields_of(a)}


def describe(x) -> str:
    """Python text of x, config fields as `config.f`; for messages and `__init__`."""
    return text(x, lambda sym: None)


def text(x, name, level: int = 0) -> str:
    """Python text of x. name(sym) gives the text of a part that has one, else None."""
    if not isinstance(x, Sym):
        if isinstance(x, (tuple, list)):
            inner = ", ".join(text(i, name) for i in x)
            return f"[{inner}]" if isinstance(x, list) else f"({inner},)"
        if isinstance(x, float) and x in (float("inf"), float("-inf")):
            return f'float("{x}")'
        return repr(x)
    known = name(x)
    if known is not None:
        return known
    if x.op in WRAPPERS:
        return text(x.actual, name, level)
    body, own = _render(x, name)
    return f"({body})" if own < level else body


def _render(x: Sym, name) -> tuple[str, int]:
    op, args = x.op, x.args
    if op in _INFIX:
        sign, own = _INFIX[op]
        left = text(args[0], name, own + (op == "pow"))
        right = text(args[1], name, own + (op != "pow"))
        return f"{left} {sign} {right}", own
    if op == "neg":
        return f"-{text(args[0], name, 6)}", 6
    if op == "field":
        return ".".join((*args[0], args[1])), 9
    if op == "or_default":
        path = ".".join(args[0])
        return f'getattr({path}, "{args[1]}", {text(args[2], name)})', 9
    if op == "hasattr":
        return f'hasattr({".".join(args[0])}, "{args[1]}")', 9
    if op == "item":
        return f"{text(args[0], name, 9)}[{text(args[1], name)}]", 9
    if op == "of":
        return f"{text(args[0], name, 9)}.{args[1]}", 9
    if op == "slice":
        low, high, step = ("" if a is None else text(a, name) for a in args[1:])
        bounds = f"{low}:{high}:{step}" if step else f"{low}:{high}"
        return f"{text(args[0], name, 9)}[{bounds}]", 9
    if op == "method":
        inner = ", ".join(text(a, name) for a in args[2:])
        return f"{text(args[0], name, 9)}.{args[1]}({inner})", 9
    if op == "get":
        inner = ", ".join(text(a, name) for a in args[1:])
        return f"{text(args[0], name, 9)}.get({inner})", 9
    if op == "updated":
        items = "".join(f', "{k}": {text(v, name)}' for k, v in args[1])
        return f"{{**{text(args[0], name)}{items}}}", 9
    if op == "format":
        inner = "".join(
            p if isinstance(p, str) else f"{{{text(p, name)}}}" for p in args
        )
        return f'f"{inner}"', 9
    if op == "call":
        inner = ", ".join(text(a, name) for a in args[1:])
        return f"{args[0]}({inner})", 9
    if op == "layer":
        return "layer_idx", 9
    if op == "latent_cache":
        return "get_current_vllm_config().model_config.use_mla", 9
    if op == "runtime":
        return f"<{args[0]}>", 9
    if op == "eq":
        return f"{text(args[0], name, 4)} == {text(args[1], name, 4)}", 3
    if op == "lt":
        return f"{text(args[0], name, 4)} < {text(args[1], name, 4)}", 3
    if op == "in":
        return f"{text(args[0], name, 4)} in {text(args[1], name, 4)}", 3
    if op == "is_none":
        return f"{text(args[0], name, 4)} is None", 3
    if op == "isinstance":
        return f"isinstance({text(args[0], name)}, {args[1]})", 9
    if op == "truthy":
        return text(args[0], name, 3), 3
    if op == "not":
        return _render_not(args[0], name)
    if op in ("and", "or"):
        own = 2 if op == "and" else 1
        return f" {op} ".join(text(a, name, own + 1) for a in args), own
    if op == "ifexp":
        cond, a, b = args
        parts = text(a, name, 1), text(cond, name, 1), text(b, name, 0)
        return "{} if {} else {}".format(*parts), 0
    return f"<{op} {' '.join(text(a, name) for a in args)}>", 9


def _render_not(inner, name) -> tuple[str, int]:
    inner = unwrap(inner)
    if isinstance(inner, Sym) and inner.op in ("eq", "is_none", "lt", "in"):
        a = text(inner.args[0], name, 4)
        if inner.op == "is_none":
            return f"{a} is not None", 3
        sign = {"eq": "!=", "lt": ">=", "in": "not in"}[inner.op]
        return f"{a} {sign} {text(inner.args[1], name, 4)}", 3
    return f"not {text(inner, name, 3)}", 3


def simplify(x):
    """An equal expression of fewer parts: sizes multiplied out and cancelled."""
    inner = unwrap(x)
    if not isinstance(inner, Sym) or inner.op not in ARITHMETIC:
        return x
    if contains(inner, "truediv") or contains(inner, "pow") or _has_fraction(inner):
        return x  # not a size
    atoms: dict = {}
    collect_atoms(inner, atoms)
    terms = [_term(m, c, atoms) for m, c in poly(inner).items()]
    if not terms or any(t is None for t in terms):
        return x
    out = terms[0]
    for each in terms[1:]:
        out = arith("add", out, each)
    return out if _parts(out) < _parts(x) else x


def _has_fraction(x) -> bool:
    """Whether a number in arithmetic isn't whole: what divides it is no floor division."""
    x = unwrap(x)
    if isinstance(x, Sym):
        return x.op in ARITHMETIC and any(map(_has_fraction, x.args))
    return isinstance(x, float) and not x.is_integer()


def _term(monomial: tuple, coefficient: Fraction, atoms: dict):
    """A positive summand of a size; None where it can't be written."""
    if coefficient <= 0:
        return None
    if any(atom not in atoms or e.denominator != 1 for atom, e in monomial):
        return None
    above: list = [atoms[a] for a, e in monomial if e > 0 for _ in range(int(e))]
    below: list = [atoms[a] for a, e in monomial if e < 0 for _ in range(int(-e))]
    if coefficient.denominator != 1:
        below.append(coefficient.denominator)
    if coefficient.numerator != 1 or not above:
        above.insert(0, coefficient.numerator)
    out = product(above)
    if below:
        out = Sym("floordiv", (out, product(below)))
    return out


def from_poly(p: Poly, atoms: dict) -> Any:
    """The expression that p is the polynomial of; exponents are positive integers."""
    total: Any = 0
    for monomial, coefficient in sorted(p.items(), key=repr):
        whole = coefficient.denominator == 1
        term: Any = int(coefficient) if whole else float(coefficient)
        for atom, exponent in monomial:
            for _ in range(int(exponent)):
                term = arith("mul", atoms[atom], term) if term != 1 else atoms[atom]
        total = arith("add", total, term)
    return total


def _parts(x) -> int:
    x = unwrap(x)
    return 1 + sum(_parts(a) for a in x.args) if isinstance(x, Sym) else 1


def collect_atoms(x, atoms: dict) -> None:
    """Put the parts that polynomials take as a whole into atoms: key -> Sym."""
    x = unwrap(x)
    if isinstance(x, Sym) and x.op in ARITHMETIC:
        for arg in x.args:
            collect_atoms(arg, atoms)
    elif isinstance(x, Sym):
        atoms.setdefault(key(x), x)
