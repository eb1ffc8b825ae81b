"""Embedding and output head, sharded over the vocabulary.

The vocabulary is padded to a multiple of padding_size and cut into equal ranges, so
the last rank may hold padding rows, which are zero. Rows that were added beyond the
original vocabulary sit after all original ones; the bundled runtime has none.
"""

import torch
import torch.nn.functional as F
from torch import nn

from porter.gap import CannotRun
from porter.runtime.distributed import (
    divide,
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_reduce,
)
from porter.runtime.kernels.vocab_embedding import vocab_embedding
from porter.runtime.layers.linear import UnquantizedLinearMethod
from porter.runtime.layers.quantization import (
    QuantizationConfig,
    refuse_quantization,
)
from porter.runtime.parameter import copy_shard, make_parameter

DEFAULT_VOCAB_PADDING_SIZE = 64


def pad_vocab_size(vocab_size: int, pad_to: int = DEFAULT_VOCAB_PADDING_SIZE) -> int:
    """The next multiple of pad_to."""
    return (vocab_size + pad_to - 1) // pad_to * pad_to


class UnquantizedEmbeddingMethod(UnquantizedLinearMethod):
    """Look rows up, multiply by them, share them."""

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Pack a head's weight; the plain one stays, an embedding may share it."""
        if isinstance(layer, ParallelLMHead):
            self._pack(layer)

    def embedding(self, layer: nn.Module, input_: torch.Tensor) -> torch.Tensor:
        return F.embedding(input_, layer.weight)

    def tie_weights(
        self, layer: nn.Module, embed_tokens: "VocabParallelEmbedding"
    ) -> nn.Module:
        layer.weight = embed_tokens.weight
        return layer


class VocabParallelEmbedding(nn.Module):
    """Rows of token ids [num_tokens] -> [num_tokens, embedding_dim]."""

    weight: nn.Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        params_dtype: torch.dtype | None = None,
        org_num_embeddings: int | None = None,
        padding_size: int = DEFAULT_VOCAB_PADDING_SIZE,
        quant_config: QuantizationConfig | None = None,
        prefix: str = "",
        *,
        disable_tp: bool = False,
        reduce_results: bool = True,
    ) -> None:
        super().__init__()
        refuse_quantization(quant_config, prefix)
        self.disable_tp = disable_tp
        self.reduce_results = reduce_results
        self.tp_rank = 0 if disable_tp else get_tensor_model_parallel_rank()
        self.tp_size = 1 if disable_tp else get_tensor_model_parallel_world_size()
        self.num_embeddings = num_embeddings
        self.padding_size = padding_size
        self.org_vocab_size = org_num_embeddings or num_embeddings
        if self.org_vocab_size != num_embeddings:
            raise CannotRun("the bundled runtime has no embeddings added by LoRA")
        self.org_vocab_size_padded = pad_vocab_size(num_embeddings, padding_size)
        self.num_embeddings_padded = self.org_vocab_size_padded
        self.embedding_dim = embedding_dim
        self.num_embeddings_per_partition = divide(
            self.num_embeddings_padded, self.tp_size
        )
        self.first_row = min(
            self.tp_rank * self.num_embeddings_per_partition, num_embeddings
        )
        last = (self.tp_rank + 1) * self.num_embeddings_per_partition
        self.num_rows = min(last, num_embeddings) - self.first_row
        self.prefix = prefix
        self.quant_method = UnquantizedEmbeddingMethod()
        self.params_dtype = params_dtype or torch.get_default_dtype()
        self.weight = make_parameter(
            (self.num_embeddings_per_partition, embedding_dim),
            self.params_dtype,
            input_dim=1,
            output_dim=0,
            weight_loader=self.weight_loader,
        )

    def weight_loader(self, param: nn.Parameter, loaded_weight: torch.Tensor) -> None:
        """Copy this rank's rows of the whole table; padding rows become zero."""
        if len(loaded_weight) != self.org_vocab_size:
            raise ValueError(
                f"Attempted to load weight of shape {tuple(loaded_weight.shape)} "
                f"into a vocabulary of {self.org_vocab_size}"
            )
        rows = loaded_weight.narrow(0, self.first_row, self.num_rows)
        copy_shard(param.data[: self.num_rows], rows)
        param.data[self.num_rows :].fill_(0)

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        ids = input_.long()
        if self.tp_size == 1:
            return self.quant_method.embedding(self, ids)
        output = vocab_embedding(ids, self.weight, self.first_row, self.num_rows)
        if self.reduce_results:
            output = tensor_model_parallel_all_reduce(output)
        return output

    def extra_repr(self) -> str:
        return (
            f"num_embeddings={self.num_embeddings}, "
            f"embedding_dim={self.embedding_dim}, tp_size={self.tp_size}"
        )


class ParallelLMHead(VocabParallelEmbedding):
    """The output head; LogitsProcessor multiplies by its weight."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        bias: bool = False,
        params_dtype: torch.dtype | None = None,
        org_num_embeddings: int | None = None,
        padding_size: int = DEFAULT_VOCAB_PADDING_SIZE,
        quant_config: QuantizationConfig | None = None,
        prefix: str = "",
        *,
        disable_tp: bool = False,
    ) -> None:
        self.has_bias = bias
        super().__init__(
            num_embeddings,
            embedding_dim,
            params_dtype,
            org_num_embeddings,
            padding_size,
            quant_config,
            prefix,
            disable_tp=disable_tp,
        )
        self.quant_config = quant_config
        self.bias: nn.Parameter | None
        if not bias:
            self.register_parameter("bias", None)
            return
        self.bias = make_parameter(
            (self.num_embeddings_per_partition,),
            self.params_dtype,
            output_dim=0,
            weight_loader=self.weight_loader,
        )

    def tie_weights(self, embed_tokens: VocabParallelEmbedding) -> nn.Module:
        """Share the embedding's weight; returns the head to keep."""
        return self.quant_method.tie_weights(self, embed_tokens)

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("LMHead's weights should be used in the sampler.")
