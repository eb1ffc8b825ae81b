"""Which forwards have rope and the cache's write in one launch, and that it computes what
the port's own forward does."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from porter.runtime.distributed import tensor_model_parallel_all_gather
from porter.runtime.forward_context import AttentionMetadata, set_forward_context
from porter.runtime.layers.attention import Attention
from porter.runtime.layers.layernorm import GemmaRMSNorm, RMSNorm
from porter.runtime.layers.linear import ReplicatedLinear
from porter.runtime.layers.rotary_embedding import RotaryEmbedding
from porter.runtime.layers.stacked_linear import QKVParallelLinear
from porter.runtime.llm import LLM, SamplingParams
from porter.runtime.rope_fusion import fuse_qk_norm_rope_kvcache
from tests.runtime.conftest import current_config
from tests.runtime.reference import PORTS

HIDDEN, HEADS, KV_HEADS, SIZE, TOKENS = 24, 4, 2, 8, 5


class Layer(nn.Module):
    """What an attention module has; subclasses say what it computes."""

    norm: Any = None  # size -> module
    norm_size = SIZE
    rotary_dim, rope_size, is_neox_style = SIZE, SIZE, True

    def __init__(self) -> None:
        super().__init__()
        self.q_size, self.kv_size = HEADS * SIZE, KV_HEADS * SIZE
        self.factor = 2.0
        self.qkv_proj = QKVParallelLinear(HIDDEN, SIZE, HEADS, KV_HEADS, bias=True)
        self.o_proj = ReplicatedLinear(HEADS * SIZE, HIDDEN)
        self.rotary_emb = RotaryEmbedding(
            self.rope_size, self.rotary_dim, 64, 1e4, self.is_neox_style, torch.float32
        )
        self.attn = Attention(HEADS, SIZE, SIZE**-0.5, KV_HEADS, prefix="attn")
        if self.norm is not None:
            self.q_norm = self.norm(self.norm_size)
            self.k_norm = self.norm(self.norm_size)

    def projected(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        qkv, _ = self.qkv_proj(x)
        return qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)

    def normed(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q = self.q_norm(q.unflatten(-1, (-1, SIZE)))
        k = self.k_norm(k.view(-1, KV_HEADS, SIZE))
        return q.flatten(-2), k.reshape(-1, self.kv_size)

    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, q, k)
        return self.o_proj(self.attn(q, k, v))[0]


class Plain(Layer):
    pass


class PartOfAHeadInPairs(Layer):
    rotary_dim, is_neox_style = 4, False


class Normed(Layer):
    norm: Any = RMSNorm

    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.normed(q, k)
        q, k = self.rotary_emb(positions, q, k)
        output, bias = self.o_proj(self.attn(q, k, v))
        return output if bias is None else output + bias


class NormedAsGemma(Normed):
    norm = GemmaRMSNorm


class NormedWithoutWeight(Normed):
    norm = partial(RMSNorm, has_weight=False)


class NormedOverAPart(Normed):
    norm = partial(RMSNorm, var_hidden_size=3)


class NormedOverAllHeads(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.q_norm, self.k_norm = RMSNorm(self.q_size), RMSNorm(self.kv_size)

    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, self.q_norm(q), self.k_norm(k))
        return self.o_proj(self.attn(q, k, v))[0]


class ValuesLast(Normed):
    """Made between the rotation and attention."""

    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, *self.normed(q, k))
        v = v.clamp(-1, 1)
        return self.o_proj(self.attn(q.view(-1, HEADS, SIZE), k, v))[0]


class QueryScaled(Normed):
    """By numbers that lie as the rotation's result does, not as the heads in the norm."""

    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, *self.normed(q, k))
        q = q * torch.arange(HEADS * SIZE).to(q)
        return self.o_proj(self.attn(q, k, v))[0]


class SettledBranch(Plain):
    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, q, k)
        if self.factor > 1:
            q = q * self.factor
        return self.o_proj(self.attn(q, k, v))[0]


