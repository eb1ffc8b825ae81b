"""Each rule for a vLLM model file has a text that breaks it, and one that keeps it."""

import pytest

from porter.gap import Refused
from porter.spec import check

GOOD = """
import torch
from torch import nn
from vllm.model_executor.layers.linear import ColumnParallelLinear


class Block(nn.Module):
    scale = 2

    def __init__(self, config, prefix: str = "") -> None:
        super().__init__()
        self.width = config.width
        self.up = ColumnParallelLinear(config.width, 4, prefix=f"{prefix}.up")
        self.register_buffer("table", torch.ones(4), persistent=False)

    def forward(self, x):
        y, _ = self.up(x)
        return y * self.scale + self.table + self.width


class BirdForCausalLM(nn.Module):
    def __init__(self, *, vllm_config, prefix: str = "") -> None:
        super().__init__()
        self.model = Block(vllm_config, prefix=maybe_prefix(prefix, "model"))

    def forward(self, input_ids, positions, intermediate_tensors=None):
        return self.model(input_ids)
"""
FORWARD = "    def forward(self, x):\n"
TWICE = "    def twice(self, x, z):\n        return x\n\n"

BROKEN = [
    (
        "        y, _ =",
        "        y = self.down(x)\n        y, _ =",
        "Block.down is read",
    ),
    ("    scale = 2\n", "", "Block.scale is read but never set"),
    ("self.register_buffer(", "self.hold(", "Block.hold is read but never set"),
    ("import torch\n", "import torch\nimport math\n", "import of math isn't used"),
    ("import torch\n", "import torch\nimport numpy as np\n", "it imports numpy"),
    (FORWARD, TWICE + FORWARD, "Block.twice doesn't use z"),
    ("config, prefix", "config, extra, prefix", "Block.__init__ doesn't use extra"),
    ("self, x)", "self, x, attention_mask)", "still takes attention_mask"),
    ("self, x)", "self, x, past_key_values)", "still takes past_key_values"),
    ("self, x)", "self, x, dropout)", "still takes dropout"),
    ("        return y", "        z = y\n        return y", "doesn't use its z"),
    ('f"{prefix}.up"', 'f"{prefix}.down"', "Block.up has the prefix down"),
    ('(prefix, "model")', '(prefix, "m")', "BirdForCausalLM.model has the prefix m"),
]


def test_a_valid_file_passes() -> None:
    check(GOOD, "modeling_bird.py", 3)


@pytest.mark.parametrize(("old", "new", "message"), BROKEN, ids=[b[2] for b in BROKEN])
def test_a_rule_is_broken(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(Refused) as refusal:
        check(GOOD.replace(old, new, 1), "modeling_bird.py", 3)
    (gap,) = refusal.value.gaps
    assert message in gap.what and (gap.file, gap.line) == ("modeling_bird.py", 3)


def test_an_import_from_another_library_is_refused() -> None:
    text = "from transformers import PreTrainedModel\nx = PreTrainedModel\n"
    with pytest.raises(Refused, match="it imports transformers"):
        check(text, "modeling_bird.py", 1)
