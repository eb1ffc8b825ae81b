"""Head norms, rotation and the cache's write in one launch, where a port's flow allows it.

vLLM does it to the graph of a compiled model (its fuse_qk_norm_rope_kvcache pass). Here the
forward of a module that has rope and attention is traced by torch.fx, and

    q, k = rotary_emb(positions, q_norm(q), k_norm(k))
    output = attn(q, k, v)

becomes `rotate_and_store` and attention over what is stored, where nobody else looks at
the rotated keys. The norms are optional. A forward that can't be traced, or computes
something else, stays as the port has it.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from porter.runtime.forward_context import get_forward_context
from porter.runtime.kernels.rotate_and_store import HeadNorm, rotate_and_store
from porter.runtime.layers.attention import Attention
from porter.runtime.layers.layernorm import GemmaRMSNorm, RMSNorm
from porter.runtime.layers.rotary_embedding import RotaryEmbedding
from porter.runtime.traced_forward import called_module, trace

# They change no element and no order of elements.
_RESHAPES = {"view", "reshape", "flatten", "unflatten", "contiguous"}


def fuse_qk_norm_rope_kvcache(model: nn.Module) -> int:
    """Change the forwards of the model's attention modules; how many attentions it was.

    The weights must be loaded, and not change afterwards.
    """
    return sum(_fuse(module) for module in list(model.modules()))


def _fuse(module: nn.Module) -> int:
    children = list(module.children())
    if not any(map(_rotates, children)) or not any(map(_attends, children)):
        return 0
    traced = trace(module)
    if traced is None:
        return 0
    fusions = [f for node in traced.graph.nodes if (f := _find(traced, node))]
    for fusion in fusions:
        _replace(traced, fusion)
    if fusions:
        traced.graph.lint()
        traced.recompile()
        module.forward = _guarded(module, traced)
    return len(fusions)


def _rotates(module: nn.Module) -> bool:
    return type(module).forward is RotaryEmbedding.forward


def _attends(module: nn.Module) -> bool:
    return type(module) is Attention and module.kv_sharing_target_layer_name is None


@dataclass
class _Fusion:
    """One rope and the attention that takes its keys. replaced: nodes that are gone then,
    in the order of the graph."""

    attn_node: fx.Node
    rope_node: fx.Node
    attn: Attention
    rope: RotaryEmbedding
    rotated_query: fx.Node
    query: fx.Node
    key: fx.Node
    value: fx.Node
    query_norm: HeadNorm | None = None
    key_norm: HeadNorm | None = None
    replaced: list[fx.Node] = field(default_factory=list)


def _find(traced: fx.GraphModule, node: fx.Node) -> _Fusion | None:
    """What can be fused around this node, when it is an attention."""
    attn = called_module(traced, node)
    if attn is None or not _attends(attn) or len(node.args) != 3 or node.kwargs:
        return None
    taken = [*_chain(node.args[1])]
    if not taken or not isinstance(node.args[2], fx.Node):
        return None
    key_item = taken.pop()
    if _index(key_item) != 1 or any(len(n.users) != 1 for n in (*taken, key_item)):
        return None
    rope_node = key_item.args[0]
    rope = called_module(traced, rope_node)
    if rope is None or not _rotates(rope) or len(rope_node.args) != 3:
        return None
    items = {_index(user): user for user in rope_node.users}
    if len(rope_node.users) != 2 or set(items) != {0, 1} or rope_node.kwargs:
        return None
    if rope.head_size != attn.head_size:
        return None
    _, query, key = rope_node.args
    fusion = _Fusion(
        node, rope_node, attn, rope, items[0], query, key, node.args[2],
        replaced=[rope_node, items[0], key_item, *reversed(taken)],
    )  # fmt: skip
    if _only_attended(items[0], node):
        fusion.query, fusion.query_norm = _without_norm(traced, fusion, query)
    fusion.key, fusion.key_norm = _without_norm(traced, fusion, key)
    place = _last(fusion.rope_node, fusion.value)
    before = _before(place)
    return None if any(user in before for user in items[0].users) else fusion


def _chain(node: Any) -> Iterator[fx.Node]:
    """From a reshaped tensor back to where its elements come from."""
    while isinstance(node, fx.Node):
        yield node
        if node.op != "call_method" or node.target not in _RESHAPES:
            return
        node = node.args[0]


def _index(node: Any) -> int | None:
    """Which part of another node's result the node takes."""
    if node.op == "call_function" and node.target is operator.getitem:
        return node.args[1]
    return None


