"""Linear layers whose weight is sharded over the tensor parallel group.

A weight is [output, input]. Column parallel layers hold a slice of the outputs,
row parallel layers a slice of the inputs and a partial sum of the outputs. Each
layer's `weight_loader` takes the whole tensor of the checkpoint and keeps the part
of this rank.
"""

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from porter.runtime.distributed import (
    divide,
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    split_tensor_along_last_dim,
    tensor_model_parallel_all_gather,
    tensor_model_parallel_all_reduce,
)
from porter.runtime.kernels.matvec import is_matvec, matvec
from porter.runtime.kernels.packed_linear import (
    can_pack,
    pack_weight,
    packed_linear,
)
from porter.runtime.layers.quantization import (
    QuantizationConfig,
    refuse_quantization,
)
from porter.runtime.parameter import copy_shard, make_parameter

Output: TypeAlias = torch.Tensor | tuple[torch.Tensor, nn.Parameter | None]


class UnquantizedLinearMethod:
    """y = x W^T + b."""

    packed_weight: torch.Tensor | None = None

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Pack the weight where the machine can; the plain one is given up then."""
        self._pack(layer)
        if self.packed_weight is not None:
            layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)

    def _pack(self, layer: nn.Module) -> None:
        weight: Any = layer.weight
        if can_pack(weight):
            self.packed_weight = pack_weight(weight)

    def apply(
        self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        if self.packed_weight is not None and x.dtype == self.packed_weight.dtype:
            return packed_linear(x, self.packed_weight, bias)
        if is_matvec(x, layer.weight):
            return matvec(x, layer.weight, bias)
        return F.linear(x, layer.weight, bias)


class LinearBase(nn.Module):
    """What all linear layers record; forward returns (output, bias to add or None).

    skip_bias_add: the bias is returned instead of added.
    return_bias: False returns the output alone.
    disable_tp: the layer is whole on every rank.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool = False,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: QuantizationConfig | None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
        tp_rank: int | None = None,
        tp_size: int | None = None,
    ) -> None:
        super().__init__()
        refuse_quantization(quant_config, prefix)
        self.input_size = input_size
        self.output_size = output_size
        self.has_bias = bias
        self.skip_bias_add = skip_bias_add
        self.params_dtype = params_dtype or torch.get_default_dtype()
        self.quant_config = quant_config
        self.prefix = prefix
        self.return_bias = return_bias
        self.disable_tp = disable_tp
        self.quant_method = UnquantizedLinearMethod()
        if disable_tp:
            tp_rank, tp_size = 0, 1
        self.tp_rank = get_tensor_model_parallel_rank() if tp_rank is None else tp_rank
        self.tp_size = (
            get_tensor_model_parallel_world_size() if tp_size is None else tp_size
        )

    def _create_parameters(
        self, weight_shape: tuple[int, int], bias_size: int, **bias_attrs: Any
    ) -> None:
        self.weight = make_parameter(
            weight_shape,
            self.params_dtype,
            input_dim=1,
            output_dim=0,
            weight_loader=self.weight_loader,
        )
        if not self.has_bias:
            self.register_parameter("bias", None)
            return
        self.bias = make_parameter(
            (bias_size,),
            self.params_dtype,
            weight_loader=self.weight_loader,
            **bias_attrs,
        )

    def weight_loader(self, param: nn.Parameter, loaded_weight: torch.Tensor) -> None:
        """Copy this rank's part of a checkpoint tensor into param."""
        copy_shard(param, loaded_weight)

    def _output(self, output: torch.Tensor) -> Output:
        if not self.return_bias:
            return output
        return output, self.bias if self.skip_bias_add else None

    def extra_repr(self) -> str:
        return (
            f"in_features={self.input_size}, output_features={self.output_size}, "
            f"bias={self.bias is not None}, tp_size={self.tp_size}"
        )


class ReplicatedLinear(LinearBase):
    """A linear layer that every rank has whole."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool = True,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: QuantizationConfig | None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
    ) -> None:
        super().__init__(
            input_size,
            output_size,
            bias,
            skip_bias_add,
            params_dtype,
            quant_config,
            prefix,
            return_bias=return_bias,
            disable_tp=disable_tp,
        )
        self._create_parameters((output_size, input_size), output_size, output_dim=0)

    def forward(self, x: torch.Tensor) -> Output:
        bias = None if self.skip_bias_add else self.bias
        return self._output(self.quant_method.apply(self, x, bias))


class ColumnParallelLinear(LinearBase):
    """Outputs are sharded; gather_output makes them whole on every rank."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool = True,
        gather_output: bool = False,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: QuantizationConfig | None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
        tp_rank: int | None = None,
        tp_size: int | None = None,
    ) -> None:
        super().__init__(
            input_size,
            output_size,
            bias,
            skip_bias_add,
            params_dtype,
            quant_config,
            prefix,
            return_bias=return_bias,
            disable_tp=disable_tp,
            tp_rank=tp_rank,
            tp_size=tp_size,
        )
        self.gather_output = gather_output
        self.input_size_per_partition = input_size
        self.output_size_per_partition = divide(output_size, self.tp_size)
        self._create_parameters(
            (self.output_size_per_partition, input_size),
            self.output_size_per_partition,
            output_dim=0,
        )

    def weight_loader(self, param: nn.Parameter, loaded_weight: torch.Tensor) -> None:
        copy_shard(param, loaded_weight, dim=0, shard=self.tp_rank, shards=self.tp_size)

    def forward(self, input_: torch.Tensor) -> Output:
        bias = None if self.skip_bias_add else self.bias
        output = self.quant_method.apply(self, input_, bias)
        if self.gather_output and self.tp_size > 1:
            output = tensor_model_parallel_all_gather(output)
        return self._output(output)


class RowParallelLinear(LinearBase):
    """Inputs are sharded; the partial outputs are summed unless not reduce_results.

    input_is_parallel: False takes this rank's slice of a whole input. The bias is
    whole on every rank and added on the first one only, so it is summed once.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool = True,
        input_is_parallel: bool = True,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        reduce_results: bool = True,
        quant_config: QuantizationConfig | None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
    ) -> None:
        super().__init__(
            input_size,
            output_size,
            bias,
            skip_bias_add,
            params_dtype,
            quant_config,
            prefix,
            return_bias=return_bias,
            disable_tp=disable_tp,
        )
        self.input_is_parallel = input_is_parallel
        self.reduce_results = reduce_results
        self.input_size_per_partition = divide(input_size, self.tp_size)
        self.output_size_per_partition = output_size
        if not reduce_results and bias and not skip_bias_add:
            raise ValueError(
                "When not reduce the results, adding bias to the "
                "results can lead to incorrect results"
            )
        self._create_parameters(
            (output_size, self.input_size_per_partition), output_size, output_dim=0
        )

    def weight_loader(self, param: nn.Parameter, loaded_weight: torch.Tensor) -> None:
        dim = getattr(param, "input_dim", None)
        copy_shard(
            param, loaded_weight, dim=dim, shard=self.tp_rank, shards=self.tp_size
        )

    def forward(self, input_: torch.Tensor) -> Output:
        if not self.input_is_parallel:
            parts = split_tensor_along_last_dim(input_, self.tp_size)
            input_ = parts[self.tp_rank].contiguous()
        bias = None if self.skip_bias_add or self.tp_rank > 0 else self.bias
        output = self.quant_method.apply(self, input_, bias)
        if self.reduce_results and self.tp_size > 1:
            output = tensor_model_parallel_all_reduce(output)
        return self._output(output)
