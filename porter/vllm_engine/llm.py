"""vLLM with a port as its model, behind the methods of the bundled runtime's `LLM`."""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from porter.gap import CannotRun, NoKernel
from porter.runtime.accounting import WeightReport
from porter.runtime.request import SamplingParams
from porter.verify.origin import architecture_of
from porter.vllm_engine.environment import require_vllm
from porter.vllm_engine.output import keep_quiet
from porter.vllm_engine.ports import digest, registered
from porter.vllm_engine.worker import PorterWorker, RankReport

KV_CACHE_BYTES = 1 << 30  # of a rank; vLLM would take nearly all memory


@dataclass(frozen=True)
class Output:
    """What was generated for one prompt: tokens, and a step's likeliest in nats."""

    token_ids: list[int]
    logprobs: list[dict[int, float]] = field(default_factory=list)


class VllmLLM:
    """The installed vLLM running the bytes of a port file on a model folder.

    port: None leaves the choice of the model to vLLM and to `model_impl` among the
    options. compiled: whether the model runs under torch.compile. use_mla: whether vLLM
    gives the model types of its list a latent cache, which it does unless
    VLLM_MLA_DISABLE is 1; it holds until the engine ends. options: further arguments of
    vLLM's own `LLM`, which win over what is chosen here.

    Raises CannotRun with vLLM's own error where it doesn't start, and where the class
    that runs on any rank isn't the port's. Ranks beyond the first are processes of
    their own; `shutdown`, or the end of a `with` block, ends them.
    """

    def __init__(
        self,
        port: str | Path | None,
        model_dir: str | Path,
        dtype: str = "float32",
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
        max_num_batched_tokens: int = 512,
        max_num_seqs: int = 64,
        max_model_len: int | None = None,
        trust_remote_code: bool = False,
        compiled: bool = False,
        use_mla: bool | None = None,
        **options: Any,
    ) -> None:
        self._vllm = require_vllm()
        self._open = ExitStack()
        if use_mla is not None:
            self._open.enter_context(latent_cache(use_mla))
        self._compiled = compiled
        ports = {} if port is None else {architecture_of(Path(port)): Path(port)}
        arguments: dict[str, Any] = {
            "model": str(model_dir),
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel_size,
            "pipeline_parallel_size": pipeline_parallel_size,
            "max_num_batched_tokens": max_num_batched_tokens,
            "max_num_seqs": min(max_num_seqs, max_num_batched_tokens),
            "max_model_len": max_model_len,
            "trust_remote_code": trust_remote_code,
            "enforce_eager": not compiled,
            "hf_overrides": {"architectures": list(ports)} if ports else None,
            **fixed_arguments(dtype),
            **options,
        }
        with keep_quiet() as self._log:
            try:
                self._open.enter_context(without_old_garbage())
                self._open.enter_context(registered(ports))
                self._llm = self._vllm.LLM(**arguments)
                self._open.callback(self._end)
                self.ranks: list[RankReport] = self._ask("porter_report")
            except Exception as error:  # vLLM raises what it likes
                cause = self._log.cause(error)
                self._open.close()
                self._vllm.distributed.cleanup_dist_env_and_memory()
                what = model_dir if port is None else port
                raise cannot(f"vLLM can't run {what}: {cause}") from error
        for architecture, path in ports.items():
            self._check_class(path, architecture)

    def _check_class(self, port: Path, architecture: str) -> None:
        """vLLM has classes of the same names and takes them where it finds no other."""
        for rank in self.ranks:
            name = rank.model_class.rpartition(".")[2]
            if name != architecture or rank.digest != digest(port):
                self.shutdown()
                raise CannotRun(
                    f"vLLM ran {rank.model_class} of {rank.file} in the place of {port}"
                )

    def _ask(self, method: str) -> list[Any]:
        """What each rank's PorterWorker method returns, in the order of the ranks."""
        return list(self._llm.collective_rpc(method))

    @property
    def model(self) -> nn.Module:
        """The model, which is in this process where there is one rank."""
        if len(self.ranks) > 1:
            raise CannotRun("vLLM's model is in other processes (tp and pp 1 have it)")
        return self._llm.apply_model(lambda model: model)[0]

    @property
    def weight_report(self) -> WeightReport:
        """What became of every checkpoint tensor, over all ranks."""
        merged = self.ranks[0].weights
        for rank in self.ranks[1:]:
            merged = merged.merged(rank.weights)
        return merged

    @property
    def cache_bytes_per_token(self) -> int | None:
        """What a token takes of the first rank's cache; None where vLLM doesn't tell."""
        return self.ranks[0].cache_bytes_per_token

    def fused_modules(self) -> dict[str, int]:
        """How many uses the model makes of each fused layer, over all stages."""
        counts: dict[str, int] = {}
        for rank in self.ranks:
            if rank.tp_rank == 0:
                for kind, count in rank.fused.items():
                    counts[kind] = counts.get(kind, 0) + count
        return counts

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling_params: SamplingParams | None = None,
        **options: Any,
    ) -> list[Output]:
        """New tokens for each prompt of token ids, in the bundled runtime's terms.

        options: of vLLM's own `generate`, such as `lora_request`.
        """
        wanted = sampling_params or SamplingParams()
        params = self._vllm.SamplingParams(
            max_tokens=wanted.max_tokens,
            temperature=wanted.temperature,
            logprobs=wanted.logprobs,
            ignore_eos=wanted.ignore_eos,
            detokenize=False,
        )
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        with keep_quiet(self._log):
            try:
                outputs = self._llm.generate(inputs, params, use_tqdm=False, **options)
            except Exception as error:  # vLLM raises what it likes
                cause = self._log.cause(error)
                raise cannot(f"vLLM fails to generate: {cause}") from error
        return [
            Output(
                list(output.outputs[0].token_ids),
                [
                    {token: entry.logprob for token, entry in step.items()}
                    for step in output.outputs[0].logprobs or ()
                ],
            )
            for output in outputs
        ]

    def prefill_logits(self, prompts: Sequence[list[int]]) -> list[torch.Tensor]:
        """Logits at every position of each prompt, [num_tokens, vocab_size] fp32.

        Each prompt alone, in chunks where the token budget asks for it: the hidden
        states that the model returns, through its own `compute_logits`.
        """
        return [self._prefill(prompt) for prompt in prompts]

    def _prefill(self, prompt: list[int]) -> torch.Tensor:
        with keep_quiet(self._log):
            self._ask("porter_watch")
        self.generate([prompt], SamplingParams(max_tokens=1, temperature=0.0))
        with keep_quiet(self._log):
            found = [
                logits for logits in self._ask("porter_logits") if logits is not None
            ]
        if not found or found[0].shape[0] != len(prompt):
            rows = found[0].shape[0] if found else 0
            raise CannotRun(f"vLLM computed {rows} positions of {len(prompt)}")
        return found[0]

    def shutdown(self) -> None:
        """End the engine and its processes; it can't be used afterwards."""
        with keep_quiet(self._log):
            self._open.close()

    def _end(self) -> None:
        """Leave the process as it was, for the next engine in it."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        if self._compiled:
            # Guards are off in vLLM: a graph of this model would serve the next one.
            torch._dynamo.reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()


# How vLLM says that it has no kernel for heads of some size: its CPU kernels, and the
# choice of a backend on other platforms.
_NO_KERNEL = (
    "Unsupported CPU attention configuration: head_dim=",
    "invalid head_size",
    "head_size not supported",
)


def cannot(message: str) -> CannotRun:
    """The error for what vLLM said: NoKernel where its kernels lack a head size."""
    lacks = any(words in message for words in _NO_KERNEL)
    return NoKernel(message) if lacks else CannotRun(message)


@contextmanager
def latent_cache(wanted: bool) -> Iterator[None]:
    """vLLM's own switch, which it and its workers read from the environment."""
    name = "VLLM_MLA_DISABLE"
    before = os.environ.get(name)
    os.environ[name] = "0" if wanted else "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def without_old_garbage() -> Iterator[None]:
    """What exists already is no garbage while the engine lives.

    vLLM collects some ten times as it starts and ends, and beside its imports that is
    most of the time that a tiny model takes.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def fixed_arguments(dtype: str) -> dict[str, Any]:
    """vLLM's arguments that are the same for every port that is checked."""
    from vllm.platforms import current_platform

    from porter.vllm_engine.loading import LOAD_FORMAT

    arguments: dict[str, Any] = {
        "load_format": LOAD_FORMAT,
        "worker_extension_cls": f"{PorterWorker.__module__}.{PorterWorker.__name__}",
        "skip_tokenizer_init": True,
        # Each prompt is read anew: a second time through the cache is no check.
        "enable_prefix_caching": False,
        "kv_cache_memory_bytes": KV_CACHE_BYTES,
        "disable_log_stats": True,
        "seed": 0,
    }
    if current_platform.is_cpu():
        # Some C++ kernels of the CPU build give wrong results; without them vLLM's
        # layers run the torch code that they are documented by.
        arguments["compilation_config"] = {"custom_ops": ["none"]}
        if dtype == "float32":
            # The backend of latent attention that a CPU with AMX gets by itself is for
            # 16 bits only. Layers without latents aren't asked.
            arguments["attention_config"] = {"backend": "CPU_MLA"}
    return arguments
