"""What a layer's cache gives back: its keys or values, of all tokens so far."""

from porter.analyze.graph import Node, hist_axis


def remembered(interp, states) -> Node:
    """Keys or values with those of the tokens before: seq becomes history."""
    if not isinstance(states, Node):
        raise interp.gap("the cache is given something that isn't a tensor")
    axes = tuple(
        tuple(hist_axis()[0] if f.role == "seq" else f for f in axis)
        for axis in states.axes
    )
    if axes == states.axes or not any(f.role == "hist" for a in axes for f in a):
        raise interp.gap("what is cached has no token axis")
    return interp.node("remember", (states,), axes, dtype=states.dtype)
