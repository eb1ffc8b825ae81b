"""Calling one of two modules or functions, of which the config chooses one.

Both are followed and what they give is joined. Where one can't be followed, the other is
kept if the config class's own defaults choose it, and the port stops at load for the
configs that choose the first: see settling.
"""

from porter.analyze.branch_state import State, merge
from porter.analyze.settling import settled
from porter.analyze.values import Choice
from porter.gap import Refused


def call_choice(interp, fn: Choice, args: list, kwargs: dict):
    written, before = len(interp.written), State(interp, None)
    try:
        with interp.assuming(fn.cond, True):
            left = interp.call(fn.then, args, kwargs)
        then = State(interp, None)
        before.restore(interp, None)
        with interp.assuming(fn.cond, False):
            right = interp.call(fn.other, args, kwargs)
        apart = merge(interp, fn.cond, then, State(interp, None), None)
        return interp.join(fn.cond, then.of(left, apart), right)
    except Refused as refusal:
        del interp.written[written:]
        before.restore(interp, None)
        with settled(interp, fn.cond, refusal) as kept:
            return interp.call(fn.then if kept else fn.other, args, kwargs)
