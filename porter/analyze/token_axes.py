"""Only attention looks across tokens: the rule, asked wherever an axis is worked along."""

from porter.analyze.graph import (
    has_role,
)


def forbid_tokens(interp, axis, what: str) -> None:
    if has_role(axis, "batch", "seq", "hist", "pair"):
        raise _mixes(interp, what)


def _mixes(interp, what: str):
    return interp.gap(
        f"{what} runs along the tokens: it mixes tokens outside attention",
        "vLLM batches tokens of several sequences; only attention may look across them",
    )
