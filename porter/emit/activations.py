"""Gated activations that vLLM has no fused layer of.

A config names the activation, so which one it is shows at construction. Where vLLM has it
fused with the product that is what the port makes; else the plain activation of the same
name, and the product beside it. A name that vLLM has in neither form stops the port there.
"""

from porter.transforms.fuse_gate_up import FUSED_NAMES

ACT_AND_MUL = f'''\
class ActAndMul(nn.Module):
    """An activation that vLLM doesn't fuse, of the first half, times the second."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.act_fn = get_act_fn(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return self.act_fn(gate) * up


def act_and_mul(name: str) -> nn.Module:
    fused = name in {FUSED_NAMES!r}
    return get_act_and_mul_fn(name) if fused else ActAndMul(name)
'''
