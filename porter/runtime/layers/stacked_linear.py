"""Column parallel layers that hold several projections of one input.

Each projection is sharded by itself, and loaded by its shard id from a tensor of its
own or from one in which the checkpoint has them fused.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from porter.runtime.distributed import divide, get_tensor_model_parallel_world_size
from porter.runtime.layers.linear import ColumnParallelLinear
from porter.runtime.layers.quantization import QuantizationConfig
from porter.runtime.parameter import copy_shard


class StackedLinear(ColumnParallelLinear):
    """A column parallel layer that holds several projections of one input."""

    def load_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterable[str]:
        """Load tensors whose `shard_id`, set by a WeightsMapper, names the projection.

        Yields the names that were loaded; a bias that the layer lacks is passed over.
        """
        for name, loaded_weight in weights:
            shard_id = getattr(loaded_weight, "shard_id", None)
            param: Any = getattr(self, name)
            if param is None and name == "bias":
                continue
            param.weight_loader(param, loaded_weight, shard_id)
            yield name


class MergedColumnParallelLinear(StackedLinear):
    """Column parallel projections of sizes output_sizes, each sharded by itself.

    The shard id of a checkpoint tensor is an index, a tuple of consecutive indices
    when the file has them fused, or None when it has all of them fused.
    """

    def __init__(
        self,
        input_size: int,
        output_sizes: list[int],
        bias: bool = True,
        gather_output: bool = False,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: QuantizationConfig | None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
    ) -> None:
        tp_size = 1 if disable_tp else get_tensor_model_parallel_world_size()
        for size in output_sizes:
            divide(size, tp_size)
        self.output_sizes = output_sizes
        super().__init__(
            input_size,
            sum(output_sizes),
            bias,
            gather_output,
            skip_bias_add,
            params_dtype,
            quant_config,
            prefix,
            return_bias=return_bias,
            disable_tp=disable_tp,
        )

    def validate_shard_id(self, shard_id: Any) -> None:
        """ValueError unless the id names projections of this layer, in order."""
        if shard_id is None:
            return
        ids = (shard_id,) if isinstance(shard_id, int) else tuple(shard_id)
        if not all(0 <= i < len(self.output_sizes) for i in ids):
            raise ValueError(
                f"Shard id should be between 0 and {len(self.output_sizes) - 1}. "
                f"Got shard id {shard_id}."
            )
        if any(b - a != 1 for a, b in zip(ids, ids[1:], strict=False)):
            raise ValueError(
                "Shard id with multiple indices should be consecutive. "
                f"Got shard id {shard_id}."
            )

    def weight_loader(
        self,
        param: nn.Parameter,
        loaded_weight: torch.Tensor,
        loaded_shard_id: tuple[int, ...] | int | None = None,
    ) -> None:
        self.validate_shard_id(loaded_shard_id)
        if isinstance(loaded_shard_id, int):
            self._load_one(param, loaded_weight, loaded_shard_id)
            return
        ids = loaded_shard_id or range(len(self.output_sizes))
        start = 0
        for i in ids:
            size = self.output_sizes[i]
            self._load_one(param, loaded_weight.narrow(0, start, size), i)
            start += size

    def _load_one(self, param: nn.Parameter, weight: torch.Tensor, index: int) -> None:
        offset = sum(self.output_sizes[:index]) // self.tp_size
        size = self.output_sizes[index] // self.tp_size
        copy_shard(
            param,
            weight,
            dim=0,
            shard=self.tp_rank,
            shards=self.tp_size,
            offset=offset,
            size=size,
        )


class QKVParallelLinear(StackedLinear):
    """Query, key and value projections in one, sharded by heads.

    With more ranks than kv heads each kv head is held by several ranks. Values may
    have another head size than keys. A fused checkpoint tensor (shard id None) has
    all query heads, then all key heads, then all value heads.
    """

    def __init__(
        self,
        hidden_size: int,
        head_size: int,
        total_num_heads: int,
        total_num_kv_heads: int | None = None,
        bias: bool = True,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: QuantizationConfig | None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
        v_head_size: int | None = None,
    ) -> None:
        tp_size = 1 if disable_tp else get_tensor_model_parallel_world_size()
        kv_heads = total_num_heads if total_num_kv_heads is None else total_num_kv_heads
        self.hidden_size = hidden_size
        self.head_size = head_size
        self.v_head_size = head_size if v_head_size is None else v_head_size
        self.total_num_heads = total_num_heads
        self.total_num_kv_heads = kv_heads
        self.num_heads = divide(total_num_heads, tp_size)
        if tp_size >= kv_heads:
            self.num_kv_heads = 1
            self.num_kv_head_replicas = divide(tp_size, kv_heads)
        else:
            self.num_kv_heads = divide(kv_heads, tp_size)
            self.num_kv_head_replicas = 1
        self.output_sizes = [
            self.num_heads * self.head_size * tp_size,
            self.num_kv_heads * self.head_size * tp_size,
            self.num_kv_heads * self.v_head_size * tp_size,
        ]
        super().__init__(
            hidden_size,
            sum(self.output_sizes),
            bias,
            False,
            skip_bias_add,
            params_dtype,
            quant_config,
            prefix,
            return_bias=return_bias,
            disable_tp=disable_tp,
        )

    def validate_shard_id(self, shard_id: Any) -> None:
        """ValueError unless the id is "q", "k", "v" or None."""
        if shard_id not in ("q", "k", "v", None):
            raise ValueError(
                "Shard id for QKVParallelLinear should be 'q', 'k', or 'v', "
                f"got shard id {shard_id}."
            )

    def weight_loader(
        self,
        param: nn.Parameter,
        loaded_weight: torch.Tensor,
        loaded_shard_id: str | None = None,
    ) -> None:
        self.validate_shard_id(loaded_shard_id)
        if loaded_shard_id is not None:
            self._load_one(param, loaded_weight, loaded_shard_id)
            return
        start = 0
        for shard_id, size in (
            ("q", self.total_num_heads * self.head_size),
            ("k", self.total_num_kv_heads * self.head_size),
            ("v", self.total_num_kv_heads * self.v_head_size),
        ):
            self._load_one(param, loaded_weight.narrow(0, start, size), shard_id)
            start += size

    def _load_one(self, param: nn.Parameter, weight: torch.Tensor, which: str) -> None:
        sizes = {
            "q": self.num_heads * self.head_size,
            "k": self.num_kv_heads * self.head_size,
            "v": self.num_kv_heads * self.v_head_size,
        }
        offsets = {"q": 0, "k": sizes["q"], "v": sizes["q"] + sizes["k"]}
        replicas = 1 if which == "q" else self.num_kv_head_replicas
        copy_shard(
            param,
            weight,
            dim=0,
            shard=self.tp_rank // replicas,
            shards=self.tp_size // replicas,
            offset=offsets[which],
            size=sizes[which],
        )
