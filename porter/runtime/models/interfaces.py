"""What a model class declares that it supports."""

from collections.abc import Callable
from typing import Any, ClassVar, Self

from porter.runtime.config import VllmConfig
from porter.runtime.layers.quantization import QuantizationConfig


class MixtureOfExperts:
    """What a balancer of experts asks for; the bundled runtime has none, so that each
    logical expert is one physical expert."""

    moe_layers: list[Any]
    num_moe_layers: int
    num_expert_groups: int
    num_logical_experts: int
    num_physical_experts: int
    num_local_physical_experts: int
    num_routed_experts: int
    num_shared_experts: int
    num_redundant_experts: int


class SupportsLoRA:
    """The model's linear layers may carry adapters."""

    supports_lora: ClassVar[bool] = True
    embedding_modules: ClassVar[dict[str, str]] = {}
    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {}
    lora_skip_prefixes: ClassVar[list[str]] = []


class SupportsPP:
    """The model can run as pipeline stages."""

    supports_pp: ClassVar[bool] = True
    make_empty_intermediate_tensors: Callable[..., Any]


class SupportsQuant:
    """Sets `quant_config` on the instance from the constructor's arguments."""

    hf_to_vllm_mapper: ClassVar[Any] = None
    packed_modules_mapping: ClassVar[dict[str, list[str]]]
    quant_config: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        instance = super().__new__(cls)
        for value in (*args, *kwargs.values()):
            if isinstance(value, VllmConfig):
                instance.quant_config = value.quant_config
                break
            if isinstance(value, QuantizationConfig):
                instance.quant_config = value
                break
        return instance


def supports_pp(model: Any) -> bool:
    return bool(getattr(model, "supports_pp", False))


def supports_lora(model: Any) -> bool:
    return bool(getattr(model, "supports_lora", False))
