"""From hidden states to logits."""

import torch
import torch.nn.functional as F
from torch import nn

from porter.runtime.config import get_current_vllm_config
from porter.runtime.distributed import tensor_model_parallel_all_gather
from porter.runtime.layers.vocab_parallel_embedding import VocabParallelEmbedding


class LogitsProcessor(nn.Module):
    """Project, gather over the ranks, drop the padding, cap, then scale.

    vocab_size: as the config says. org_vocab_size: logits kept, vocab_size by default.
    soft_cap: c in c * tanh(logit / c), applied before the scale.
    """

    def __init__(
        self,
        vocab_size: int,
        org_vocab_size: int | None = None,
        scale: float = 1.0,
        logits_as_input: bool = False,
        soft_cap: float | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.org_vocab_size = org_vocab_size or vocab_size
        self.scale = scale
        self.logits_as_input = logits_as_input
        self.soft_cap = soft_cap
        self.head_dtype = get_current_vllm_config().model_config.head_dtype

    def forward(
        self,
        lm_head: VocabParallelEmbedding,
        hidden_states: torch.Tensor,
        embedding_bias: torch.Tensor | None = None,
        skip_gather: bool = False,
    ) -> torch.Tensor:
        """[num_tokens, org_vocab_size] from hidden_states [num_tokens, hidden]."""
        logits = hidden_states
        if not self.logits_as_input:
            logits = self._project(lm_head, hidden_states, embedding_bias)
            if not skip_gather:
                if lm_head.tp_size > 1:
                    logits = tensor_model_parallel_all_gather(logits)
                logits = logits[..., : self.org_vocab_size]
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits

    def _project(
        self,
        lm_head: VocabParallelEmbedding,
        hidden_states: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        if self.head_dtype == hidden_states.dtype:
            return lm_head.quant_method.apply(lm_head, hidden_states, bias=bias)
        return F.linear(
            hidden_states.to(self.head_dtype),
            lm_head.weight.to(self.head_dtype),
            None if bias is None else bias.to(self.head_dtype),
        )

    def extra_repr(self) -> str:
        return f"vocab_size={self.vocab_size}, scale={self.scale}"
