"""The angles of rope, position * inv_freq, and the default formula of inv_freq."""

from porter.analyze.config_items import read_item
from porter.analyze.symbols import constant, same
from porter.analyze.values import is_scalar
from porter.transforms.matching import is_number, is_op, strip_casts


def under_views(node):
    """(the value under casts and views, "pairs" if a view repeats each element)."""
    doubled = None
    node = strip_casts(node)
    while is_op(node, "rearrange"):
        last = node.axes[-1]
        if last and last[-1].repeats:
            if constant(last[-1].size) != 2:
                return node, None
            doubled = "pairs"
        elif any(f.repeats and not f.role for a in node.axes for f in a):
            return node, None
        node = strip_casts(node.args[0])
    return node, doubled


def angles_of(node, doubled):
    """(the angles, how each serves two elements) of what cos and sin are taken of.

    "halves" where the angles stand twice, one after the other, "pairs" where each is
    repeated, here or (doubled) in the table, None where they stand once. The angles are
    None where they are put together otherwise.
    """
    angles, inside = under_views(node)
    pairing = doubled or inside
    if is_op(angles, "cat") and pairing is None:
        parts = angles.args[0]
        if len(parts) != 2 or parts[0] is not parts[1] or angles.attrs["dim"] != -1:
            return None, None
        angles, again = under_views(parts[0])
        return (angles, "halves") if again is None else (None, None)
    return angles, pairing


def default_dim(node, parameters, base=None):
    """dim of 1 / theta ** (arange(0, dim, 2) / dim), else None. base(theta, parameters,
    dim) is what stands in theta's place."""
    node = strip_casts(node)
    if not is_op(node, "truediv") or not is_number(node.args[0], 1):
        return None
    power = strip_casts(node.args[1])
    if not is_op(power, "pow") or not is_scalar(power.args[0]):
        return None
    theta = read_item(parameters, "rope_theta")
    exponent = strip_casts(power.args[1])
    if not is_op(exponent, "truediv"):
        return None
    steps, dim = exponent.args
    if not same(power.args[0], base(theta, parameters, dim) if base else theta):
        return None
    while is_op(steps, "cast"):
        steps = steps.args[0]
    if not is_op(steps, "arange") or not is_scalar(dim):
        return None
    start, stop, step = steps.args
    return dim if same(start, 0) and same(stop, dim) and same(step, 2) else None
