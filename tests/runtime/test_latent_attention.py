"""Attention over a cache of latents against the multi-head form of the same weights."""

import itertools
from typing import Any

import pytest
import torch

from porter.gap import CannotRun
from porter.runtime.forward_context import AttentionMetadata, set_forward_context
from porter.runtime.layers.attention import Attention
from porter.runtime.layers.latent_attention import MLAAttention
from porter.runtime.layers.linear import ColumnParallelLinear
from tests.runtime.conftest import as_rank, current_config

BLOCK, BLOCKS = 4, 12
HEADS, NOPE, ROPE, VALUE, RANK = 4, 6, 4, 10, 12
SIZES: dict[str, Any] = {
    "qk_nope_head_dim": NOPE,
    "qk_rope_head_dim": ROPE,
    "v_head_dim": VALUE,
    "kv_lora_rank": RANK,
    "q_lora_rank": None,
}
WEIGHT = torch.randn(
    HEADS * (NOPE + VALUE), RANK, generator=torch.Generator().manual_seed(1)
)


def metadata(lengths: list[tuple[int, int]]) -> AttentionMetadata:
    """lengths: (queries, tokens in all) of each sequence; blocks lie two apart."""
    tables, slots, free = [], [], list(range(0, BLOCKS, 2)) + list(range(1, BLOCKS, 2))
    for count, length in lengths:
        blocks = [free.pop(0) for _ in range(-(-length // BLOCK))]
        tables.append(blocks)
        slots += [
            blocks[i // BLOCK] * BLOCK + i % BLOCK
            for i in range(length - count, length)
        ]
    width = max(map(len, tables))
    return AttentionMetadata(
        query_start=[0, *itertools.accumulate(count for count, _ in lengths)],
        seq_lens=[length for _, length in lengths],
        num_decodes=sum(count == 1 for count, _ in lengths),
        block_tables=torch.tensor([t + [0] * (width - len(t)) for t in tables]),
        first_slots=[-1] * len(lengths),
        slot_mapping=torch.tensor(slots),
    )


def layers(heads: int) -> tuple[ColumnParallelLinear, MLAAttention, Attention]:
    with current_config():
        up = ColumnParallelLinear(RANK, HEADS * (NOPE + VALUE), bias=False)
        up.weight_loader(up.weight, WEIGHT)
        latent = MLAAttention(heads, 0.3, kv_b_proj=up, prefix="0.attn", **SIZES)
        plain = Attention(heads, NOPE + ROPE, 0.3, head_size_v=VALUE, prefix="1.attn")
    latent.process_weights_after_loading()
    for layer in (latent, plain):
        shape = (BLOCKS, BLOCK, layer.num_kv_heads)
        layer.bind_kv_cache(*(torch.zeros(*shape, n) for n in layer.cache_sizes))
    return up, latent, plain


def steps() -> list[list[tuple[int, int]]]:
    """Two prefills, then a decode beside a chunk, then two decodes."""
    return [[(5, 5), (3, 3)], [(1, 6), (4, 7)], [(1, 7), (1, 8)]]


def both_forms(heads: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    up, latent, plain = layers(heads)
    out = []
    torch.manual_seed(0)
    for lengths in steps():
        tokens = sum(count for count, _ in lengths)
        q = torch.randn(tokens, HEADS, NOPE + ROPE)[:, :heads]
        c, rope = torch.randn(tokens, RANK), torch.randn(tokens, 1, ROPE)
        key, value = up(c)[0].unflatten(-1, (heads, -1)).split([NOPE, VALUE], dim=-1)
        key = torch.cat((key, rope.expand(-1, heads, -1)), dim=-1)
        with set_forward_context(metadata(lengths)):
            out.append((latent(q, c, rope), plain(q, key, value)))
    return out


def test_both_forms_are_equal() -> None:
    for latent, plain in both_forms(HEADS):
        assert latent.shape == plain.shape
        assert torch.allclose(latent, plain, atol=1e-5)


def test_a_rank_has_its_heads_and_the_whole_latent() -> None:
    with as_rank(1, 2):
        for latent, plain in both_forms(HEADS // 2):
            assert torch.allclose(latent, plain, atol=1e-5)


def test_a_token_takes_the_latent_and_the_rotated_part_alone() -> None:
    _, latent, plain = layers(HEADS)
    assert latent.num_kv_heads * sum(latent.cache_sizes) == RANK + ROPE
    assert plain.num_kv_heads * sum(plain.cache_sizes) == HEADS * (NOPE + ROPE + VALUE)
    assert latent.value_cache.data_ptr() == latent.key_cache.data_ptr()


@pytest.mark.parametrize(
    "option", [{"use_sparse": True}, {"sliding_window": 5}, {"mystery": 1}]
)
def test_what_it_has_not_is_said(option: dict[str, Any]) -> None:
    with current_config(), pytest.raises(CannotRun, match=next(iter(option))):
        up = ColumnParallelLinear(RANK, HEADS * (NOPE + VALUE), bias=False)
        MLAAttention(HEADS, 0.3, kv_b_proj=up, prefix="attn", **SIZES, **option)


def test_a_second_layer_of_a_name() -> None:
    with current_config(), pytest.raises(ValueError, match="Duplicate layer name"):
        up = ColumnParallelLinear(RANK, HEADS * (NOPE + VALUE), bias=False)
        for _ in range(2):
            MLAAttention(HEADS, 0.3, kv_b_proj=up, prefix="attn", **SIZES)
