"""Layers alone: arithmetic, casts, sharded loading and the sum over ranks."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from porter.gap import CannotRun
from porter.runtime.distributed import Groups, get_pp_indices
from porter.runtime.layers.activation import get_act_and_mul_fn, get_act_fn
from porter.runtime.layers.attention import Attention
from porter.runtime.layers.layernorm import GemmaRMSNorm, LayerNorm, RMSNorm
from porter.runtime.layers.linear import (
    ColumnParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from porter.runtime.layers.logits_processor import LogitsProcessor
from porter.runtime.layers.quantization import QuantizationConfig
from porter.runtime.layers.stacked_linear import (
    MergedColumnParallelLinear,
    QKVParallelLinear,
)
from porter.runtime.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from porter.runtime.model_loader import (
    composed_weight_loader,
    default_weight_loader,
    row_parallel_weight_loader,
    sharded_weight_loader,
)
from porter.runtime.models.stages import extract_layer_index, make_layers
from porter.runtime.models.weights import AutoWeightsLoader, WeightsMapper
from porter.runtime.parameter import set_weight_attrs
from tests.runtime.conftest import as_rank, current_config

X = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape)))


def on_ranks(size: int, build: Callable[[], Any]) -> list[Any]:
    layers = []
    for rank in range(size):
        with as_rank(rank, size), current_config():
            layers.append(build())
    return layers


@pytest.mark.parametrize("size", [1, 2, 4])
def test_column_parallel(size: int) -> None:
    weight, bias = rand(8, 12), rand(8)
    parts = []
    for layer in on_ranks(size, lambda: ColumnParallelLinear(12, 8)):
        layer.weight.weight_loader(layer.weight, weight)
        layer.bias.weight_loader(layer.bias, bias)
        output, no_bias = layer(X)
        assert no_bias is None
        parts.append(output)
    torch.testing.assert_close(torch.cat(parts, -1), F.linear(X, weight, bias))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_row_parallel_adds_its_bias_once(size: int) -> None:
    weight, bias = rand(8, 12), rand(8)
    total = torch.zeros(5, 8)
    for rank in range(size):
        with as_rank(rank, size):
            layer: Any = RowParallelLinear(12, 8, input_is_parallel=False)
        layer.reduce_results = False  # the sum over ranks is made here
        layer.weight.weight_loader(layer.weight, weight)
        layer.bias.weight_loader(layer.bias, bias)
        total += layer(X)[0]
    torch.testing.assert_close(total, F.linear(X, weight, bias))


def test_row_parallel_without_reduction_refuses_a_bias() -> None:
    with pytest.raises(ValueError, match="bias"):
        RowParallelLinear(12, 8, reduce_results=False)
    RowParallelLinear(12, 8, bias=False, reduce_results=False)
    RowParallelLinear(12, 8, skip_bias_add=True, reduce_results=False)


@pytest.mark.parametrize(
    "cls", [ReplicatedLinear, ColumnParallelLinear, RowParallelLinear]
)
def test_what_a_linear_layer_returns(cls: Any) -> None:
    weight, bias = rand(8, 12), rand(8)

    def make(**options: Any) -> Any:
        layer = cls(12, 8, prefix="here", **options)
        assert layer.prefix == "here"
        layer.weight.weight_loader(layer.weight, weight)
        if layer.bias is not None:
            layer.bias.weight_loader(layer.bias, bias)
        return layer

    plain, full = F.linear(X, weight), F.linear(X, weight, bias)
    assert torch.equal(make(return_bias=False)(X), full)
    output, none = make()(X)
    assert torch.equal(output, full) and none is None
    output, given = make(skip_bias_add=True)(X)
    assert torch.equal(output, plain) and torch.equal(given, bias)
    assert torch.equal(make(bias=False, return_bias=False)(X), plain)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("how", ["apart", "fused", "first two fused"])
def test_merged_columns(how: str, size: int) -> None:
    sizes = [4, 8, 2]
    weights = [rand(n, 12) for n in sizes]
    parts: list[list[torch.Tensor]] = []
    for layer in on_ranks(
        size, lambda: MergedColumnParallelLinear(12, sizes, bias=False)
    ):
        load = layer.weight.weight_loader
        if how == "fused":
            load(layer.weight, torch.cat(weights))
        elif how == "apart":
            for i in (2, 0, 1):
                load(layer.weight, weights[i], i)
        else:
            load(layer.weight, torch.cat(weights[:2]), (0, 1))
            load(layer.weight, weights[2], 2)
        parts.append(list(layer(X)[0].split([n // size for n in sizes], -1)))
    for i, weight in enumerate(weights):
        joined = torch.cat([p[i] for p in parts], -1)
        torch.testing.assert_close(joined, F.linear(X, weight))


@pytest.mark.parametrize("shard_id", [3, -1, (0, 2), (1, 0)])
def test_merged_columns_refuse_a_wrong_shard(shard_id: Any) -> None:
    layer: Any = MergedColumnParallelLinear(12, [4, 8, 2], bias=False)
    with pytest.raises(ValueError, match="[Ss]hard id"):
        layer.weight.weight_loader(layer.weight, rand(4, 12), shard_id)


@pytest.mark.parametrize(("size", "kv_heads"), [(1, 2), (2, 2), (4, 2), (4, 1), (2, 4)])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("v_size", [None, 5])
def test_qkv(size: int, kv_heads: int, fused: bool, v_size: int | None) -> None:
    """Each kv head is on size / kv_heads ranks where there are fewer heads."""
    wide = v_size or 3
    shapes = {"q": (4, 3), "k": (kv_heads, 3), "v": (kv_heads, wide)}
    weights = {n: rand(heads * d, 12) for n, (heads, d) in shapes.items()}
    whole = {n: F.linear(X, w).unflatten(-1, shapes[n]) for n, w in weights.items()}
    layers = on_ranks(
        size,
        lambda: QKVParallelLinear(12, 3, 4, kv_heads, bias=False, v_head_size=v_size),
    )
    for rank, layer in enumerate(layers):
        load = layer.weight.weight_loader
        if fused:
            load(layer.weight, torch.cat(list(weights.values())))
        else:
            for name, weight in weights.items():
                load(layer.weight, weight, name)
        heads, kv = layer.num_heads, layer.num_kv_heads
        q, k, v = layer(X)[0].split([heads * 3, kv * 3, kv * wide], -1)
        expected = whole["q"][:, rank * heads : (rank + 1) * heads].flatten(1)
        torch.testing.assert_close(q, expected)
        first = rank * kv_heads // size
        for part, name in ((k, "k"), (v, "v")):
            expected = whole[name][:, first : first + kv].flatten(1)
            torch.testing.assert_close(part, expected)


def test_sizes_that_do_not_divide() -> None:
    with as_rank(0, 3):
        for build in (
            lambda: ColumnParallelLinear(12, 8),
            lambda: RowParallelLinear(8, 12),
            lambda: MergedColumnParallelLinear(12, [6, 8]),
            lambda: QKVParallelLinear(12, 4, 6, 2),
        ):
            with pytest.raises(AssertionError, match="not divisible by"):
                build()


def test_a_quantized_layer_cannot_run() -> None:
    with pytest.raises(CannotRun, match=r"layer model\.up is quantized"):
        ReplicatedLinear(2, 2, quant_config=QuantizationConfig(), prefix="model.up")


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("vocab", [100, 128, 131])
def test_embedding_and_head_over_ranks(vocab: int, size: int) -> None:
    table, bias = rand(vocab, 12), rand(vocab)
    ids = torch.arange(vocab)
    rows = torch.zeros(vocab, 12)
    logits = []
    for rank in range(size):
        with as_rank(rank, size):
            embedding: Any = VocabParallelEmbedding(vocab, 12, reduce_results=False)
            head: Any = ParallelLMHead(vocab, 12, bias=True)
        embedding.weight.weight_loader(embedding.weight, table)
        head.bias.weight_loader(head.bias, bias)
        assert head.tie_weights(embedding).weight is embedding.weight
        rows += embedding(ids)
        logits.append(head.quant_method.apply(head, X, head.bias))
    assert torch.equal(rows, table)
    whole = torch.cat(logits, -1)
    assert whole.shape[-1] % 64 == 0 and not whole[:, vocab:].any()
    torch.testing.assert_close(whole[:, :vocab], F.linear(X, table, bias))


def test_logits_are_capped_before_they_are_scaled() -> None:
    with current_config():
        head: Any = ParallelLMHead(10, 12)
        processor = LogitsProcessor(10, scale=0.5, soft_cap=2.0)
    head.weight.weight_loader(head.weight, rand(10, 12))
    expected = torch.tanh(F.linear(X, rand(10, 12)) / 2.0) * 2.0 * 0.5
    torch.testing.assert_close(processor(head, X), expected)
    with pytest.raises(RuntimeError):
        head(X)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norms(dtype: torch.dtype) -> None:
    x, residual, weight = X.to(dtype), (X * 3).to(dtype), rand(12).to(dtype)
    plain, ours = RMSNorm(12, 1e-3, dtype=dtype), GemmaRMSNorm(12, 1e-3).to(dtype)
    plain.weight.data.copy_(weight)
    ours.weight.data.copy_(weight)

    def normalised(y: torch.Tensor) -> torch.Tensor:
        y = y.float()
        return y / (y.pow(2).mean(-1, keepdim=True) + 1e-3).sqrt()

    # RMSNorm casts before the product with the weight, the other one after it.
    total = x.float() + residual.float()
    tolerance = {"rtol": 1e-6, "atol": 1e-6}
    if dtype is torch.bfloat16:
        tolerance = {"rtol": 0.01, "atol": 0.0}
    for layer, scale in (
        (plain, lambda n: n.to(dtype) * weight),
        (ours, lambda n: (n * (1.0 + weight.float())).to(dtype)),
    ):
        torch.testing.assert_close(layer(x), scale(normalised(x)), **tolerance)
        given = x.clone(), residual.clone()
        normed, summed = layer(*given)
        assert normed is given[0] and summed is given[1]  # as vLLM's kernel writes them
        assert torch.equal(summed, total.to(dtype))
        torch.testing.assert_close(normed, scale(normalised(total)), **tolerance)


def test_rms_norm_over_part_and_without_weight() -> None:
    norm = RMSNorm(12, 1e-3, var_hidden_size=4, has_weight=False)
    assert not list(norm.parameters())
    expected = X / (X[:, :4].pow(2).mean(-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(norm(X), expected)


def test_layer_norm_takes_the_wider_dtype() -> None:
    norm: Any = LayerNorm(12, 1e-3, dtype=torch.float32)
    norm.weight.data.copy_(rand(12))
    got = norm(X.bfloat16())
    assert got.dtype == torch.bfloat16
    expected = F.layer_norm(
        X.bfloat16().float(), (12,), rand(12), torch.zeros(12), 1e-3
    )
    assert torch.equal(got, expected.bfloat16())
    bare: Any = LayerNorm(12, elementwise_affine=False)
    assert bare.weight is None and bare.bias is None
    assert LayerNorm(12, bias=False).bias is None


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "SiLU": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "torch.nn.modules.linear.Identity": lambda x: x,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    if "Identity" in name:
        name = name.lower()
    expected = ACTIVATIONS.get(name, lambda x: x)(X)
    torch.testing.assert_close(get_act_fn(name)(X), expected)


@pytest.mark.parametrize(
    "name", ["gelu", "gelu_pytorch_tanh", "silu", "swish", "geglu"]
)
def test_gated_activations_have_the_gate_first(name: str) -> None:
    plain = ACTIVATIONS.get(name, F.gelu) if name != "silu" else F.silu
    expected = plain(X[:, :6]) * X[:, 6:]
    torch.testing.assert_close(get_act_and_mul_fn(name)(X), expected)


@pytest.mark.parametrize("get", [get_act_fn, get_act_and_mul_fn])
def test_unknown_activation(get: Any) -> None:
    with pytest.raises(ValueError, match="'softplus' is not supported"):
        get("softplus")


def test_duplicate_attention_names() -> None:
    with current_config():
        Attention(2, 8, 1.0, prefix="a.attn")
        with pytest.raises(ValueError, match=r"Duplicate layer name: a\.attn"):
            Attention(2, 8, 1.0, prefix="a.attn")
        with pytest.raises(CannotRun, match="encoder_only"):
            Attention(2, 8, 1.0, prefix="b.attn", attn_type="encoder_only")
        with pytest.raises(ValueError, match="not an earlier Attention layer"):
            Attention(2, 8, 1.0, prefix="c", kv_sharing_target_layer_name="z")


def test_mapper_applies_its_rules_in_vllms_order() -> None:
    mapper = WeightsMapper(
        orig_to_new_substr={".b.": ".c.", ".drop.": None},
        orig_to_new_stacked={".q": (".qkv", "q"), ".k": (".qkv", "k")},
        orig_to_new_prefix={"a.": "model.a.", "gone": None},
        orig_to_new_suffix={".gamma": ".weight"},
    )
    assert mapper.map_name("a.b.q.gamma") == "model.a.c.qkv.weight"
    assert mapper.map_name("a.drop.q") is None
    assert mapper.map_name("gone.away") is None
    weights = mapper.apply([("x.q.weight", torch.ones(1)), ("y", torch.ones(1))])
    named: list[Any] = list(weights)
    assert [name for name, _ in named] == ["x.qkv.weight", "y"]
    assert named[0][1].shard_id == "q" and not hasattr(named[1][1], "shard_id")
    merged = mapper | WeightsMapper(orig_to_new_prefix={"a.": "b."})
    assert merged.map_name("a.x") == "b.x"
    assert mapper.apply_list(["y", "gone"]) == ["y"]
    assert mapper.apply_dict({"y": 1, "gone": 2}) == {"y": 1}


def test_one_tensor_into_two_shards() -> None:
    mapper = WeightsMapper(orig_to_new_stacked={".w": (".ww", [0, 1])})
    both: list[Any] = list(mapper.apply([("a.w", torch.ones(2))]))
    assert [(n, t.shard_id) for n, t in both] == [("a.ww", 0), ("a.ww", 1)]


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2, bias=False)

    def load_weights(self, weights: Any) -> set[str]:
        return AutoWeightsLoader(self).load_weights(
            (name.replace("other", "inner"), w * 2) for name, w in weights
        )


def test_a_submodule_may_load_itself() -> None:
    model = nn.ModuleDict({"own": Own(), "plain": nn.Linear(2, 2)})
    weights = {
        "own.other.weight": torch.ones(2, 2),
        "plain.weight": torch.ones(2, 2),
        "plain.bias": torch.ones(2),
    }
    loaded = AutoWeightsLoader(model).load_weights(weights.items())
    assert loaded == {"own.inner.weight", "plain.weight", "plain.bias"}
    assert torch.equal(model.get_parameter("own.inner.weight"), torch.full((2, 2), 2.0))
    with pytest.raises(ValueError, match="no module or parameter named 'plain.scale'"):
        AutoWeightsLoader(model).load_weights([("plain.scale", torch.ones(2))])
    lenient = AutoWeightsLoader(model, ignore_unexpected_suffixes=[".scale"])
    assert lenient.load_weights([("plain.scale", torch.ones(2))]) == set()


def test_weight_loaders_of_ports() -> None:
    whole = rand(4, 6)
    with as_rank(1, 2):
        for loader, shape, expected in (
            (default_weight_loader, (4, 6), whole),
            (row_parallel_weight_loader, (2, 6), whole[2:]),
            (sharded_weight_loader(1), (4, 3), whole[:, 3:]),
            (composed_weight_loader(sharded_weight_loader(0), torch.exp), (2, 6),
             whole[2:].exp()),
        ):  # fmt: skip
            param = nn.Parameter(torch.empty(shape))
            set_weight_attrs(param, {"weight_loader": loader})
            param.weight_loader(param, whole)
            assert torch.equal(param, expected)
    with pytest.raises(AssertionError, match="shape"):
        default_weight_loader(torch.empty(3), torch.empty(4))
    with pytest.raises(AssertionError, match="Overwriting"):
        set_weight_attrs(param, {"weight_loader": default_weight_loader})


@pytest.mark.parametrize(
    ("layers", "stages", "sizes"),
    [(4, 2, [2, 2]), (5, 2, [3, 2]), (7, 4, [1, 2, 2, 2]), (6, 4, [1, 2, 2, 1])],
)
def test_layers_of_pipeline_stages(layers: int, stages: int, sizes: list[int]) -> None:
    ranges = [get_pp_indices(layers, rank, stages) for rank in range(stages)]
    assert sum(sizes) == layers
    assert sorted(end - start for start, end in ranges) == sorted(sizes)
    assert [r[0] for r in ranges[1:]] == [r[1] for r in ranges[:-1]]
    assert ranges[-1][1] == layers


def test_make_layers_alone_has_all() -> None:
    assert Groups().pp.world_size == 1
    names: list[str] = []

    def layer(prefix: str) -> nn.Module:
        names.append(prefix)
        return nn.Identity()

    assert make_layers(3, layer, prefix="m.layers")[:2] == (0, 3)
    assert names == ["m.layers.0", "m.layers.1", "m.layers.2"]
    assert extract_layer_index("m.layers.2.attn") == 2
    with pytest.raises(AssertionError, match="only contain one integer"):
        extract_layer_index("m.0.layers.2")


def test_an_rms_norm_of_another_size() -> None:
    """As vLLM: without a weight nothing else would stop a norm over all heads at once."""
    with pytest.raises(ValueError, match="Expected hidden_size to be 8, but found: 32"):
        RMSNorm(8, has_weight=False)(torch.ones(3, 32))
