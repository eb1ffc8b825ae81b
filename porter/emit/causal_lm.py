"""The class with the language-model head, and the containers between it and the layers."""

from typing import Any

from porter.analyze.graph import Node
from porter.analyze.symbols import same
from porter.analyze.values import Module
from porter.emit.classes import ClassSet, Generated
from porter.emit.constructor import Constructor
from porter.emit.experts import BALANCE_METHOD, balance_lines, expert_count
from porter.emit.lines import Line, indented
from porter.emit.loading import WeightsWriter
from porter.emit.method import Body
from porter.emit.scope import ClassScope
from porter.emit.trunk import Trunk
from porter.emit.weights import WeightPlan
from porter.gap import Gap, Refused
from porter.profiles.profile import Profile

_FORWARD = """\
    def {embed}(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.{child}.{embed}(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
{taken}        intermediate_tensors: IntermediateTensors | None{default},
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors:
        return self.{child}(
            input_ids, positions{passed}, intermediate_tensors, inputs_embeds
        )"""


def forward_text(profile: Profile, child: str, default: str) -> str:
    """The methods that hand on to the module with the layers."""
    return _FORWARD.format(
        embed=profile.embed,
        child=child,
        taken=profile.taken(" " * 8),
        passed=profile.passed(),
        default=default,
    )


def container(
    inst: Module, child: str, made: str, compiled: bool, profile: Profile
) -> Generated:
    """A module that only holds the one with the layers."""
    out = Generated(inst.kind, {"vllm_config"}, {})
    head = "@support_torch_compile\n" if compiled else ""
    text = (
        f"{head}class {inst.kind}(nn.Module):\n"
        '    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:\n'
        "        super().__init__()\n"
        f"        self.{child} = {made}(vllm_config=vllm_config, "
        f'prefix=f"{{prefix}}.{child}")\n'
        "        self.make_empty_intermediate_tensors = (\n"
        f"            self.{child}.make_empty_intermediate_tensors\n        )\n\n"
        + forward_text(profile, child, default="")
    )
    out.lines = [Line(text, [inst.span])]
    return out


