"""What a port with fused experts has besides its classes: routing handed on, and merged
tensors taken apart where the layer loads another layout than the checkpoint's."""

from typing import Any

from porter.analyze.graph import Node
from porter.analyze.symbols import contains, same
from porter.transforms.expert_weights import ExpertWeights

ROUTING = '''\
def pack_routing(weights: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    """What the router chose, as the fused experts take it: weights, then experts."""
    return torch.cat((weights.float(), experts.float()), dim=-1)


def unpack_routing(
    hidden_states: torch.Tensor,
    gating_output: torch.Tensor,
    topk: int,
    renormalize: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The custom routing function of the fused experts: the inverse of pack_routing."""
    weights, experts = gating_output.split(topk, dim=-1)
    return weights, experts.to(torch.int32)
'''

# What vLLM's load balancer asks of the class with the head (`MixtureOfExperts`).
_BALANCED = """\
self.moe_layers = [m for m in self.{child}.modules() if isinstance(m, MoERunner)]
self.num_moe_layers = len(self.moe_layers)
self.num_expert_groups = 1
self.num_shared_experts = 0
self.num_routed_experts = {count}
self.num_logical_experts = self.num_routed_experts
self.num_redundant_experts = (
    vllm_config.parallel_config.eplb_config.num_redundant_experts
)
self.num_physical_experts = self.num_logical_experts + self.num_redundant_experts
self.num_local_physical_experts = 0
if self.moe_layers:
    moe_config = self.moe_layers[0].moe_config
    self.num_local_physical_experts = moe_config.num_local_experts"""

BALANCE_METHOD = """\
    def update_physical_experts_metadata(
        self, num_physical_experts: int, num_local_physical_experts: int
    ) -> None:
        assert self.num_local_physical_experts == num_local_physical_experts
        self.num_physical_experts = num_physical_experts
        self.num_redundant_experts = num_physical_experts - self.num_logical_experts
        for layer in self.moe_layers:
            layer.update_expert_map()
"""

UNREAD = r"^\."  # no module's name begins so

_SPLIT = '''\
    def _split_experts(
        self, weights: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterable[tuple[str, torch.Tensor]]:
        """Experts are merged in the checkpoint; each has tensors of its own here."""
        for name, weight in weights:
{branches}
            else:
                yield name, weight'''


def expert_count(nodes: list[Node]) -> Any | None:
    """How many experts every layer of experts has: what the load balancer can spread.
    None where there are none, or layers differ."""
    counts = [
        n.attrs["module"].replaced.args["num_experts"]
        for n in nodes
        if n.op == "fused_moe"
    ]
    if not counts or any(not same(c, counts[0]) for c in counts):
        return None
    return None if contains(counts[0], "layer") else counts[0]


def balance_lines(child: str, count: str) -> list[str]:
    """Statements of the constructor of the class with the head."""
    return _BALANCED.format(child=child, count=count).split("\n")


def split_method(plans: list[ExpertWeights]) -> str:
    """The generator that takes merged tensors apart; empty where none is needed."""
    lines: list[str] = []
    for plan in plans:
        for stored, (kind, role) in plan.split.items():
            lines += _branch(plan, stored, kind, role, first=not lines)
        if plan.more:
            lines += _left_out(plan)
    pad = " " * 12
    return (
        _SPLIT.format(branches="\n".join(pad + line for line in lines)) if lines else ""
    )


def _left_out(plan: ExpertWeights) -> list[str]:
    """Tensors of experts of which nothing reads them, under names that no rule keeps."""
    pattern = r"\.".join([*plan.path[-2:-1], *plan.path[-1:], r"(\d+)", ""])
    found = rf'(found := re.search(r"\.{pattern}", name))'
    return [
        f"elif {found} and int(found[1]) >= {plan.count}:",
        '    yield f".{name}", weight',
    ]


def _branch(
    plan: ExpertWeights, stored, kind: str, role: str, first: bool
) -> list[str]:
    tail = ".".join(stored[-3:] if stored[-3] != "*" else stored[-2:])
    base = ".".join(plan.path[len(stored) - len(tail.split(".")) :])
    what = "bias" if kind == "bias" else "weight"
    out = [f'{"if" if first else "elif"} name.endswith(".{tail}"):']
    out.append(f'    base = name.removesuffix("{tail}") + "{base}"')
    each = "weight"
    if kind.startswith("flat"):
        each = f"weight.unflatten(0, ({plan.count}, -1))"
    if plan.more:
        each += f"[: {plan.count}]"
    out.append(f"    for i, expert in enumerate({each}):")
    if kind.endswith("transposed"):
        out.append("        expert = expert.t()")
    if role != "gate_up":
        out.append(f'        yield f"{{base}}.{{i}}.{role}_proj.{what}", expert')
        return out
    halves = {
        "gate_up": "expert.chunk(2)",
        "up_gate": "expert.chunk(2)[::-1]",
        "interleaved": "expert[::2], expert[1::2]",
    }[plan.layout]
    out.append(f"        gate, up = {halves}")
    for half in ("gate", "up"):
        out.append(f'        yield f"{{base}}.{{i}}.{half}_proj.{what}", {half}')
    return out
