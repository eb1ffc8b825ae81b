"""The configuration objects that model constructors read, with vLLM's field names."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class ModelConfig:
    """model: checkpoint folder. max_model_len: tokens of prompt and output together.

    use_mla: whether latent attention gets a cache of latent vectors.
    """

    model: str
    hf_config: Any
    dtype: torch.dtype = torch.float32
    max_model_len: int = 2048
    trust_remote_code: bool = False
    quantization: str | None = None
    is_mm_prefix_lm: bool = False
    word_embeddings_untied_by_checkpoint: bool = False
    use_mla: bool = False

    @property
    def hf_text_config(self) -> Any:
        return self.hf_config.get_text_config()

    @property
    def head_dtype(self) -> torch.dtype:
        """dtype of the projection to logits: `head_dtype`, or the model's."""
        head_dtype = getattr(self.hf_config, "head_dtype", None)
        if head_dtype is None or head_dtype == "model":
            return self.dtype
        if isinstance(head_dtype, torch.dtype):
            return head_dtype
        return getattr(torch, str(head_dtype).lower())


@dataclass
class CacheConfig:
    """block_size: tokens a block. sliding_window: of every layer, tokens or None."""

    block_size: int = 16
    cache_dtype: str = "auto"
    sliding_window: int | None = None
    num_gpu_blocks: int | None = None
    enable_prefix_caching: bool = False
    kv_cache_dtype_skip_layers: list[str] = field(default_factory=list)
    calculate_kv_scales: bool = False


@dataclass
class EPLBConfig:
    """Of vLLM's balancer of experts; the bundled runtime has none."""

    num_redundant_experts: int = 0


@dataclass
class ParallelConfig:
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    enable_eplb: bool = False
    eplb_config: EPLBConfig = field(default_factory=EPLBConfig)

    @property
    def world_size(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size


@dataclass
class SchedulerConfig:
    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 64


@dataclass
class DeviceConfig:
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass
class CompilationConfig:
    """static_forward_context: layer name -> attention layer of the model.

    fuse_qk_norm_rope_kvcache: head norms, rope and the cache's write in one launch, where
    the model's flow allows it.
    """

    static_forward_context: dict[str, Any] = field(default_factory=dict)
    fuse_qk_norm_rope_kvcache: bool = False


@dataclass
class LoadConfig:
    load_format: str = "auto"


@dataclass
class LoRAConfig:
    """Named for type annotations; the bundled runtime has no adapters."""


@dataclass
class VllmConfig:
    model_config: ModelConfig
    cache_config: CacheConfig = field(default_factory=CacheConfig)
    parallel_config: ParallelConfig = field(default_factory=ParallelConfig)
    scheduler_config: SchedulerConfig = field(default_factory=SchedulerConfig)
    device_config: DeviceConfig = field(default_factory=DeviceConfig)
    load_config: LoadConfig = field(default_factory=LoadConfig)
    compilation_config: CompilationConfig = field(default_factory=CompilationConfig)
    use_cuda_graphs: bool = True
    quant_config: Any = None
    lora_config: LoRAConfig | None = None
    speculative_config: Any = None
    kv_transfer_config: Any = None


_current: VllmConfig | None = None


@contextmanager
def set_current_vllm_config(vllm_config: VllmConfig) -> Iterator[None]:
    """Constructors inside the block find this configuration."""
    global _current
    previous, _current = _current, vllm_config
    try:
        yield
    finally:
        _current = previous


def get_current_vllm_config() -> VllmConfig:
    """The configuration of the model under construction; AssertionError outside one."""
    assert _current is not None, "Current vLLM config is not set."
    return _current


def get_current_vllm_config_or_none() -> VllmConfig | None:
    return _current
