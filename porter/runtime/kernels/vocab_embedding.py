"""Rows of a vocabulary's table of which this rank has a part."""

import torch
import torch.nn.functional as F

from porter.runtime.kernels.dispatch import gpu_version


@gpu_version("vocab_embedding:vocab_embedding")
def vocab_embedding(
    token_ids: torch.Tensor, weight: torch.Tensor, first_row: int, num_rows: int
) -> torch.Tensor:
    """[..., embedding_dim]; zero for tokens whose row is on another rank.

    token_ids: [...] int64. weight: [at least num_rows, embedding_dim], whose rows are
    those of tokens first_row to first_row + num_rows.
    """
    local = token_ids - first_row
    elsewhere = (local < 0) | (local >= num_rows)
    rows = F.embedding(local.masked_fill(elsewhere, 0), weight)
    return rows.masked_fill(elsewhere.unsqueeze(-1), 0)
