"""Calling one of two modules or functions, of which the config chooses one.

Both are followed and what they give is joined. Where one can't be followed, the other is
kept if the config class's own defaults choose it, and the port stops at load for the
configs that choose the first: see settling.
"""

from porter.analyze.settling import settled
from porter.analyze.values import Choice
from porter.gap import Refused


def call_choice(interp, fn: Choice, args: list, kwargs: dict):
    written = len(interp.written)
    try:
        with interp.assuming(fn.cond, True):
            then = interp.call(fn.then, args, kwargs)
        with interp.assuming(fn.cond, False):
            other = interp.call(fn.other, args, kwargs)
        return interp.join(fn.cond, then, other)
    except Refused as refusal:
        while len(interp.written) > written:
            module, name, before = interp.written.pop()
            module.attrs[name] = before
        with settled(interp, fn.cond, refusal) as kept:
            return interp.call(fn.then if kept else fn.other, args, kwargs)
