"""vLLM 0.7's contract on the bundled runtime: the names a 0.7 port imports, and an engine
that passes the caches and the metadata through forward as 0.7 does.

For tests alone: it shows that a 0.7 port computes what the model computes, given what the
release's signatures say (those are checked against the release itself).
"""

from typing import Any, NamedTuple

import pytest
import torch

from porter.profiles import profile_of
from porter.runtime import releases, surface
from porter.runtime.distributed import get_pp_group
from porter.runtime.layers.attention import Attention
from porter.runtime.layers.logits_processor import LogitsProcessor as NewerProcessor
from porter.runtime.layers.rotary_embedding import get_rope as newer_rope
from porter.runtime.surface import SURFACE

# What the engine gives each port's class to pass on; attention asserts that it got it.
CACHES = [object() for _ in range(64)]
METADATA, SAMPLING = object(), object()


class AttentionMetadata: ...


class SamplingMetadata: ...


class SamplerOutput(NamedTuple):
    logits: torch.Tensor


class PassedAttention(Attention):
    """Takes its layer's cache and the metadata, and says which it was given."""

    given: list[Any] = []

    def forward(self, query, key, value, kv_cache, attn_metadata):  # type: ignore[override]
        assert attn_metadata is METADATA
        self.given.append((self.layer_name, kv_cache))
        return super().forward(query, key, value)


def get_rope(
    head_size: int,
    rotary_dim: int,
    max_position: int,
    base: int,
    is_neox_style: bool = True,
    rope_scaling: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    partial_rotary_factor: float = 1.0,
) -> Any:
    assert rotary_dim == head_size
    parameters = {
        **(rope_scaling or {"rope_type": "default"}),
        "rope_theta": base,
        "partial_rotary_factor": partial_rotary_factor,
    }
    return newer_rope(head_size, max_position, is_neox_style, parameters, dtype)


class LogitsProcessor(NewerProcessor):
    def forward(  # type: ignore[override]
        self, lm_head, hidden_states, sampling_metadata=None, embedding_bias=None
    ):
        assert sampling_metadata is SAMPLING
        return super().forward(lm_head, hidden_states, embedding_bias)


def _sampler() -> Any:
    return lambda logits, sampling_metadata: SamplerOutput(logits)


def _remap(name: str, params_dict: dict[str, Any]) -> str | None:
    return name if name in params_dict else None


_LAYERS = "vllm.model_executor.layers"
_OWN: dict[str, dict[str, Any]] = {
    "vllm.attention": {
        "Attention": PassedAttention, "AttentionMetadata": AttentionMetadata,
    },
    f"{_LAYERS}.rotary_embedding": {"get_rope": get_rope},
    f"{_LAYERS}.logits_processor": {"LogitsProcessor": LogitsProcessor},
    f"{_LAYERS}.sampler": {"get_sampler": _sampler, "SamplerOutput": SamplerOutput},
    "vllm.model_executor.sampling_metadata": {"SamplingMetadata": SamplingMetadata},
    "vllm.model_executor.model_loader.weight_utils": {"maybe_remap_kv_scale_name": _remap},
}  # fmt: skip


def as_0_7_calls_it(cls: Any) -> Any:
    """The class for the bundled engine, called in turn as 0.7's engine calls it."""

    class Called(cls):
        def forward(self, input_ids, positions, received=None, inputs_embeds=None):
            return super().forward(
                input_ids, positions, CACHES, METADATA, received, inputs_embeds
            )

        def compute_logits(self, hidden_states):
            logits = super().compute_logits(hidden_states, SAMPLING)
            return self.sample(logits, SAMPLING).logits

    Called.__name__, Called.__module__ = cls.__name__, cls.__module__
    return Called


def own_names() -> dict[str, dict[str, Any]]:
    """module -> name -> what a 0.7 port finds there; only names that 0.7 has."""
    out: dict[str, dict[str, Any]] = {}
    for module, names in profile_of("0.7").imports.items():
        have = {**SURFACE.get(module, {}), **_OWN.get(module, {})}
        out[module] = {name: have[name] for name in names}
    return out


def install(monkeypatch: pytest.MonkeyPatch, text: str, name: str) -> str:
    """The text of a 0.7 port as a file that the bundled runtime can run in this test."""
    modules = {path: surface._SurfaceModule(path) for path in own_names()}
    for path, names in own_names().items():
        vars(modules[path]).update(names)
    monkeypatch.setitem(surface._MODULES, "0.7", modules)
    monkeypatch.setitem(releases.DIFFERENT, "0.7", {})
    PassedAttention.given.clear()
    original = surface.port_builtins

    def port_builtins(release: str) -> dict[str, Any]:
        return {**original(release), "as_0_7_calls_it": as_0_7_calls_it}

    monkeypatch.setattr("porter.runtime.port.port_builtins", port_builtins)
    assert get_pp_group().world_size == 1
    return f"{text}\n\n{name} = as_0_7_calls_it({name})\n"
