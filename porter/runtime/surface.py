"""The part of vLLM that model files import, by vLLM's names.

A port file runs with an `__import__` of its own, so its `vllm.*` imports end here
and `sys.modules` never hears of them: the real vLLM can be imported in the same
process before or after.
"""

import builtins
from types import ModuleType
from typing import Any

from porter.gap import CannotRun
from porter.profiles import DEFAULT
from porter.runtime import (
    config,
    distributed,
    forward_context,
    model_loader,
    parameter,
    sequence,
)
from porter.runtime.layers import (
    activation,
    attention,
    fused_moe,
    latent_attention,
    layernorm,
    linear,
    logits_processor,
    quantization,
    rotary_embedding,
    stacked_linear,
    vocab_parallel_embedding,
)
from porter.runtime.models import interfaces, stages, weights
from porter.runtime.releases import DIFFERENT


def support_torch_compile(cls: Any = None, **options: Any) -> Any:
    """Marks a class that vLLM compiles; the bundled runtime runs it as it is."""
    return cls if cls is not None else lambda decorated: decorated


_DISTRIBUTED = (
    "divide",
    "ensure_divisibility",
    "get_pp_group",
    "get_tensor_model_parallel_rank",
    "get_tensor_model_parallel_world_size",
    "get_tp_group",
    "split_tensor_along_last_dim",
    "tensor_model_parallel_all_gather",
    "tensor_model_parallel_all_reduce",
    "tensor_model_parallel_gather",
    "tensor_model_parallel_reduce_scatter",
)
_CONFIGS = (
    "CacheConfig",
    "CompilationConfig",
    "DeviceConfig",
    "LoRAConfig",
    "LoadConfig",
    "ModelConfig",
    "ParallelConfig",
    "SchedulerConfig",
    "VllmConfig",
    "get_current_vllm_config",
    "get_current_vllm_config_or_none",
)
_GROUPS = tuple(n for n in _DISTRIBUTED if n.startswith("get_"))
_STAGES = (
    "PPMissingLayer",
    "extract_layer_index",
    "is_pp_missing_parameter",
    "make_empty_intermediate_tensors_factory",
    "make_layers",
    "maybe_prefix",
)
_ACTIVATIONS = (
    "FastGELU",
    "FatreluAndMul",
    "GELU",
    "GELUTanh",
    "GeluAndMul",
    "MulAndSilu",
    "NewGELU",
    "QuickGELU",
    "ReLUSquaredActivation",
    "SiluAndMul",
    "SiluAndMulWithClamp",
    "SwigluOAIAndMul",
    "get_act_and_mul_fn",
    "get_act_fn",
)
_LINEARS = (
    "ColumnParallelLinear",
    "LinearBase",
    "ReplicatedLinear",
    "RowParallelLinear",
    "UnquantizedLinearMethod",
)
_STACKED_LINEARS = ("MergedColumnParallelLinear", "QKVParallelLinear")
_LOADERS = (
    "composed_weight_loader",
    "default_weight_loader",
    "row_parallel_weight_loader",
    "sharded_weight_loader",
)
_EMBEDDINGS = (
    "DEFAULT_VOCAB_PADDING_SIZE",
    "ParallelLMHead",
    "UnquantizedEmbeddingMethod",
    "VocabParallelEmbedding",
    "pad_vocab_size",
)
_INTERFACES = (
    "MixtureOfExperts",
    "SupportsLoRA",
    "SupportsPP",
    "SupportsQuant",
    "supports_lora",
    "supports_pp",
)


