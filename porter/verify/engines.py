"""The engines that a port can be verified on, behind one protocol.

porter  the bundled runtime
vllm    the installed vLLM, on the same bytes
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import nn

from porter.gap import UsageError
from porter.runtime.accounting import WeightReport

ENGINES = ("porter", "vllm")


class Engine(Protocol):
    """A port with weights, ready to run; the end of a `with` block ends it."""

    @property
    def model(self) -> nn.Module:
        """The model, for hooks. An engine may have it on one rank only."""

    @property
    def weight_report(self) -> WeightReport:
        """What became of every checkpoint tensor, over all ranks."""

    def generate(self, prompts: Any, sampling_params: Any = None) -> Any:
        """For each prompt of token ids an object with `token_ids` and `logprobs`."""

    def prefill_logits(self, prompts: Any) -> list[torch.Tensor]:
        """Logits at every position of each prompt, [num_tokens, vocab_size] fp32."""

    @property
    def cache_bytes_per_token(self) -> int | None:
        """What a token takes of the first rank's cache."""

    def fused_modules(self) -> dict[str, int]:
        """How many uses the model makes of each fused layer, by kind."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


# Options: tensor_parallel_size, pipeline_parallel_size, max_num_seqs,
# max_num_batched_tokens, use_mla (a latent cache), and `compiled` where the engine has
# torch.compile.
MakeEngine = Callable[..., Any]


def check_engine(engine: str) -> None:
    """Raises UsageError for an unknown engine, CannotRun for one that isn't here."""
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: porter or vllm was expected")
    if engine == "vllm":
        from porter.vllm_engine import require_vllm

        require_vllm()


def make_engines(engine: str, port: Path, model_dir: Path, **fixed: Any) -> MakeEngine:
    """Makes engines of one kind for one port and one checkpoint.

    fixed: options of all of them. Weights that don't match are told by the engine's
    report where it can load at all. The bundled runtime computes on the CPU, as the
    reference does, unless a `device` is given; vLLM on what it was built for.
    """
    if engine == "vllm":
        from porter.vllm_engine import VllmLLM

        # vLLM reads pickles without the code in them, whether allowed or not.
        ours = ("allow_pickle", "device")
        given = {name: value for name, value in fixed.items() if name not in ours}
        return lambda **options: VllmLLM(port, model_dir, **{**given, **options})
    from porter.runtime.llm import LLM

    always = {"strict": False, **fixed, "device": fixed.get("device") or "cpu"}
    return lambda **options: LLM(port, model_dir, **{**always, **options})


def fitting(
    engine: str, model_class: Any, overrides: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The overrides of a tiny config with the sizes that the engine's kernels ask for."""
    if engine != "vllm":
        return dict(overrides or {})
    from porter.vllm_engine.sizes import fitting_sizes

    return fitting_sizes(model_class.config_class, overrides or {})
