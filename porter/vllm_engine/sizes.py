"""Tiny configs that vLLM's kernels take: not every head size has one."""

from collections.abc import Mapping
from typing import Any

from porter.gap import CannotRun
from porter.verify.tiny_config import tiny_config

# vLLM's kernel for latents on a CPU is compiled for these two sizes; the others give the
# heads of the multi-head form a size that has a kernel, for keys and values alike.
_LATENT = {
    "kv_lora_rank": 512, "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip


def head_sizes() -> list[int]:
    """The head sizes that the platform's attention supports, empty where it takes any."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return []
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    return list(CPUAttentionBackend.get_supported_head_sizes())


def fitting_sizes(config_class: Any, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides, with heads as large as the next size that has a kernel.

    A config that gives heads a size of their own gets that size changed, another one
    its hidden size. Unchanged where the size fits, or the larger one isn't accepted.
    """
    supported = head_sizes()
    try:
        config = tiny_config(config_class, overrides)
    except CannotRun:
        return dict(overrides)  # told by what makes the checkpoint
    # Of latent attention `head_dim` is the rotated part alone.
    if supported and getattr(config, "kv_lora_rank", None) is not None:
        return {**overrides, **_LATENT, **_follow_latents(config)}
    size = head_size(config)
    larger = [other for other in supported if other >= (size or 0)]
    if size is None or size in supported or not larger:
        return dict(overrides)
    wanted = {"head_dim": min(larger)}
    if not isinstance(getattr(config, "head_dim", None), int):
        wanted = {"hidden_size": min(larger) * config.num_attention_heads}
    renamed = getattr(config_class, "attribute_map", {})
    changed = {renamed.get(name, name): value for name, value in wanted.items()}
    try:
        fits = (
            head_size(tiny_config(config_class, {**overrides, **changed})) in supported
        )
    except CannotRun:
        fits = False
    return {**overrides, **changed} if fits else dict(overrides)


def _follow_latents(config: Any) -> dict[str, int]:
    """Sizes that are others of latent attention by another name."""
    rotated = getattr(config, "qk_rope_head_dim", None)
    plain = getattr(config, "qk_nope_head_dim", None)
    found = {}
    if isinstance(rotated, int) and getattr(config, "head_dim", None) == rotated:
        found["head_dim"] = _LATENT["qk_rope_head_dim"]
    if isinstance(rotated, int) and isinstance(plain, int):
        if getattr(config, "qk_head_dim", None) == plain + rotated:
            whole = _LATENT["qk_nope_head_dim"] + _LATENT["qk_rope_head_dim"]
            found["qk_head_dim"] = whole
    return found


def head_size(config: Any) -> int | None:
    """Features of one attention head, None where the config has no one such thing."""
    try:
        size = getattr(config, "head_dim", None)
    except RuntimeError:  # transformers' own, for a field that differs by layer
        return None
    if isinstance(size, int):
        return size
    hidden = getattr(config, "hidden_size", None)
    heads = getattr(config, "num_attention_heads", None)
    if isinstance(hidden, int) and isinstance(heads, int) and heads:
        return hidden // heads
    return None