def _names(source: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


_LAYERS = "vllm.model_executor.layers"
_MODELS = "vllm.model_executor.models"

SURFACE: dict[str, dict[str, Any]] = {
    "vllm.compilation.decorators": {"support_torch_compile": support_torch_compile},
    "vllm.config": _names(config, _CONFIGS),
    "vllm.config.cache": _names(config, ("CacheConfig",)),
    "vllm.config.vllm": _names(config, ("VllmConfig", "get_current_vllm_config")),
    "vllm.distributed": _names(distributed, _DISTRIBUTED),
    "vllm.distributed.parallel_state": _names(distributed, _GROUPS),
    "vllm.distributed.utils": _names(
        distributed,
        ("divide", "get_pp_indices", "split_tensor_along_last_dim"),
    ),
    "vllm.forward_context": _names(
        forward_context, ("ForwardContext", "get_forward_context")
    ),
    "vllm.sequence": _names(sequence, ("IntermediateTensors",)),
    "vllm.model_executor.utils": _names(parameter, ("set_weight_attrs",)),
    "vllm.model_executor.model_loader.weight_utils": _names(model_loader, _LOADERS),
    f"{_LAYERS}.activation": _names(activation, _ACTIVATIONS),
    f"{_LAYERS}.attention": {
        **_names(attention, ("Attention",)),
        **_names(latent_attention, ("MLAAttention",)),
    },
    f"{_LAYERS}.attention.attention": _names(attention, ("Attention",)),
    "vllm.v1.attention.backend": _names(attention, ("AttentionType",)),
    f"{_LAYERS}.fused_moe": _names(fused_moe, ("FusedMoEFactory", "MoERunner")),
    f"{_LAYERS}.layernorm": _names(layernorm, ("GemmaRMSNorm", "LayerNorm", "RMSNorm")),
    f"{_LAYERS}.linear": {
        **_names(linear, _LINEARS),
        **_names(stacked_linear, _STACKED_LINEARS),
    },
    f"{_LAYERS}.logits_processor": _names(logits_processor, ("LogitsProcessor",)),
    f"{_LAYERS}.quantization": _names(quantization, ("QuantizationConfig",)),
    f"{_LAYERS}.quantization.base_config": _names(
        quantization, ("QuantizationConfig", "QuantizeMethodBase")
    ),
    f"{_LAYERS}.rotary_embedding": _names(
        rotary_embedding, ("RotaryEmbedding", "get_rope")
    ),
    f"{_LAYERS}.vocab_parallel_embedding": _names(
        vocab_parallel_embedding, _EMBEDDINGS
    ),
    f"{_MODELS}.interfaces": _names(interfaces, _INTERFACES),
    f"{_MODELS}.utils": {
        **_names(stages, _STAGES),
        **_names(weights, ("AutoWeightsLoader", "WeightsMapper")),
    },
}


class _SurfaceModule(ModuleType):
    """A module of the surface; a name it lacks is said with its vLLM path."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise CannotRun(
            f"the bundled runtime has no {self.__name__}.{name}: "
            "run this port with vLLM (--engine vllm)"
        )


def _build_modules(release: str) -> dict[str, _SurfaceModule]:
    modules: dict[str, _SurfaceModule] = {}
    for path in SURFACE:
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name not in modules:
                modules[name] = _SurfaceModule(name)
                if end > 1:
                    setattr(modules[".".join(parts[: end - 1])], parts[end - 1],
                            modules[name])  # fmt: skip
    for path, names in SURFACE.items():
        vars(modules[path]).update(names)
        vars(modules[path]).update(DIFFERENT[release].get(path, {}))
    return modules


_MODULES = {release: _build_modules(release) for release in DIFFERENT}


def port_builtins(release: str = DEFAULT) -> dict[str, Any]:
    """The builtins of a port file: Python's, with `vllm.*` imported from here.

    release: the vLLM whose names and signatures the port is written for.
    """
    modules = _MODULES[release]

    def import_(
        name: str,
        globals_: Any = None,
        locals_: Any = None,
        fromlist: tuple[str, ...] = (),
        level: int = 0,
    ) -> Any:
        if level or name.partition(".")[0] != "vllm":
            return builtins.__import__(name, globals_, locals_, fromlist or (), level)
        if name not in modules:
            raise CannotRun(
                f"the bundled runtime has no module {name}: "
                "run this port with vLLM (--engine vllm)"
            )
        return modules[name] if fromlist else modules["vllm"]

    return {**vars(builtins), "__import__": import_}
