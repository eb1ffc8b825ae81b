"""A module that computes weight * x * rsqrt(mean(x**2) + eps)  ->  RMSNorm, GemmaRMSNorm.

vLLM's norm layers are fused kernels. A module is one of them when its forward is that
formula and nothing else, whatever it is called: over the last axis, whose size is the
weight's, the weight plain (RMSNorm), one plus (GemmaRMSNorm), or absent. Where the
cast back to the activations' dtype stands is not compared: in fp32 it is nothing.

Before: self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))
After:  RMSNorm(hidden_size, eps=eps)
Leaves: norms with another formula (they are kept), norms written inside other modules.
"""

from dataclasses import dataclass
from typing import Any

from porter.analyze.graph import Frame, Node
from porter.analyze.symbols import same
from porter.analyze.values import Module, is_scalar
from porter.transforms.base import Layer, Transform
from porter.transforms.matching import (
    either_way,
    is_number,
    is_op,
    last_size,
    squared,
    strip_casts,
)


@dataclass
class RootMeanSquare:
    x: Node
    eps: Any
    weight: Node | None
    plus_one: bool


class SubstituteNorms(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        for frame in self.facts.frames:
            out = frame.returns
            if not isinstance(out, Node) or frame.inst.cls is None:
                continue
            match = match_rms_norm(out.final, frame)
            if match is not None:
                self._replace(frame, out.final, match)

    def _replace(self, frame: Frame, out: Node, match: RootMeanSquare) -> None:
        inst: Module = frame.inst
        kind = "GemmaRMSNorm" if match.plus_one else "RMSNorm"
        args = {"hidden_size": last_size(match.x), "eps": match.eps}
        if match.weight is None:
            args["has_weight"] = False
        inst.replaced = Layer(kind, args)
        inst.replaced.source = match.weight.attrs["slot"][1] if match.weight else ""
        new = self.make(
            "norm", (match.x,), out, module=inst, frame=frame.parent, axes=out.axes
        )
        new.span = frame.span
        new.loop = match.x.loop if frame.parent is None else _loop_of(frame, out)
        self.change(out, new, f"its forward is the formula of {kind}")


def _loop_of(frame: Frame, out: Node):
    return out.loop


def match_rms_norm(out: Node, frame: Frame) -> RootMeanSquare | None:
    """The parts of the formula, where `out` is it on one value from outside the frame."""
    value = strip_casts(out)
    if not (isinstance(value, Node) and value.frame is frame):
        return None
    if is_op(value, "mul"):
        for scale, rest in either_way(value):
            weight = _weight(scale, frame)
            if weight is not None:
                match = _normalized(strip_casts(rest), frame)
                if match is None:
                    return None
                param, plus_one = weight
                if len(param.axes) != 1 or not same(
                    last_size(param), last_size(match.x)
                ):
                    return None
                return RootMeanSquare(match.x, match.eps, param, plus_one)
    return _normalized(value, frame)


def _weight(node, frame: Frame):
    """(parameter, whether 1 is added to it)."""
    node = strip_casts(node)
    if is_op(node, "parameter") and node.attrs.get("slot", (None,))[0] is frame.inst:
        return node, False
    if is_op(node, "add"):
        for one, rest in either_way(node):
            rest = strip_casts(rest)
            if is_number(one, 1) and is_op(rest, "parameter"):
                if rest.attrs.get("slot", (None,))[0] is frame.inst:
                    return rest, True
    return None


def _normalized(node, frame: Frame) -> RootMeanSquare | None:
    """x * rsqrt(mean(x**2) + eps), or x over the root, however it is written."""
    if is_op(node, "mul"):
        for x, factor in either_way(node):
            inside = _inverse_root(strip_casts(factor))
            if inside is not None:
                found = _mean_square(x, inside, frame)
                if found is not None:
                    return found
    if is_op(node, "truediv"):
        inside = _root(strip_casts(node.args[1]))
        if inside is not None:
            return _mean_square(node.args[0], inside, frame)
    return None


def _inverse_root(node):
    """x of rsqrt(x), x ** -0.5, 1 / sqrt(x)."""
    if is_op(node, "rsqrt"):
        return node.args[0]
    if is_op(node, "pow") and is_number(node.args[1], -0.5):
        return node.args[0]
    if is_op(node, "truediv") and is_number(node.args[0], 1):
        return _root(strip_casts(node.args[1]))
    if is_op(node, "reciprocal"):
        return _root(strip_casts(node.args[0]))
    return None


def _root(node):
    """x of sqrt(x), x ** 0.5."""
    if is_op(node, "sqrt"):
        return node.args[0]
    if is_op(node, "pow") and is_number(node.args[1], 0.5):
        return node.args[0]
    return None


def _mean_square(x, inside, frame: Frame) -> RootMeanSquare | None:
    inside = strip_casts(inside)
    if not is_op(inside, "add"):
        return None
    x = strip_casts(x)
    for mean, eps in either_way(inside):
        mean = strip_casts(mean)
        if not is_scalar(eps) or eps is None or not is_op(mean, "reduce"):
            continue
        attrs = mean.attrs
        if attrs["fn"] != "mean" or attrs["dim"] != -1 or not attrs["keepdim"]:
            continue
        inner = squared(strip_casts(mean.args[0]))
        if inner is None or strip_casts(inner) is not x:
            continue
        if isinstance(x, Node) and x.frame is not frame:
            return RootMeanSquare(x, eps, None, False)
    return None
