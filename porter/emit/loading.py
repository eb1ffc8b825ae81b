"""How the causal LM loads a checkpoint: its mapper, and `load_weights` of the release."""

from porter.analyze.values import Module
from porter.emit.experts import split_method
from porter.emit.layouts import method
from porter.emit.weights import WeightPlan
from porter.profiles.profile import Profile

_RENAME = '''\
    def _renamed(
        self, weights: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterable[tuple[str, torch.Tensor]]:
        """Names as this model has them; those that it has no place for are left out."""
        rules = {rules}
        for name, weight in weights:
            for pattern, new in rules.items():
                if name is not None and pattern.search(name):
                    name = None if new is None else pattern.sub(new, name)
            if name is not None:
                yield name, weight'''


class WeightsWriter:
    """head: the module path of a head that may be tied to the embedding."""

    def __init__(
        self, profile: Profile, plan: WeightPlan, inst: Module, head: str | None
    ):
        self.profile, self.plan, self.inst, self.head = profile, plan, inst, head

    def mapper(self) -> str:
        """The arguments of the class attribute's WeightsMapper."""
        plan, parts = self.plan, []
        if self.profile.renames:
            if rules := self._rules():
                parts.append(f"orig_to_new_regex={rules}")
            if plan.stacked:
                parts.append(f"orig_to_new_stacked={plan.stacked!r}")
        if plan.prefixes:
            parts.append(f"orig_to_new_prefix={plan.prefixes!r}")
        if plan.suffixes:
            parts.append(f"orig_to_new_suffix={plan.suffixes!r}")
        return ", ".join(parts)

    def methods(self) -> list[str]:
        """load_weights and the generators that it reads through."""
        weights, further = "weights", []
        if self.plan.layouts:
            weights = "self._rearrange(weights)"
            further.append(method(self.plan.layouts))
        if split := split_method(self.plan.experts):
            weights = f"self._split_experts({weights})"
            further.append(split)
        if not self.profile.renames:
            if rules := self._rules():
                weights = f"self._renamed({weights})"
                further.append(_RENAME.format(rules=rules))
            if self.mapper():
                weights = f"self.hf_to_vllm_mapper.apply({weights})"
        tied = self.profile.tied.format(head=self.head) if self.head else ""
        text = self.profile.loader.format(
            weights=weights, tied=tied, stacked=self._stacked(), buffers=self._buffers(),
            unexpected=self._unexpected(),
        )  # fmt: skip
        return [text, *("\n" + each for each in further)]

    def _rules(self) -> str:
        plan = self.plan
        rules = [(old, repr(new)) for old, new in plan.renamed.items()]
        rules += [(pattern, "None") for pattern in [*plan.ignored, *plan.unused]]
        rows = ", ".join(f"re.compile({_raw(old)}): {new}" for old, new in rules)
        return f"{{{rows}}}" if rules else ""

    def _stacked(self) -> str:
        rows = [(new, old, shard) for old, (new, shard) in self.plan.stacked.items()]
        if not rows:
            return "[]"
        lines = ["# (param_name, weight_name, shard_id)", *(f"{r!r}," for r in rows)]
        return "[\n" + "\n".join(" " * 12 + line for line in lines) + "\n        ]"

    def _unexpected(self) -> str:
        ends = self.plan.unexpected
        return f", ignore_unexpected_suffixes={ends!r}" if ends else ""

    def _buffers(self) -> str:
        line = "params_dict.update(self.named_buffers())\n"
        return " " * 8 + line if self.plan.buffers else ""


def _raw(pattern: str) -> str:
    return f'r"{pattern}"' if '"' not in pattern else repr(pattern)