class Gathered(Normed):
    """Norms over the heads of all ranks, and what all of them made."""

    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(tensor_model_parallel_all_gather(x.contiguous()))
        q, k = self.rotary_emb(positions, *self.normed(q, k))
        output = tensor_model_parallel_all_gather(self.attn(q, k, v))
        return self.o_proj(output)[0]


FUSED = [Plain, PartOfAHeadInPairs, Normed, NormedAsGemma, NormedWithoutWeight,
         NormedOverAPart, NormedOverAllHeads, ValuesLast, QueryScaled,
         SettledBranch, Gathered]  # fmt: skip


class KeysScaled(Layer):
    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, q, k)
        return self.o_proj(self.attn(q, k * 2, v))[0]


class KeysLookedAt(Layer):
    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, q, k)
        return self.o_proj(self.attn(q, k, v))[0] + k.mean()


class KeysInFront(Layer):
    """As the rotation's first argument, whose heads are the query's otherwise."""

    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        k, q = self.rotary_emb(positions, k, q)
        return self.o_proj(self.attn(q, k, v))[0]


class ValuesOfTheQuery(Layer):
    """They are there only when the query has been rotated."""

    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, q, k)
        return self.o_proj(self.attn(q, k, v + q[:, : self.kv_size]))[0]


class HeadsOfAnotherSize(Layer):
    rope_size = rotary_dim = SIZE // 2


class WrittenOver(Layer):
    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, q, k)
        v.mul_(2)
        return self.o_proj(self.attn(q, k, v))[0]


class AddedInPlace(Layer):
    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        v += 1
        q, k = self.rotary_emb(positions, q, k)
        return self.o_proj(self.attn(q, k, v))[0]


class AsksForTheType(Layer):
    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, q, k)
        if isinstance(q, torch.Tensor):
            q = q * 2
        return self.o_proj(self.attn(q, k, v))[0]


def doubled(q: torch.Tensor) -> torch.Tensor:
    return q * 2 if hasattr(q, "is_quantized") and not torch.is_tensor(None) else q


class AsksInAFunction(Layer):
    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, doubled(q), k)
        return self.o_proj(self.attn(q, k, v))[0]


class AsksInAMethod(Layer):
    def projected(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        qkv, _ = self.qkv_proj(x)
        qkv = qkv * 2 if isinstance(qkv, torch.Tensor) else qkv
        return qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)

    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, q, k)
        return self.o_proj(self.attn(q, k, v))[0]


class Catches(Layer):
    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, q, k)
        try:
            q = q * (2 if q.sum() < 1e9 else 3)
        except:  # noqa: E722
            pass
        return self.o_proj(self.attn(q, k, v))[0]


class Remembers(Layer):
    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        self.factor = self.factor + 1
        q, k = self.rotary_emb(positions, q * self.factor, k)
        return self.o_proj(self.attn(q, k, v))[0]


class LooksAtNumbers(Layer):
    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, q, k)
        if q.shape[0] > 3:
            q = q * 2
        return self.o_proj(self.attn(q, k, v))[0]


KEPT = [KeysScaled, KeysLookedAt, KeysInFront, ValuesOfTheQuery, HeadsOfAnotherSize,
        WrittenOver, AddedInPlace, AsksForTheType, AsksInAFunction, AsksInAMethod,
        Catches, Remembers, LooksAtNumbers]  # fmt: skip


def built(kind: type[Layer]) -> Layer:
    torch.manual_seed(0)
    with current_config():
        layer = kind()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.requires_grad_(False)


def run(layer: Layer, *more: Any) -> list[torch.Tensor]:
    """Output and both caches, after a prefill of one sequence in blocks 1 and 0."""
    caches = [torch.zeros(3, 4, KV_HEADS, SIZE) for _ in "kv"]
    layer.attn.bind_kv_cache(*caches)
    slots = torch.tensor([4, 5, 6, 7, 0])
    metadata = AttentionMetadata(
        [0, TOKENS], [TOKENS], 0, torch.tensor([[1, 0]]), [-1], slots
    )
    x = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))
    with set_forward_context(metadata):
        return [layer(torch.arange(TOKENS), x, *more), *caches]


