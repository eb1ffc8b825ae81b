"""Branches that the port can't have: it takes the other side, and checks its config.

Where one side of a branch on the config can't be followed, a port is still faithful for
the configs that take the other, as long as it stops at load for those that don't. That is
done only where the config class's own defaults take the side that is followed. Likewise a
branch that is taken only beyond a number of tokens: the port bounds max_model_len.
"""

from contextlib import contextmanager

from porter.analyze.folding import Folding
from porter.analyze.symbols import (
    PAST,
    SEQ,
    Sym,
    collect_atoms,
    from_poly,
    key,
    negate,
    poly,
    unwrap,
)
from porter.gap import Refused

_CONFIG_ONLY = {
    "field", "or_default", "hasattr", "item", "get", "call", "ifexp", "add", "sub",
    "mul", "truediv", "floordiv", "pow", "neg", "mod", "eq", "lt", "is_none", "not",
    "and", "or", "truthy", "in",
}  # fmt: skip


@contextmanager
def settled(interp, cond, refusal: Refused):
    """The side of a branch that is kept, where its other side was refused.

    Raises the refusal again where the defaults don't tell; where they take the side that
    was refused, following it refuses once more.
    """
    saved = dict(interp.settled), list(interp.refused), list(interp.most_tokens)
    try:
        yield _settle(interp, cond, refusal)
    except Refused:
        interp.settled, interp.refused, interp.most_tokens = saved
        raise


def _settle(interp, cond, refusal: Refused) -> bool:
    if not _on_config(cond):
        raise refusal
    verdict = Folding.of_defaults(interp.config.fields).decide(cond)
    if verdict is None:
        raise refusal
    if not interp.refuse_where(negate(cond) if verdict else cond):
        raise refusal
    interp.settled[key(unwrap(cond))] = verdict
    return verdict


def gives_up(interp, cond) -> bool:
    """Whether the port stops for the configs of which cond holds, as it may where the
    defaults aren't such."""
    if not _on_config(cond):
        return False
    defaults = Folding.of_defaults(interp.config.fields)
    return defaults.decide(cond) is False and interp.refuse_where(cond)


def _on_config(x) -> bool:
    """Whether the value is made of the config's fields and constants alone."""
    x = unwrap(x)
    if isinstance(x, (tuple, list)):
        return all(_on_config(i) for i in x)
    if not isinstance(x, Sym):
        return True
    if x.op not in _CONFIG_ONLY:
        return False
    if x.op in ("field", "hasattr"):
        return True
    return all(_on_config(a) for a in (x.args[2:] if x.op == "or_default" else x.args))


def beyond_length(interp, cond) -> bool | None:
    """False for `tokens so far + c > size`, noting size - c as the most there may be,
    with the conditions under which the source asks."""
    cond = unwrap(cond)
    if not (isinstance(cond, Sym) and cond.op == "lt"):
        return None
    difference = Sym("sub", (cond.args[0], cond.args[1]))
    terms = poly(Sym("add", (difference, Sym("add", (PAST, SEQ)))))
    atoms: dict = {}
    collect_atoms(difference, atoms)
    if not _counts_tokens(poly(difference)) or not all(
        atom in atoms and _on_config(atoms[atom]) and e == int(e) > 0
        for monomial in terms
        for atom, e in monomial
    ):
        return None
    room = from_poly(terms, atoms)  # size - c, if tokens are on the right
    interp.most_tokens.append((room, interp.conditions))
    return False


def _counts_tokens(terms) -> bool:
    return any(
        atom[:1] == ("runtime",) and c == -1 for m, c in terms.items() for atom, _ in m
    )
