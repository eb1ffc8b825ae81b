"""vLLM's loading, and the account that is kept of it."""

import torch

from porter.runtime.accounting import WeightAccount, keep_account, name_tensor
from tests.vllm_engine.marks import WITH_VLLM

pytestmark = WITH_VLLM


def test_what_a_mapper_drops_goes_by_the_checkpoints_name() -> None:
    """Also where the port hands the tensor on under a name of its own."""
    from vllm.model_executor.models.utils import WeightsMapper

    from porter.vllm_engine.loading import drops_noted

    mapper = WeightsMapper(orig_to_new_prefix={".": None}) | WeightsMapper()
    account = WeightAccount()
    with keep_account(account), drops_noted():
        tensors = [
            (renamed, name_tensor(name, torch.zeros(2))[:1])
            for name, renamed in (("a.8.w", ".a.8.w"), ("a.0.w", "a.0.w"))
        ]
        assert [name for name, _ in mapper.apply(tensors)] == ["a.0.w"]
    assert list(account.dropped) == ["a.8.w"]
    assert account.seen == {"a.8.w", "a.0.w"}
    before = WeightsMapper.apply
    with drops_noted():
        assert WeightsMapper.apply is not before
    assert WeightsMapper.apply is before
