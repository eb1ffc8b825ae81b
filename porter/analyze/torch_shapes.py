"""Views: reshape, transpose, expand and their like."""

from porter.analyze import axes as ax
from porter.analyze.graph import (
    Node,
    axis_size,
    has_role,
    sized_axis,
)
from porter.analyze.settling import gives_up
from porter.analyze.symbols import compare, constant, same
from porter.analyze.token_axes import _mixes, forbid_tokens
from porter.analyze.values import (
    Dtype,
    DtypeOf,
    is_scalar,
)


def view(interp, x: Node, *sizes, **kwargs):
    if kwargs:
        sizes = tuple(kwargs.values())
    if len(sizes) == 1 and isinstance(sizes[0], (Dtype, DtypeOf)):
        raise interp.gap("`view` as another dtype isn't followed")
    shape = _flat_sizes(interp, sizes)
    whole = [(f, f.pieces) for axis in x.axes for g in axis for f in g.leaves()]
    try:
        axes = ax.reshape(x.axes, shape)
    except ax.AxisError:
        axes = None
    if axes is None or any(_folds(axis) for axis in axes):
        for factor, pieces in whole:
            factor.pieces = pieces
        # only sizes that the config ties by convention can make this a view of tokens
        return rearranged(
            interp, x, lambda: ax.reshape(x.axes, shape, interp.must_equal)
        )
    return rearranged(interp, x, lambda: axes)


def view_as(interp, x: Node, other: Node):
    """x.view_as(other), x.reshape_as(other): the elements of x in the other's shape."""
    return view(interp, x, *(axis_size(axis) for axis in other.axes))


def _folds(axis) -> bool:
    return has_role(axis, "seq") and any(not f.role for f in axis)


def _flat_sizes(interp, sizes) -> list:
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    out = [interp.resolve(s) for s in sizes]
    for size in out:
        if not is_scalar(size):
            raise interp.gap("a view to sizes that can't be followed")
    return out


def rearranged(interp, x: Node, make, repeat: bool = False) -> Node:
    """A view of x: same elements, other axes. A view of a view is one view."""
    try:
        axes = tuple(make())
    except ax.AxisError as error:
        raise interp.gap(
            f"{error}", "the sizes of this view can't be proved"
        ) from error
    for axis in axes:
        if has_role(axis, "seq") and any(not f.role for f in axis):
            raise _mixes(interp, "a view that folds features into the tokens")
    base = x
    if x.op == "rearrange" and x.frame is interp.frame and x.loop is interp.loop:
        base = x.args[0]
    if [ax.leaf_ids(a) for a in axes] == [ax.leaf_ids(a) for a in base.axes]:
        return base
    return interp.node(
        "rearrange",
        (base,),
        axes,
        dtype=x.dtype,
        layout=tuple(tuple(id(f) for f in a) for a in axes),
    )


def transpose(interp, x, dim0, dim1):
    def make():
        rank = len(x.axes)
        i, j = ax.normalize(constant(dim0), rank), ax.normalize(constant(dim1), rank)
        out = list(x.axes)
        out[i], out[j] = out[j], out[i]
        return out

    return rearranged(interp, x, make)


def t(interp, x):
    return transpose(interp, x, 0, 1)


def permute(interp, x, *dims):
    dims = tuple(_flat_sizes(interp, dims))
    if len(dims) != len(x.axes):
        raise interp.gap("`permute` with another number of axes")
    return rearranged(
        interp, x, lambda: [x.axes[ax.normalize(d, len(dims))] for d in dims]
    )


def unsqueeze(interp, x, dim):
    at = constant(dim)
    if at is None:
        raise interp.gap("`unsqueeze` at a symbolic dimension")
    at = at % (len(x.axes) + 1)
    return rearranged(interp, x, lambda: [*x.axes[:at], (), *x.axes[at:]])


def squeeze(interp, x, dim=None):
    if dim is None:
        return rearranged(interp, x, lambda: [a for a in x.axes if a])
    at = ax.normalize(constant(dim), len(x.axes))
    if x.axes[at]:
        size = axis_size(x.axes[at])
        if constant(size) is None and not gives_up(interp, compare("eq", size, 1)):
            raise interp.gap("`squeeze` of an axis whose size isn't known to be 1")
        return x
    return rearranged(interp, x, lambda: [*x.axes[:at], *x.axes[at + 1 :]])


def flatten(interp, x, start_dim=0, end_dim=-1):
    i, j = ax.normalize(start_dim, len(x.axes)), ax.normalize(end_dim, len(x.axes))
    merged = tuple(f for a in x.axes[i : j + 1] for f in a)
    return rearranged(interp, x, lambda: [*x.axes[:i], merged, *x.axes[j + 1 :]])


def unflatten(interp, x, dim, sizes):
    at = ax.normalize(dim, len(x.axes))

    def make():
        return [
            *x.axes[:at],
            *ax.reshape((x.axes[at],), list(sizes)),
            *x.axes[at + 1 :],
        ]

    return rearranged(interp, x, make)


def expand(interp, x, *sizes):
    sizes = tuple(_flat_sizes(interp, sizes))
    lead = len(sizes) - len(x.axes)
    old = [()] * lead + list(x.axes)
    out = []
    for axis, size in zip(old, sizes, strict=True):
        if constant(size) == -1 or same(size, axis_size(axis)):
            out.append(axis)
        elif axis:
            raise interp.gap(f"`expand` of an axis of size {axis_size(axis)} to {size}")
        else:
            out.append(sized_axis(size, repeats=True))
    return rearranged(interp, x, lambda: out, repeat=True)


def expand_as(interp, x, other):
    return expand(interp, x, *[axis_size(a) for a in other.axes])


def repeat_interleave(interp, x, repeats, dim=None, output_size=None):
    from porter.analyze.graph import Factor

    if dim is None or isinstance(repeats, Node):
        raise interp.gap("this `repeat_interleave` isn't followed")
    at = ax.normalize(constant(dim), len(x.axes))
    forbid_tokens(interp, x.axes[at], "`repeat_interleave`")
    copies = (*x.axes[at], Factor(repeats, "", repeats=True))
    return rearranged(interp, x, lambda: [*x.axes[:at], copies, *x.axes[at + 1 :]])


def repeat(interp, x, *sizes):
    sizes = tuple(_flat_sizes(interp, sizes))
    axes = [()] * (len(sizes) - len(x.axes)) + list(x.axes)
    out = []
    for axis, size in zip(axes, sizes, strict=True):
        if constant(size) == 1:
            out.append(axis)
        elif not axis:
            out.append(sized_axis(size, repeats=True))
        else:
            forbid_tokens(interp, axis, "`repeat`")
            out.append((*sized_axis(size, repeats=True), *axis))
    return rearranged(interp, x, lambda: out)


def tril(interp, x: Node, diagonal=0) -> Node:
    return _triangle(interp, x, diagonal, upper=False)


def triu(interp, x: Node, diagonal=0) -> Node:
    return _triangle(interp, x, diagonal, upper=True)


def _triangle(interp, x: Node, diagonal, upper: bool) -> Node:
    if len(x.axes) < 2:
        raise interp.gap("a triangle of something that is no matrix")
    return interp.node(
        "tri", (x,), x.axes, dtype=x.dtype, diagonal=diagonal, upper=upper
    )


def movedim(interp, x, source, destination):
    raise interp.gap("`movedim` isn't followed")
