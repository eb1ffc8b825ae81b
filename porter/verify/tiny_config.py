"""A config small enough to run in milliseconds, still shaped like the real one.

Only the fields that a config class itself declares are touched, by the names that
transformers gives them (an `attribute_map` is followed), and only sizes and the
constants of norms and caps: which computation runs stays as its authors set it.
Several shapes are tried in order,
because some classes accept less than others (no grouped heads, say).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from porter.gap import CannotRun, UsageError
from porter.verify.nested_configs import completed, nested_sizes

# Sizes chosen so that nothing divides by accident: the vocabulary isn't a multiple of
# any tp size, the MLP is not 4 x hidden, and a window is shorter than most prompts.
VOCAB = 259
HIDDEN = 128
LAYERS = 4
HEADS = 4
KV_HEADS = 2
HEAD_DIM = 32
POSITIONS = 256
WINDOW = 24

_PLAIN = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "word_embed_proj_dim": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "num_kv_heads": KV_HEADS,
    "kv_n_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "query_pre_attn_scalar": 48,
    "intermediate_size": 192,
    "ffn_dim": 192,
    "ffn_hidden_size": 192,
    "dff": 192,
    "n_inner": 192,
    "rotary_dim": 16,
    "max_position_embeddings": POSITIONS,
    "context_length": POSITIONS,
    "sliding_window": WINDOW,
    "window_size": WINDOW,
    "attention_window_size": WINDOW,
    "local_attention": WINDOW,
    "sliding_window_size": WINDOW,
    "attention_chunk_size": WINDOW,
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size_per_layer_input": 16,
}
# Values that at their usual size would hardly show in the logits of a tiny model.
_TELLING = {
    "rms_norm_eps": 5e-3,
    "layer_norm_eps": 5e-3,
    "layer_norm_epsilon": 5e-3,
    "layernorm_epsilon": 5e-3,
    "norm_eps": 5e-3,
    "norm_epsilon": 5e-3,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 1.5,
    "logits_soft_cap": 1.5,
}
_EXPERTS = {
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "moe_num_experts": 8,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "top_k": 2,
    "moe_top_k": 2,
    "n_group": 2,
    "num_expert_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 96,
    "expert_ffn_hidden_size": 96,
    "shared_expert_intermediate_size": 96,
    "moe_shared_expert_intermediate_size": 96,
    "shared_intermediate_size": 96,
    "dense_intermediate_size": 192,
    "prefix_dense_intermediate_size": 192,
    "intermediate_size_mlp": 192,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "zero_expert_num": 2,
}
_LATENT = {
    "q_lora_rank": 48,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "qk_head_dim": 48,
    "index_head_dim": 96,  # the rotated part and more, also of the widest
    "index_n_heads": 4,
    "index_topk": POSITIONS,
}
# Recurrent mixers; a field may have the mixer's name before the one given here.
_STATE = {
    "d_state": 16,
    "n_heads": 8,
    "num_heads": 8,
    "head_dim": 32,
    "d_head": 32,
    "chunk_size": 16,
    "dt_rank": 8,
    "state_size": 16,
    "time_step_rank": 8,
    "ssm_state_size": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_heads": 4,
    "linear_head_dim": 32,
    "lru_width": HIDDEN,
    "attention_hidden_size": HIDDEN,
    "block_size": 16,
}
_OPTIONAL = ("sliding_window", "q_lora_rank")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id")


def tiny_config(config_class: type, overrides: Mapping[str, Any] | None = None) -> Any:
    """An instance of `config_class` with small sizes; `overrides` win over all.

    Only the construction is tried here, not a forward pass: see `tiny_configs`.
    Raises UsageError for an override that names no field of the class, CannotRun
    where the class accepts none of the shapes.
    """
    return next(tiny_configs(config_class, overrides))


def tiny_configs(
    config_class: type, overrides: Mapping[str, Any] | None = None
) -> Iterator[Any]:
    """Configs that the class accepts, the most demanding shape first."""
    overrides = dict(overrides or {})
    default = _default(config_class)
    _check_names(config_class, default, overrides)
    refusals: list[Exception] = []
    accepted = 0
    for shape in _shapes(config_class, default):
        try:
            config = config_class(**{**shape, **overrides})
        except Exception as error:  # whatever a foreign validator raises
            refusals.append(error)
            continue
        accepted += 1
        yield from completed(config)
    if not accepted:
        raise CannotRun(
            f"{config_class.__name__} accepts no tiny sizes: {refusals[0]}"
        ) from refusals[0]


def _default(config_class: type) -> Any:
    try:
        return config_class()
    except Exception as error:
        raise CannotRun(
            f"{config_class.__name__} can't be made without arguments: {error}"
        ) from error


def _check_names(
    config_class: type, default: Any, overrides: Mapping[str, Any]
) -> None:
    unknown = [name for name in overrides if not hasattr(default, name)]
    known_to_base = ("rope_scaling", "rope_theta", "partial_rotary_factor")
    unknown = [name for name in unknown if name not in known_to_base]
    if unknown:
        raise UsageError(
            f"{config_class.__name__} has no field {', '.join(sorted(unknown))}"
        )


def _shapes(config_class: type, default: Any) -> Iterator[dict[str, Any]]:
    """Keyword arguments for the class: grouped heads, then equal ones, then fewer."""
    of_every_config = vars(_base_class(config_class)())
    declared = {k: v for k, v in vars(default).items() if k not in of_every_config}
    renamed = getattr(config_class, "attribute_map", {})

    canonical = {real: name for name, real in renamed.items()}

    def fields(*tables: Mapping[str, float]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for real, value in declared.items():
            name = canonical.get(real, real)
            size = _size_of(name, tables)
            if size is None or isinstance(value, list | dict | bool):
                continue
            # What is off by default stays off.
            if value is None and (name in _OPTIONAL or name in _TELLING):
                continue
            found[real] = POSITIONS if _never_cuts(name, value, declared) else size
        for name in _TOKEN_IDS:
            token = getattr(default, name, None)
            if isinstance(token, int) and token >= VOCAB:
                found[name] = VOCAB - 1
        return found

    everything = fields(_PLAIN, _TELLING, _EXPERTS, _LATENT, _STATE)
    everything |= nested_sizes(default, _sizes_within)
    heads = renamed.get("num_key_value_heads", "num_key_value_heads")
    if "kv_lora_rank" in everything and heads in everything:
        # Latent attention has one key head a query head, and head_dim is its rope part.
        everything[heads] = HEADS
        if "head_dim" in everything:
            everything["head_dim"] = _LATENT["qk_rope_head_dim"]
    yield everything
    equal = {**everything}
    for name in ("num_key_value_heads", "num_kv_heads"):
        if renamed.get(name, name) in equal:
            equal[renamed.get(name, name)] = HEADS
    yield equal
    yield {**equal, **_with_layer_lists(declared, renamed)}
    # Hybrids whose first attention layer comes late, or whose pattern is longer.
    depth = renamed.get("num_hidden_layers", "num_hidden_layers")
    yield {**everything, depth: 2 * LAYERS}
    yield {**{k: v for k, v in equal.items() if k not in _STATE}, depth: 2 * LAYERS}
    yield fields(_PLAIN, _TELLING)
    # Layers counted by another field, in a form of its own: the depth stays as it is.
    yield {name: size for name, size in equal.items() if name != depth}


def _sizes_within(config_class: type, default: Any) -> dict[str, Any]:
    """The sizes of a config inside another."""
    return next(_shapes(config_class, default))


def _base_class(config_class: type) -> type:
    """transformers' own class of all configs; old ones held generation's fields too."""
    return next(c for c in config_class.__mro__[::-1] if c.__name__ in _BASES)


_BASES = ("PreTrainedConfig", "PretrainedConfig")


def _never_cuts(name: str, value: Any, declared: Mapping[str, Any]) -> bool:
    """Whether a window is as long as the longest sequence: then it stays so."""
    longest = declared.get("max_position_embeddings")
    return _PLAIN.get(name) == WINDOW and isinstance(longest, int) and value >= longest


def _size_of(name: str, tables: tuple[Mapping[str, float], ...]) -> float | None:
    for table in tables:
        if name in table:
            return table[name]
    return _STATE.get(name.partition("_")[2]) if _STATE in tables else None


def _with_layer_lists(
    declared: Mapping[str, Any], renamed: Mapping[str, str]
) -> dict[str, Any]:
    """Per-layer lists cut to the tiny depth, for classes that don't recompute them."""
    depth_name = renamed.get("num_hidden_layers", "num_hidden_layers")
    depth = declared.get(depth_name)
    return {
        name: value[:LAYERS]
        for name, value in declared.items()
        if isinstance(value, list) and len(value) == depth
    }