def _only_attended(query: fx.Node, attn_node: fx.Node) -> bool:
    """Whether the query goes to attention in whatever shape, and nowhere else."""
    chain = [*_chain(attn_node.args[0])]
    return chain[-1] is query and all(len(node.users) == 1 for node in chain)


def _without_norm(
    traced: fx.GraphModule, fusion: _Fusion, node: fx.Node
) -> tuple[fx.Node, HeadNorm | None]:
    """What is normed head by head before the rotation, and by what."""
    chain = [*_chain(node)]
    norm_node = chain[-1]
    norm = _head_norm(called_module(traced, norm_node), fusion.attn.head_size)
    single = all(len(link.users) == 1 for link in chain)
    if norm is None or not single or len(norm_node.args) != 1 or norm_node.kwargs:
        return node, None
    fusion.replaced = [*reversed(chain), *fusion.replaced]
    return norm_node.args[0], norm


def _head_norm(module: Any, head_size: int) -> HeadNorm | None:
    if type(module) is RMSNorm:
        weight = module.weight.data if module.has_weight else None
        whole = module.variance_size_override is None
        norm = HeadNorm(weight, module.variance_epsilon) if whole else None
        return norm if module.hidden_size == head_size else None
    if type(module) is GemmaRMSNorm and len(module.weight) == head_size:
        return HeadNorm(module.weight.data.float() + 1.0, module.variance_epsilon)
    return None


def _before(node: fx.Node) -> set[fx.Node]:
    """The nodes up to this one, itself included."""
    nodes = list(node.graph.nodes)
    return set(nodes[: nodes.index(node) + 1])


def _last(*nodes: fx.Node) -> fx.Node:
    order = list(nodes[0].graph.nodes)
    return max(nodes, key=order.index)


class _RotateAndStore(nn.Module):
    def __init__(self, fusion: _Fusion) -> None:
        super().__init__()
        self.attn, self.rope = fusion.attn, fusion.rope
        self.norms = fusion.query_norm, fusion.key_norm

    def forward(
        self,
        positions: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        for x, norm in zip((query, key), self.norms, strict=True):
            assert norm is None or x.shape[-1] == self.attn.head_size
        return rotate_and_store(
            positions,
            query,
            key,
            value,
            self.rope.cos_sin_cache,
            self.rope.is_neox_style,
            self.attn.key_cache,
            self.attn.value_cache,
            get_forward_context().attn_metadata.slot_mapping,
            *self.norms,
        )


class _Attend(nn.Module):
    def __init__(self, attn: Attention) -> None:
        super().__init__()
        self.attn = attn

    def forward(self, query: torch.Tensor) -> torch.Tensor:
        return self.attn.attend(query)


def _replace(traced: fx.GraphModule, fusion: _Fusion) -> None:
    graph = traced.graph
    name = str(fusion.attn_node.target).replace(".", "_")
    traced.add_submodule(f"rotate_for_{name}", _RotateAndStore(fusion))
    traced.add_submodule(f"{name}_over_cache", _Attend(fusion.attn))
    operands = (fusion.rope_node.args[0], fusion.query, fusion.key, fusion.value)
    with graph.inserting_after(_last(fusion.rope_node, fusion.value)):
        rotated = graph.call_module(f"rotate_for_{name}", operands)
    fusion.rotated_query.replace_all_uses_with(rotated)
    with graph.inserting_after(fusion.attn_node):
        attended = graph.call_module(f"{name}_over_cache", (fusion.attn_node.args[0],))
    fusion.attn_node.replace_all_uses_with(attended)
    for node in (fusion.attn_node, *reversed(fusion.replaced)):
        graph.erase_node(node)


def _guarded(module: nn.Module, traced: fx.GraphModule) -> Callable[..., Any]:
    """The traced forward for calls like the one that was traced, all of tensors; the
    module's own for others, and where somebody watches what is inside."""
    written = module.forward
    expected = sum(node.op == "placeholder" for node in traced.graph.nodes)
    inside = [*module.modules()][1:]

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        tensors = all(isinstance(value, torch.Tensor) for value in given)
        watched = any(m._forward_hooks or m._forward_pre_hooks for m in inside)
        if len(given) == expected and tensors and not watched:
            return traced(*args, **kwargs)
        return written(*args, **kwargs)

    return forward
