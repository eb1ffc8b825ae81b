"""The parameters of all experts, stacked, and how a checkpoint fills them.

w13_weight [experts, 2 * width, hidden]: gate, then up; w2_weight [experts, hidden, width].
Checkpoints have a tensor an expert (`3.gate_proj.weight`), or merged ones
(`gate_up_proj` [experts, 2 * width, hidden], `down_proj` [experts, hidden, width]).
"""

import re
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from porter.runtime.accounting import current_account
from porter.runtime.distributed import divide
from porter.runtime.kernels.grouped_experts import Packed
from porter.runtime.kernels.packed_linear import can_pack, pack_weight
from porter.runtime.parameter import copy_shard, make_parameter

_ONE = re.compile(r"(\d+)\.(\w+)\.(weight|bias)$")


class UnquantizedExpertsMethod:
    """Packs each expert's matrices where the machine can; the plain ones are given up."""

    def process_weights_after_loading(self, layer: "RoutedExperts") -> None:
        pairs = zip(layer.w13_weight, layer.w2_weight, strict=True)
        if len(layer.mine) and can_pack(layer.w13_weight):
            layer.packed = [(pack_weight(a), pack_weight(b)) for a, b in pairs]
            layer.w13_weight = nn.Parameter(torch.empty(0), requires_grad=False)
            layer.w2_weight = nn.Parameter(torch.empty(0), requires_grad=False)


class RoutedExperts(nn.Module):
    """mine: the experts of this rank, of num_experts; shard, shards: its part of each."""

    def __init__(
        self,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        dtype: torch.dtype,
        mine: range,
        shard: int,
        shards: int,
        *,
        has_bias: bool,
        ckpt_names: tuple[str, str, str | None],
        transposed: bool,
        layer_name: str,
    ) -> None:
        super().__init__()
        self.num_experts, self.mine = num_experts, mine
        self.shard, self.shards = shard, shards
        self.transposed, self.layer_name = transposed, layer_name
        self.gate_name, self.down_name, self.up_name = ckpt_names
        count, width = len(mine), divide(intermediate_size, shards)
        self.width = width
        self.w13_weight = make_parameter((count, 2 * width, hidden_size), dtype)
        self.w2_weight = make_parameter((count, hidden_size, width), dtype)
        self.packed: Packed | None = None
        self.quant_method = UnquantizedExpertsMethod()
        self.w13_bias: nn.Parameter | None = None
        self.w2_bias: nn.Parameter | None = None
        if has_bias:
            self.w13_bias = make_parameter((count, 2 * width), dtype)
            self.w2_bias = make_parameter((count, hidden_size), dtype)

    @property
    def first(self) -> int:
        return self.mine.start

    def packs(self, x: torch.Tensor) -> bool:
        """Whether the packed matrices are there to multiply x."""
        return self.packed is not None and x.dtype == torch.float32

    def local_w2_bias(self) -> torch.Tensor | None:
        """The bias of the sum, on the one shard that adds it."""
        return self.w2_bias if self.shard == 0 else None

    def load_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterator[str]:
        """Load tensors by their names below the layer; yields the parameters reached.

        Raises ValueError on a name or a shape that doesn't fit.
        """
        for name, weight in weights:
            one = _ONE.match(name)
            if one:
                expert, matrix, kind = int(one[1]), one[2], one[3]
                yield from self._one(name, expert, matrix, kind, weight)
            elif name in self._merged() and weight.dim() == 3:
                yield from self._all(name, weight)
            else:
                raise ValueError(f"{self.layer_name} has no {name}")

    def _merged(self) -> tuple[str, ...]:
        return ("gate_up_proj", "down_proj")

    def _all(self, name: str, weight: torch.Tensor) -> Iterator[str]:
        if weight.shape[0] != self.num_experts:
            raise ValueError(
                f"{weight.shape[0]} experts for {self.num_experts} in {name}"
            )
        if self.transposed:
            weight = weight.transpose(1, 2)
        for expert, each in enumerate(weight.unbind()):
            if name == "down_proj":
                yield from self._one(name, expert, self.down_name, "weight", each)
                continue
            gate, up = each.chunk(2)
            yield from self._one(name, expert, self.gate_name, "weight", gate)
            yield from self._one(name, expert, self.up_name, "weight", up)

    def _one(
        self,
        name: str,
        expert: int,
        matrix: str | None,
        kind: str,
        weight: torch.Tensor,
    ) -> Iterator[str]:
        if not 0 <= expert < self.num_experts:
            raise ValueError(f"{self.layer_name} has no expert {expert}")
        if expert not in self.mine:
            current_account().drop(name, weight, "on another expert parallel rank")
            return
        place = {self.gate_name: ("w13", 0), self.up_name: ("w13", self.width)}
        place[self.down_name] = ("w2", 0)
        if matrix not in place:
            raise ValueError(f"{self.layer_name} has no {name}")
        stem, offset = place[matrix]
        parameter = getattr(self, f"{stem}_{kind}")
        if parameter is None:
            raise ValueError(f"{self.layer_name} has no {name}")
        target = parameter.data[expert - self.first]
        if stem == "w13":
            copy_shard(target, weight, dim=0, shard=self.shard, offset=offset,
                       size=self.width, shards=self.shards)  # fmt: skip
        elif kind == "weight":
            copy_shard(target, weight, dim=1, shard=self.shard, shards=self.shards)
        else:
            copy_shard(target, weight)
        yield f"{stem}_{kind}"
