"""What porter asks of each rank, as methods that vLLM adds to its worker class.

They run in the worker's process, where nothing is known but what vLLM has there.
"""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from porter.runtime.accounting import WeightReport
from porter.vllm_engine.ports import digest

# Kind of a fused module -> names of vLLM's classes, or of classes they derive from.
FUSED: dict[str, tuple[str, ...]] = {
    "qkv": ("QKVParallelLinear",),
    "gate_up": ("MergedColumnParallelLinear",),
    "act_and_mul": ("SiluAndMul", "GeluAndMul"),
    "rms_norm": ("RMSNorm", "GemmaRMSNorm"),
    "layer_norm": ("LayerNorm",),
    "rope": ("RotaryEmbeddingBase", "RotaryEmbedding"),
    "attention": ("Attention",),
    "latent_attention": ("MLAAttention",),
    "experts": ("MoERunner",),
}


@dataclass(frozen=True)
class RankReport:
    """One rank after loading.

    model_class: qualified name of the class that runs. file, digest: where it is from,
    and the SHA-256 of the file's bytes. fused: kind -> number of uses. local_experts:
    of how many experts of a layer the rank has weights.
    """

    tp_rank: int
    pp_rank: int
    model_class: str
    file: str
    digest: str
    weights: WeightReport
    fused: dict[str, int] = field(default_factory=dict)
    cache_bytes_per_token: int | None = None
    local_experts: int = 0


class PorterWorker:
    """Mixed into vLLM's worker (`worker_extension_cls`); the names are ours alone."""

    model_runner: Any
    _porter_hidden: list[torch.Tensor]

    def porter_report(self) -> RankReport:
        """See RankReport. Also makes the rank ready, see `_allocate_intermediate`."""
        from vllm.distributed import get_pp_group, get_tensor_model_parallel_rank

        self._allocate_intermediate()
        model = self.model_runner.get_model()
        kind = type(model)
        file = inspect.getfile(kind)
        return RankReport(
            tp_rank=get_tensor_model_parallel_rank(),
            pp_rank=get_pp_group().rank_in_group,
            model_class=f"{kind.__module__}.{kind.__qualname__}",
            file=file,
            digest=digest(Path(file)),
            weights=getattr(model, "weight_report", WeightReport()),
            fused=count_fused(model),
            cache_bytes_per_token=cache_bytes(self.model_runner),
            local_experts=local_experts(model),
        )

    def _allocate_intermediate(self) -> None:
        """What a later pipeline stage copies its input into.

        vLLM allocates it in its first dummy run. Its CPU worker skips that run where
        nothing is compiled, and the first request then fails on an assertion.
        """
        from vllm.distributed import get_pp_group

        runner = self.model_runner
        if get_pp_group().is_first_rank or runner.intermediate_tensors is not None:
            return
        runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
            batch_size=runner.max_num_tokens,
            dtype=runner.model_config.dtype,
            device=runner.device,
        )

    def porter_watch(self) -> None:
        """Keep the hidden states that the model returns from now on."""
        self._porter_hidden = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                self._porter_hidden.append(output.detach().clone())

        self._porter_hook = self.model_runner.get_model().register_forward_hook(keep)

    def porter_logits(self) -> torch.Tensor | None:
        """Logits of all that was kept, [num_tokens, vocab_size] float32, on the CPU.

        Ends the watch. The ranks of the last stage compute them together, and the
        first of those returns them; the others return None.
        """
        self._porter_hook.remove()
        hidden, self._porter_hidden = self._porter_hidden, []
        if not hidden:
            return None
        with torch.inference_mode():
            logits = self.model_runner.get_model().compute_logits(torch.cat(hidden))
        return None if logits is None else logits.float().cpu()


def count_fused(model: nn.Module) -> dict[str, int]:
    """How many uses the model makes of each fused layer of vLLM; none is left out."""
    counts: dict[str, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        names = {base.__name__ for base in type(module).__mro__}
        for kind, classes in FUSED.items():
            if names.intersection(classes):
                counts[kind] = counts.get(kind, 0) + 1
    return {kind: counts[kind] for kind in FUSED if kind in counts}


def cache_bytes(runner: Any) -> int | None:
    """Bytes of a token over the layers' caches, by the specs that vLLM made of them."""
    config = getattr(runner, "kv_cache_config", None)
    if config is None:
        return None
    return sum(
        len(group.layer_names)
        * group.kv_cache_spec.page_size_bytes
        // group.kv_cache_spec.block_size
        for group in config.kv_cache_groups
    )


def local_experts(model: nn.Module) -> int:
    """Of how many experts the first layer of experts has weights here."""
    counts = (
        module.moe_config.num_local_experts
        for module in model.modules()
        if type(module).__name__ in FUSED["experts"]
    )
    return next(counts, 0)
