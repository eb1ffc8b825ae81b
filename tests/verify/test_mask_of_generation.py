"""The reference is handed a mask where it is causal only with one."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from porter.verify.reference import trace_reference


class Mean(nn.Module):
    """Logits of a token: those of the mean of what it sees, all of it without a mask."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.table = nn.Parameter(torch.eye(7) * torch.arange(1.0, 8.0))
        self.masks: list[bool] = []

    def forward(self, ids, attention_mask=None, use_cache=False):
        self.masks.append(attention_mask is not None)
        seen = self.table[ids[0]]
        weights = torch.ones(len(seen), len(seen))
        if attention_mask is not None:
            assert attention_mask.shape == ids.shape
        if self.causal or attention_mask is not None:
            weights = weights.tril()
        logits = weights / weights.sum(-1, keepdim=True) @ seen
        return _Output(logits=logits[None])


class _Output(SimpleNamespace):
    def get(self, name):
        return vars(self).get(name)


@pytest.mark.parametrize("causal", [True, False])
def test_a_mask_is_given_where_it_is_needed(causal: bool) -> None:
    model = Mean(causal)
    (trace,) = trace_reference(model, [[1, 5, 2]], max_tokens=3)
    torch.testing.assert_close(trace.logits[0], model.table[1].data)
    assert set(model.masks[2:]) == {not causal}