class CausalLMWriter:
    """Writes the root class: head, logits, weights."""

    def __init__(
        self,
        classes: ClassSet,
        trunk: Trunk,
        plan: WeightPlan,
        tied: str | None,
        checks: list[str],
    ):
        self.classes, self.trunk, self.plan = classes, trunk, plan
        self.tied, self.checks = tied, checks
        self.graph, self.facts = classes.graph, classes.graph.facts
        self.profile = self.graph.profile
        self.inst = self.facts.root
        self.experts = expert_count(self.graph.order)
        self.scope = ClassScope(self.inst, self.graph, classes.imports)
        head = self._head().attrs["module"].name if tied else None
        self.loading = WeightsWriter(self.profile, plan, self.inst, head)

    def write(self) -> Generated:
        made = Generated(self.inst.kind, set(), {})
        logits = self._compute_logits()
        span = [self.facts.frame.span]
        child = self.trunk.inst.path[0]
        lines = [
            Line(
                f"class {self.inst.kind}(nn.Module, {self._balanced()}SupportsLoRA, "
                "SupportsPP, SupportsQuant):",
                span,
            )
        ]
        lines += self._attributes() + self._constructor(child)
        forward = forward_text(self.profile, child, default=" = None")
        lines.append(Line("\n" + forward, span))
        lines += [Line(""), *logits, Line("")]
        if self.experts is not None:
            lines.append(Line(BALANCE_METHOD, span))
        if self.profile.methods:
            lines += [Line(self.profile.methods, span), Line("")]
        lines += [Line(text, span) for text in self.loading.methods()]
        made.lines = lines
        return made

    def _balanced(self) -> str:
        return "" if self.experts is None else "MixtureOfExperts, "

    # -- logits

    def _compute_logits(self) -> list[Line]:
        frame = self.facts.frame
        body = Body(self.graph, frame, self.scope)
        outputs = self.graph.outputs(self.trunk.frame)
        body.bind(outputs[0], "hidden_states")
        for node in self.graph.order:
            if node.op in ("positions", "input_ids"):
                body.bind(node, node.op)
        top = self.facts.logits
        body.plan([top])
        head = next(n for n in self.graph.order if n.op == "logits")
        if head is top:
            body.prepare(top)
        elif not self.profile.late_logits:
            raise Refused(
                [
                    Gap(
                        top.span.file,
                        top.span.line,
                        "the logits are computed on after the head",
                        f"vLLM {self.profile.release} has then sampled with them: "
                        "port for a later release",
                    )
                ]
            )
        else:
            name = body.ensure(head)
            body.line(f"if {name} is None:\n    return None", [head.span])
            body.line(f"return {body.ensure(top)}")
        lines = body.finished({}, head.span)
        if head is top:
            lines[-1].text = lines[-1].text.replace("logits = ", "return ", 1)
        text = "\n".join(line.text for line in lines)
        if "positions" in text or "input_ids" in text:
            raise Refused(
                [
                    Gap(
                        top.span.file,
                        top.span.line,
                        "the head reads more than the hidden states",
                    )
                ]
            )
        further = "".join(
            f", {a.name}: {a.annotation}" for a in self.profile.logits_arguments
        )
        signature = (
            f"    def compute_logits(self, hidden_states: torch.Tensor{further}) "
            "-> torch.Tensor | None:"
        )
        return [
            Line(signature, [head.span]),
            *self.classes.comments.weave(indented(lines, 2)),
        ]

    # -- class attributes

    def _attributes(self) -> list[Line]:
        span = [self.facts.frame.span]
        out: list[Line] = []
        if self.plan.packed or self.profile.lora_lists:
            out.append(Line(f"    packed_modules_mapping = {self.plan.packed!r}", span))
        if self.profile.lora_lists:
            out += [Line(f"    {text}", span) for text in self._lora_lists()]
            return out + self._mapper_attribute()
        vocab = self._embedding_module()
        head = self._head().attrs["module"]
        names = {vocab.name: "input_embeddings", head.name: "output_embeddings"}
        out.append(Line(f"    embedding_modules = {names!r}", span))
        return out + self._mapper_attribute()

    def _mapper_attribute(self) -> list[Line]:
        arguments = self.loading.mapper()
        if not arguments and not self.profile.renames:
            return [Line("")]
        text = f"    hf_to_vllm_mapper = WeightsMapper({arguments})"
        return [Line(text, [self.facts.frame.span]), Line("")]

    def _lora_lists(self) -> list[str]:
        """Linear layers alone: an adapter's own vocabulary would need a place of its own
        in the embedding and the head."""
        names = [
            name
            for scope in self.classes.scopes
            for name, child in scope.children.items()
            if getattr(child.replaced, "kind", "").endswith("Linear")
        ]
        return [
            f"supported_lora_modules = {list(dict.fromkeys(names))!r}",
            "embedding_modules = {}",
            "embedding_padding_modules = []",
        ]

    def _embedding_module(self) -> Module:
        return next(
            n
            for n in self.graph.order
            if n.op == "embedding" and n.args[0].op == "input_ids"
        ).attrs["module"]

    def _head(self) -> Node:
        return next(n for n in self.graph.order if n.op == "logits")

    # -- constructor

    def _constructor(self, child: str) -> list[Line]:
        scope, span = self.scope, [self.facts.frame.span]
        writer = _RootConstructor(scope, self.classes)
        head = self._head()
        head_module: Module = head.attrs["module"]
        scope.children.pop(head_module.name, None)
        scope.children.pop(child, None)
        kind = self.inst.attrs[child].kind
        body = ["self.config = config", "self.quant_config = quant_config"]
        body += self.checks
        body.append(
            f"self.{child} = {kind}(vllm_config=vllm_config, "
            f'prefix=maybe_prefix(prefix, "{child}"))'
        )
        layer = writer.module(head_module.name, head_module)
        body.append("if get_pp_group().is_last_rank:")
        body.append(f"    self.{head_module.name} = {layer}")
        if self.tied:
            body += [
                "    if config.tie_word_embeddings:",
                f"        self.{head_module.name} = self.{head_module.name}"
                f".tie_weights(self.{self.tied})",
            ]
        body += ["else:", f"    self.{head_module.name} = PPMissingLayer()"]
        extra = [*writer.write(), *self.profile.head_lines]
        args = [writer.number(head_module.args["out_features"])]
        if not same(head.attrs["scale"], 1.0):
            args.append(f"scale={writer.number(head.attrs['scale'])}")
        if head.attrs["soft_cap"] is not None:
            args.append(f"soft_cap={writer.number(head.attrs['soft_cap'])}")
        body.append(f"self.logits_processor = LogitsProcessor({', '.join(args)})")
        body.append(
            "self.make_empty_intermediate_tensors = "
            f"self.{child}.make_empty_intermediate_tensors"
        )
        if self.experts is not None:
            body += balance_lines(child, writer.number(self.experts))
        lines = [
            Line(
                '    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") '
                "-> None:",
                span,
            ),
            Line("        super().__init__()", span),
            Line("        config = vllm_config.model_config.hf_config", span),
            Line("        quant_config = vllm_config.quant_config", span),
        ]
        for text in [*body, *extra]:
            lines.append(Line("        " + text.replace("\n", "\n        "), span))
        return lines


class _RootConstructor(Constructor):
    def prefix(self, name: str) -> str:
        return f'maybe_prefix(prefix, "{name}")'


def tied_embedding(classes: ClassSet) -> str | None:
    """The path of the embedding that the head shares its weight with, where the source
    declares it in transformers' `_tied_weights_keys`."""
    facts = classes.graph.facts
    keys: Any = facts.class_values.get("_tied_weights_keys")
    head = next(n for n in classes.graph.order if n.op == "logits").attrs["module"]
    vocab = next(
        n
        for n in classes.graph.order
        if n.op == "embedding" and n.args[0].op == "input_ids"
    ).attrs["module"]
    name = ".".join(head.path) + ".weight"
    source = ".".join(vocab.path)
    if isinstance(keys, dict):
        if keys.get(name) is None:
            return None
        if keys[name] == f"{source}.weight":
            return source
        raise Refused(
            [
                Gap(
                    facts.file.shown,
                    facts.cls.node.lineno,
                    f"the head is tied to {keys[name]}, not to the embedding",
                )
            ]
        )
    if isinstance(keys, (list, tuple)) and name in keys:
        return source
    return None
