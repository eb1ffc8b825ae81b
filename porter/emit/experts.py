"""What a port with fused experts has besides its classes: routing handed on, and merged
tensors taken apart where the layer loads another layout than the checkpoint's."""

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

_SPLIT = '''\
    def _split_experts(
        self, weights: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterable[tuple[str, torch.Tensor]]:
        """Experts are merged in the checkpoint; each has tensors of its own here."""
        for name, weight in weights:
{branches}
            else:
                yield name, weight'''


def split_method(plans: list[ExpertWeights]) -> str:
    """The generator that takes merged tensors apart; empty where none is needed."""
    lines: list[str] = []
    for plan in plans:
        for stored, (kind, role) in plan.split.items():
            lines += _branch(plan, stored, kind, role, first=not lines)
    pad = " " * 12
    return (
        _SPLIT.format(branches="\n".join(pad + line for line in lines)) if lines else ""
    )


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
