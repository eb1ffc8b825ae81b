"""sum over a token's experts of weight * expert(x)  ->  FusedMoEFactory(...)(x, routing)

The loop over experts is one operation of the engine's, which groups the tokens by expert
and shards every expert, or spreads the experts, over the ranks. An expert is recognised
by what it computes (down(act(gate(x)) * up(x))), in merged parameters, transposed or not,
or in a module list. The router stays the source's own arithmetic: the weights and numbers
that it chooses are what the layer's `custom_routing_function` hands on.

Before: for e in hit: out.index_add_(0, token, expert_e(x[token]) * weights[token, slot])
After:  self.experts(x, pack_routing(weights, ids))
Refuses: experts of another form, experts left out, weights that aren't the chosen ones'.
"""

from typing import Any

from porter.analyze.graph import Frame, Node, axis_size
from porter.analyze.symbols import Sym, arith, same, unwrap
from porter.analyze.values import Module
from porter.transforms.base import Layer, Transform
from porter.transforms.expert_forms import (
    ExpertForm,
    NoForm,
    halves,
    match_expert,
    width,
)
from porter.transforms.expert_weights import ExpertWeights, plan_experts
from porter.transforms.matching import is_op, strip_casts


class SubstituteExperts(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        for node in [n for n in self.nodes() if n.op == "experts"]:
            self._replace(node)
        for node in self.nodes():
            if node.op in ("expert_part", "dispatch", "pair_value"):
                raise self.gap(node.span, "experts that aren't recognised")

    def _replace(self, node: Node) -> None:
        ids, body = node.args
        try:
            form = match_expert(body)
        except NoForm as found:
            span = found.node.span if isinstance(found.node, Node) else node.span
            raise self.gap(
                span,
                found.why,
                "vLLM's fused experts are weight * down(act(gate(x)) * up(x))",
            ) from found
        layout = halves(form.gate, form.up)
        if layout is None and form.gate.rows is form.up.rows is None:
            layout = "separate"
        if layout is None:
            raise self.gap(node.span, "an expert's gate and up overlap")
        count = self._count(form, node, ids)
        self._check_numbers(node, ids, count, form.below is not None)
        weights = strip_casts(form.weights)
        if len(ids.axes) != 2 or len(weights.axes) != 2 or not same(
            axis_size(ids.axes[1]), axis_size(weights.axes[1])
        ):  # fmt: skip
            raise self.gap(
                node.span, "routing weights of another shape than [tokens, k]"
            )
        owner, name, frame = self._place(node, form)
        plan = plan_experts(self, node, form, layout, owner, name)
        module = Module(None, "experts", node.span, owner=owner, name="experts")
        module.args = {"bias": False}
        module.attrs["experts"] = plan
        module.replaced = Layer(
            "FusedMoEFactory", self._arguments(form, ids, count, plan), prefix=True
        )
        self._rehouse(owner, name, module, frame, node)
        new = self._summed(form, ids, count, node, module, frame)
        self.change(
            node, new, "the sum over a token's experts is one layer of the engine's"
        )

    def _summed(self, form: ExpertForm, ids: Node, count, node, module, frame) -> Node:
        """The layer's sum; what experts without matrices hand on is added to it."""
        weights = form.weights
        if form.below is None:
            return self.make(
                "fused_moe", (form.x, weights, ids), node, module=module, frame=frame
            )

        def make(op: str, args: tuple, like: Node, **attrs) -> Node:
            return self.make(op, args, like, frame=frame, **attrs)

        real = make("lt", (ids, count), ids, dtype="bool")
        last = arith("sub", count, 1)
        chosen = make("clamp", (ids, None, last), ids)
        theirs = make("where", (real, weights, 0.0), weights)
        made = make("fused_moe", (form.x, theirs, chosen), node, module=module)
        others = make("where", (real, 0.0, weights), weights)
        share = make(
            "reduce", (others,), others, axes=(weights.axes[0], ()), fn="sum", dim=1,
            keepdim=True,
        )  # fmt: skip
        handed = make("mul", (form.x, share), node, dtype="float32")
        return make("add", (made, make("cast", (handed,), node)), node)

    def _arguments(
        self, form: ExpertForm, ids: Node, count, plan: ExpertWeights
    ) -> dict[str, Any]:
        args: dict[str, Any] = {
            "num_experts": count,
            "top_k": axis_size(ids.axes[1]),
            "hidden_size": axis_size(form.x.axes[-1]),
            "intermediate_size": width(form),
        }
        if form.activation != "silu":
            args["activation"] = form.activation
        args |= form.options
        if plan.transposed and not plan.split:
            args["is_fused_checkpoint_transposed"] = True
        if form.down.bias is not None:
            args["has_bias"] = True
        return args

    # -- what must hold

    def _count(self, form: ExpertForm, node: Node, ids: Node):
        counts = []
        for matrix in (form.gate, form.up, form.down):
            if matrix.param is not None:
                counts.append(axis_size(matrix.param.axes[0]))
            else:
                holder = _list_of(matrix.module)
                if holder is None:
                    raise self.gap(node.span, "an expert's matrix is no expert's own")
                counts.append(holder.count)
            if matrix.bias is not None:
                counts.append(axis_size(matrix.bias.axes[0]))
        held = counts[0]
        if form.below is not None:  # the matrices of the others are never read
            held, every = form.below, chosen_from(ids)
            counts = [held if same(c, every) else c for c in counts]
        if any(not same(c, held) for c in counts):
            raise self.gap(node.span, "an expert's matrices are of different counts")
        biased = {m.biased for m in (form.gate, form.up, form.down)}
        if len(biased) != 1 or biased - {True, False}:
            raise self.gap(node.span, "some of an expert's matrices have a bias")
        return held

    def _check_numbers(self, node: Node, ids: Node, count, others: bool) -> None:
        classes, skipped = node.attrs["classes"], node.attrs["skipped"]
        if node.attrs["count"] is not None and not same(node.attrs["count"], count):
            raise self.gap(node.span, "a loop over some of the experts")
        bound = chosen_from(ids)
        if others and bound is not None:  # all have numbers, the first have matrices
            count = bound
        if bound is None or not _fits(bound, count):
            raise self.gap(
                node.span, "the experts' numbers aren't chosen among all experts"
            )
        if not same(classes, count) and not same(classes, arith("add", count, 1)):
            raise self.gap(node.span, "experts are counted to another number")
        if skipped is not None and not same(skipped, count):
            raise self.gap(node.span, "an expert is left out")

    # -- where the layer stands

    def _place(self, node: Node, form: ExpertForm) -> tuple[Module, str, Frame]:
        """(owner, name there, frame): in place of the module that holds the loop, where
        it holds nothing else, or beside what else it holds."""
        frame = node.frame
        if frame is None or frame.inst.cls is None:
            raise self.gap(node.span, "a loop over experts outside a module")
        inst = frame.inst
        own = [
            n for n in self._own_nodes(frame, node)
            if n.op in ("linear", "norm", "parameter", "buffer", "leaf_parameter", "act")
        ]  # fmt: skip
        parent = frame.parent
        below = [f for f in self._frames() if f.parent is frame and not _in_expert(f)]
        if own or below or parent is None or parent.inst is not inst.owner:
            held = _list_of(form.gate.module)
            return inst, held.name if held is not None else "", frame
        return parent.inst, inst.name, parent

    def _own_nodes(self, frame: Frame, node: Node) -> list[Node]:
        """What the module computes beside its experts."""
        body = {n.id for n in _body(node)}
        return [n for n in self.nodes() if n.frame is frame and n.id not in body]

    def _frames(self) -> list[Frame]:
        found: list[Frame] = []
        for n in self.nodes():
            if n.frame is not None and n.frame not in found:
                found.append(n.frame)
        return found

    def _rehouse(self, owner: Module, name: str, module: Module, frame, node) -> None:
        if node.frame is not frame:
            for each in self._own_nodes(node.frame, node):
                each.frame = frame
        if name:
            owner.attrs.pop(name, None)
        if "experts" in owner.attrs:
            raise self.gap(node.span, "a module beside the experts is called `experts`")
        owner.attrs["experts"] = module


def chosen_from(ids: Node):
    """Among how many a topk has chosen; None where the numbers come from elsewhere."""
    while is_op(ids, "cast", "rearrange"):
        ids = ids.args[0]
    if is_op(ids, "picked") and ids.args[1] == 1:
        found = ids.args[0]
        return axis_size(found.args[0].axes[found.attrs["dim"]])
    if is_op(ids, "mod") and not isinstance(ids.args[1], Node):
        return ids.args[1]
    if is_op(ids, "cat"):
        bounds = [chosen_from(part) for part in ids.args[0]]
        return bounds[0] if all(same(b, bounds[0]) for b in bounds) else None
    if is_op(ids, "phi"):
        bounds = [chosen_from(side) for side in ids.args[1:]]
        return bounds[0] if same(bounds[0], bounds[1]) else None
    return None


def _fits(size, count) -> bool:
    """Whether a size is the count, at least where the count is the number it must be:
    `n if isinstance(n, int) else n[layer]` is n where tensors of n experts are made."""
    inner = unwrap(size)
    if isinstance(inner, Sym) and inner.op == "ifexp":
        test = unwrap(inner.args[0])
        if isinstance(test, Sym) and test.op == "isinstance" and test.args[1] == "int":
            return same(test.args[0], count) and same(inner.args[1], count)
    return same(size, count)


def _list_of(module: Module | None) -> Module | None:
    """The ModuleList that an expert's Linear is below."""
    while module is not None:
        if module.owner is not None and module.owner.element is module:
            return module.owner
        module = module.owner
    return None


def _in_expert(frame: Frame) -> bool:
    return _list_of(frame.inst) is not None and frame.inst.name == "*"


def _body(node: Node) -> list[Node]:
    """What is computed for each pair of a token and an expert."""
    kept, stack = [], [node.args[1]]
    seen: set[int] = set()
    while stack:
        each = stack.pop()
        if each.id in seen:
            continue
        seen.add(each.id)
        kept.append(each)
        if each.op not in ("dispatch", "pair_value"):
            stack.extend(each.inputs())
    return kept