def not_called(*modules: nn.Module) -> None:
    """From here on a call of them fails."""
    for module in modules:
        module.__dict__["forward"] = None


@pytest.mark.parametrize("kind", FUSED)
def test_a_fused_forward_computes_the_same(kind: type[Layer]) -> None:
    layer = built(kind)
    expected = run(layer)
    assert fuse_qk_norm_rope_kvcache(layer) == 1
    not_called(layer.attn, layer.rotary_emb)
    assert all(map(torch.equal, run(layer), expected))


@pytest.mark.parametrize("kind", [Normed, NormedAsGemma, NormedWithoutWeight])
def test_norms_of_heads_are_fused_too(kind: type[Layer]) -> None:
    layer = built(kind)
    expected = run(layer)
    assert fuse_qk_norm_rope_kvcache(layer) == 1
    not_called(layer.q_norm, layer.k_norm)
    assert all(map(torch.equal, run(layer), expected))


@pytest.mark.parametrize("kind", KEPT)
def test_what_computes_something_else_is_kept(kind: type[Layer]) -> None:
    layer = built(kind)
    assert fuse_qk_norm_rope_kvcache(layer) == 0
    assert "forward" not in vars(layer)
    assert run(layer)[0].isfinite().all()


def test_a_cache_of_another_layer_is_not_written() -> None:
    class Sharing(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Attention(
                HEADS, SIZE, SIZE**-0.5, KV_HEADS, prefix="later",
                kv_sharing_target_layer_name="attn",
            )  # fmt: skip

    assert fuse_qk_norm_rope_kvcache(built(Sharing)) == 0


class Optional(Layer):
    def forward(
        self, positions: torch.Tensor, x: torch.Tensor, gate: torch.Tensor | None = None
    ) -> torch.Tensor:
        q, k, v = self.projected(x)
        q, k = self.rotary_emb(positions, q, k)
        if gate is not None:
            q = q * gate
        return self.o_proj(self.attn(q, k, v))[0]


def test_a_call_unlike_the_traced_one_runs_as_written() -> None:
    layer, gate = built(Optional), torch.tensor(3.0)
    calls = ((gate,), (), (None,))
    expected = [run(layer, *call) for call in calls]
    assert not torch.equal(expected[0][0], expected[1][0])
    assert fuse_qk_norm_rope_kvcache(layer) == 1
    for call, wanted in zip(calls, expected, strict=True):
        assert all(map(torch.equal, run(layer, *call), wanted))


def test_who_watches_a_layer_sees_it_run() -> None:
    layer = built(Normed)
    fuse_qk_norm_rope_kvcache(layer)
    seen: list[str] = []
    handle = layer.k_norm.register_forward_hook(lambda *_: seen.append("k_norm"))
    expected = run(layer)
    handle.remove()
    assert seen == ["k_norm"]
    assert all(map(torch.equal, run(layer), expected)) and seen == ["k_norm"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_engine_fuses_where_it_is_told_to(rope_model: Path, ranks: int) -> None:
    port = PORTS / "rope_decoder.py"
    prompts = [[(7 * i + n) % 131 for i in range(n)] for n in (5, 33, 1, 70)]
    answers = []
    for fuses in (False, True):
        options: dict[str, Any] = {"tensor_parallel_size": ranks, "device": "cpu"}
        with LLM(port, rope_model, fuse_qk_norm_rope_kvcache=fuses, **options) as llm:
            fused = [m for m in llm.model.modules() if "forward" in vars(m)]
            assert bool(fused) == fuses
            made = llm.generate(prompts, SamplingParams(max_tokens=8))
            answers.append([o.token_ids for o in made])
            answers[-1] += [logits.tolist() for logits in llm.prefill_logits(prompts)]
    assert answers[0] == answers[1]
