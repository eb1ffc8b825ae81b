"""The linear layer that makes the logits  ->  ParallelLMHead and LogitsProcessor.

The head is sharded over the vocabulary; the engine asks for logits of the tokens that it
samples from, in `compute_logits`. A soft cap and a scale around it are the processor's
own where they stand in its order (soft cap, then scale).

Before: logits = self.lm_head(hidden); logits = torch.tanh(logits / cap) * cap
After:  logits = self.logits_processor(self.lm_head, hidden_states)
Leaves: other arithmetic on the logits: it is kept behind the processor.
"""

from typing import Any

from porter.analyze.graph import Node
from porter.analyze.symbols import Sym, arith, same, unwrap
from porter.transforms.base import Layer, Transform
from porter.transforms.matching import is_op, scaled, strip_casts


class SubstituteLogits(Transform):
    __doc__ = __doc__

    def run(self) -> None:
        top = self.facts.logits
        head = self._head(top)
        module = head.attrs["module"]
        module.replaced = Layer(
            "ParallelLMHead",
            {"num_embeddings": module.args["out_features"],
             "embedding_dim": module.args["in_features"], "bias": module.args["bias"]},
            parallel=True, prefix=True,
        )  # fmt: skip
        node, attrs = self._processor(head)
        new = self.make("logits", head.args, node, module=module, **attrs)
        self.change(
            node, new, "the linear layer that makes the logits is the vocabulary head"
        )

    def _head(self, top: Node) -> Node:
        """The one linear layer of the root's own frame that the logits come from."""
        frame, found, stack, seen = self.facts.frame, [], [top], set()
        while stack:
            node = stack.pop()
            if node.id in seen or node.frame is not frame:
                continue
            seen.add(node.id)
            if node.op == "linear":
                found.append(node)
            else:
                stack.extend(node.inputs())
        if len(found) != 1:
            raise self.gap(
                top.span,
                "the logits don't come from one linear layer",
                "heads of several layers aren't ported yet",
            )
        return found[0]

    def _processor(self, head: Node) -> tuple[Node, dict[str, Any]]:
        """How far up the chain the LogitsProcessor reaches: soft cap, then scale."""
        attrs: dict[str, Any] = {"soft_cap": None, "scale": 1.0}
        node = head
        capped = self._capped(node)
        if capped is not None:
            node, attrs["soft_cap"] = capped
        while (user := self._only_user(node)) is not None:
            part = scaled(user)
            if part is None or part[0] is not node:
                break
            factor = part[1] if part[2] == "mul" else arith("truediv", 1.0, part[1])
            first = same(attrs["scale"], 1.0)
            attrs["scale"] = factor if first else arith("mul", attrs["scale"], factor)
            node = user
        return node, attrs

    def _only_user(self, node: Node) -> Node | None:
        users = self.users().get(node.id, [])
        return users[0] if len(users) == 1 else None

    def _capped(self, head: Node):
        """(node, cap) of cap * tanh(head / cap), maybe under `cap is not None`."""
        users = self.users().get(head.id, [])
        for user in users:
            part = scaled(user)
            if part is None or part[2] != "truediv":
                continue
            tanh = self._only_user(user)
            if tanh is None or not is_op(tanh, "tanh"):
                continue
            outer = self._only_user(tanh)
            capped = scaled(outer) if outer is not None else None
            if (
                outer is None
                or capped is None
                or capped[2] != "mul"
                or not same(capped[1], part[1])
            ):
                continue
            if len(users) == 1:
                return outer, part[1]
            join = self._only_user(outer)
            if (
                join is not None
                and is_op(join, "phi")
                and len(users) == 2
                and join in users
            ):
                if _cap_given(join, head, outer, part[1]):
                    return join, part[1]
        return None


def _cap_given(join: Node, plain: Node, capped: Node, cap) -> bool:
    cond, a, b = join.args
    holds = True
    cond = unwrap(cond)
    while isinstance(cond, Sym) and cond.op == "not":
        cond, holds = unwrap(cond.args[0]), not holds
    if not (isinstance(cond, Sym) and cond.op == "is_none" and same(cond.args[0], cap)):
        return False
    on_none, on_given = (a, b) if holds else (b, a)
    return strip_casts(on_none) is plain and on_given is capped
