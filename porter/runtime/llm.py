"""The engine: requests in, tokens out."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from porter.gap import UsageError
from porter.runtime.accounting import WeightReport
from porter.runtime.engine import Engine
from porter.runtime.hf_config import make_vllm_config
from porter.runtime.kv_cache import bytes_per_token
from porter.runtime.layers.activation import GeluAndMul, SiluAndMul
from porter.runtime.layers.attention import Attention
from porter.runtime.layers.fused_moe import MoERunner
from porter.runtime.layers.latent_attention import MLAAttention
from porter.runtime.layers.layernorm import GemmaRMSNorm, LayerNorm, RMSNorm
from porter.runtime.layers.rotary_embedding import RotaryEmbedding
from porter.runtime.layers.rotary_embedding.longrope import LongRotaryEmbedding
from porter.runtime.layers.stacked_linear import (
    MergedColumnParallelLinear,
    QKVParallelLinear,
)
from porter.runtime.request import RequestOutput, SamplingParams

__all__ = ["LLM", "RequestOutput", "SamplingParams"]

_FUSED: dict[str, tuple[type[nn.Module], ...]] = {
    "qkv": (QKVParallelLinear,),
    "gate_up": (MergedColumnParallelLinear,),
    "act_and_mul": (SiluAndMul, GeluAndMul),
    "rms_norm": (RMSNorm, GemmaRMSNorm),
    "experts": (MoERunner,),
    "layer_norm": (LayerNorm,),
    "rope": (RotaryEmbedding, LongRotaryEmbedding),
    "attention": (Attention,),
    "latent_attention": (MLAAttention,),
}


class LLM:
    """A port with the weights of a model folder.

    port: path of a generated file. dtype: of weights and cache, a torch name.
    architecture: the model class, when the port has several and the config none.
    num_blocks: of the cache; by default what the memory allows. strict: UsageError on
    unused or missing weights, which otherwise only `weight_report` tells. device: "cpu"
    or "cuda", by default a GPU where there is one, of which each rank takes its own.
    The sizes of batches and of cache blocks fit the device unless given.
    enable_prefix_caching: sequences with the same beginning share its blocks, across
    calls too. load_format: "dummy" makes random weights from the config alone, to
    measure with. cuda_graphs: capture decode steps, on GPUs that have all layers each.
    overlap: decide a step while the one before it runs, which is what such GPUs get
    unless given. use_mla: give latent attention a cache of latent vectors, which it
    gets on a CPU unless VLLM_MLA_DISABLE is 1. fuse_qk_norm_rope_kvcache: norm and
    rotate queries and keys and store them in one launch, where the port's flow allows it,
    which it does on GPUs unless given.

    Raises UsageError on a mistake of the caller, CannotRun on what the bundled
    runtime lacks. Ranks beyond the first are processes of their own; `shutdown`, or
    the end of a `with` block, ends them.
    """

    def __init__(
        self,
        port: str | Path,
        model_dir: str | Path,
        dtype: str = "float32",
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
        enable_expert_parallel: bool = False,
        max_num_batched_tokens: int | None = None,
        max_num_seqs: int | None = None,
        block_size: int | None = None,
        num_blocks: int | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        architecture: str | None = None,
        max_model_len: int | None = None,
        strict: bool = True,
        device: str | None = None,
        enable_prefix_caching: bool = False,
        load_format: str = "auto",
        cuda_graphs: bool = True,
        overlap: bool | None = None,
        use_mla: bool | None = None,
        fuse_qk_norm_rope_kvcache: bool | None = None,
    ) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        tokens, seqs, size = _DEFAULT_SIZES[device.partition(":")[0] == "cuda"]
        max_num_batched_tokens = _given(max_num_batched_tokens, tokens)
        max_num_seqs = _given(max_num_seqs, seqs)
        block_size = _given(block_size, size)
        _check_sizes(
            tensor_parallel_size=tensor_parallel_size,
            pipeline_parallel_size=pipeline_parallel_size,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            block_size=block_size,
        )
        _check_gpus(device, tensor_parallel_size * pipeline_parallel_size)
        if not Path(model_dir).is_dir():
            raise UsageError(f"{model_dir}: no such model folder")
        config_options: dict[str, Any] = {
            "dtype": _torch_dtype(dtype),
            "tensor_parallel_size": tensor_parallel_size,
            "pipeline_parallel_size": pipeline_parallel_size,
            "enable_expert_parallel": enable_expert_parallel,
            "max_num_batched_tokens": max_num_batched_tokens,
            "max_num_seqs": max_num_seqs,
            "block_size": block_size,
            "max_model_len": max_model_len,
            "enable_prefix_caching": enable_prefix_caching,
            "load_format": _load_format(load_format),
            "trust_remote_code": trust_remote_code,
            "allow_pickle": allow_pickle,
            "use_mla": use_mla,
            "fuse_qk_norm_rope_kvcache": fuse_qk_norm_rope_kvcache,
        }
        vllm_config = make_vllm_config(
            Path(model_dir), device=torch.device(device), **config_options
        )
        vllm_config.use_cuda_graphs = cuda_graphs
        self._engine = Engine(
            port,
            vllm_config,
            config_options,
            num_blocks=num_blocks,
            overlap=overlap,
            architecture=architecture,
            allow_pickle=allow_pickle,
            strict=strict,
        )

    @property
    def model(self) -> nn.Module:
        """The first rank's model."""
        return self._engine.runner.model

    @property
    def weight_report(self) -> WeightReport:
        """What became of every checkpoint tensor, over all ranks."""
        return self._engine.weight_report

    @property
    def cache_bytes_per_token(self) -> int:
        """What a token takes of the caches of the first rank's layers together."""
        return bytes_per_token(self._engine.vllm_config)

    @property
    def max_model_len(self) -> int:
        """Tokens that a sequence may have, prompt and output together."""
        return self._engine.vllm_config.model_config.max_model_len

    def generate(
        self,
        prompts: list[list[int]],
        sampling_params: SamplingParams | list[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """New tokens for each prompt of token ids, all prompts batched continuously.

        One SamplingParams for all prompts, or one for each.
        """
        params = sampling_params or SamplingParams()
        each = params if isinstance(params, list) else [params] * len(prompts)
        if len(each) != len(prompts):
            raise UsageError(f"{len(prompts)} prompts but {len(each)} sampling params")
        return self._engine.generate(prompts, each)

    def prefill_logits(self, prompts: list[list[int]]) -> list[torch.Tensor]:
        """Logits at every position of each prompt, [num_tokens, vocab_size] fp32.

        They go through the cache, in chunks where the token budget asks for it.
        """
        return self._engine.prefill_logits(prompts)

    def capture(
        self, prompt: list[int], paths: list[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """What each module returns in one prefill of the prompt, by module path.

        paths: modules to watch, all by default. A module that returns several
        tensors is recorded with its first; one that ran several times with its last
        run. Raises UsageError on an unknown path, or with more than one rank.
        """
        if self._engine.vllm_config.parallel_config.world_size > 1:
            raise UsageError("capture works on one rank (tp 1, pp 1)")
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for path in paths or ():
            if path not in modules:
                raise UsageError(f"the model has no module {path!r}")
        watched = {path: modules[path] for path in (paths or modules)}
        captured: dict[str, torch.Tensor] = {}
        with _watch(watched, captured):
            self._engine.prefill_logits([prompt], in_one_step=True)
        return captured

    def fused_modules(self) -> dict[str, int]:
        """How many uses the model makes of each fused layer of vLLM."""
        counts: Counter[str] = Counter()
        for _, module in self.model.named_modules(remove_duplicate=False):
            for kind, classes in _FUSED.items():
                counts[kind] += isinstance(module, classes)
        return {kind: count for kind, count in counts.items() if count}

    def shutdown(self) -> None:
        """End the other ranks; the engine can't be used afterwards."""
        self._engine.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()


@contextmanager
def _watch(
    modules: dict[str, nn.Module], captured: dict[str, torch.Tensor]
) -> Iterator[None]:
    def keep(path: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                captured[path] = first.detach().to("cpu", copy=True)

        return hook

    handles = [m.register_forward_hook(keep(p)) for p, m in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _torch_dtype(name: str) -> torch.dtype:
    names = ("float32", "float16", "bfloat16", "float64")
    if name not in names:
        raise UsageError(f"dtype {name!r} is none of {', '.join(names)}")
    return getattr(torch, name)


# max_num_batched_tokens, max_num_seqs, block_size: on a CPU, on a GPU.
_DEFAULT_SIZES = ((2048, 64, 16), (16384, 256, 64))


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _load_format(name: str) -> str:
    if name not in ("auto", "dummy"):
        raise UsageError(f"load_format {name!r} is neither auto nor dummy")
    return name


def _check_gpus(device: str, ranks: int) -> None:
    """Every rank takes a GPU of its own."""
    if device.partition(":")[0] != "cuda":
        return
    have = torch.cuda.device_count()
    if ranks > have:
        raise UsageError(
            f"{ranks} ranks on GPUs need {ranks} of them, and torch sees {have}; "
            "with device cpu they share the CPU"
        )


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise UsageError(f"{name} must be at least 1, not {size}")
