"""The engines that `porter bench` measures, each behind one call: `generate`."""

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from porter.gap import CannotRun


@dataclass(frozen=True)
class Setup:
    """What every engine is given.

    model: folder with a config and, unless load_format is "dummy", weights. device:
    "cpu" or "cuda". max_model_len: tokens of a sequence; None leaves it to the engine.
    """

    port: Path
    model: Path
    trust_remote_code: bool = False
    dtype: str = "float32"
    device: str = "cpu"
    load_format: str = "auto"
    max_model_len: int | None = None


class Engine(Protocol):
    """Greedy generation of exactly counts[i] tokens for prompt i; none stops it."""

    name: str

    def generate(self, prompts: list[list[int]], counts: list[int]) -> list[list[int]]:
        """The new token ids, one list a prompt."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class BundledEngine:
    """The port on the bundled runtime: paged cache, continuous batching."""

    name = "porter"

    def __init__(self, setup: Setup) -> None:
        from porter.runtime.llm import LLM

        self.llm = LLM(
            setup.port,
            setup.model,
            dtype=setup.dtype,
            device=setup.device,
            load_format=setup.load_format,
            max_model_len=setup.max_model_len,
            trust_remote_code=setup.trust_remote_code,
        )

    def generate(self, prompts: list[list[int]], counts: list[int]) -> list[list[int]]:
        from porter.runtime.llm import SamplingParams

        sampling = [SamplingParams(max_tokens=n, ignore_eos=True) for n in counts]
        return [list(out.token_ids) for out in self.llm.generate(prompts, sampling)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.llm.shutdown()


class HuggingFaceEngine:
    """transformers' `generate` on one batch, padded on the left to equal length.

    It makes as many tokens for all prompts as the longest answer has.
    """

    name = "hf"

    def __init__(self, setup: Setup) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        self.device = setup.device
        dtype = getattr(torch, setup.dtype)
        if setup.load_format == "dummy":
            config = AutoConfig.from_pretrained(setup.model)
            with torch.device(setup.device):
                model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        else:
            model = AutoModelForCausalLM.from_pretrained(
                setup.model,
                dtype=dtype,
                trust_remote_code=setup.trust_remote_code,
                use_safetensors=True,
            )
        self.model: Any = model.to(setup.device).eval()

    def generate(self, prompts: list[list[int]], counts: list[int]) -> list[list[int]]:
        import torch
        from transformers import GenerationConfig

        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        greedy = GenerationConfig(
            max_new_tokens=max(counts),
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        with torch.inference_mode():
            out = self.model.generate(
                ids.to(self.device),
                attention_mask=mask.to(self.device),
                generation_config=greedy,
            )
        rows = out[:, longest:].tolist()
        return [row[:n] for row, n in zip(rows, counts, strict=True)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del self.model


class VllmOwnEngine:
    """vLLM's own model of that architecture."""

    name = "vllm-own"

    def __init__(self, setup: Setup) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise CannotRun("vLLM is not installed in this environment")
        if setup.device == "cuda":
            # The classes registered here have to be those that the engine sees.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        import vllm

        self.vllm = vllm
        self.prepare(setup)
        options = {}
        if setup.max_model_len is not None:
            options["max_model_len"] = setup.max_model_len
        self.llm = vllm.LLM(
            str(setup.model),
            skip_tokenizer_init=True,
            dtype=setup.dtype,
            load_format=setup.load_format,
            trust_remote_code=setup.trust_remote_code,
            enable_prefix_caching=False,
            **options,
        )

    def prepare(self, setup: Setup) -> None:
        """What is to be done before the engine is made."""

    def generate(self, prompts: list[list[int]], counts: list[int]) -> list[list[int]]:
        sampling = [
            self.vllm.SamplingParams(
                temperature=0.0, max_tokens=n, ignore_eos=True, detokenize=False
            )
            for n in counts
        ]
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self.llm.generate(asked, sampling, use_tqdm=False)
        return [list(out.outputs[0].token_ids) for out in outputs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del self.llm


class VllmEngine(VllmOwnEngine):
    """The port on an installed vLLM, in place of its own class of that name."""

    name = "vllm"

    def prepare(self, setup: Setup) -> None:
        name = f"porter_bench_{setup.port.stem}"
        spec = importlib.util.spec_from_file_location(name, setup.port)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        for class_name, value in vars(module).items():
            if isinstance(value, type) and hasattr(value, "compute_logits"):
                self.vllm.ModelRegistry.register_model(class_name, value)


ENGINES: dict[str, Callable[[Setup], Engine]] = {
    "porter": BundledEngine,
    "hf": HuggingFaceEngine,
    "vllm": VllmEngine,
    "vllm-own": VllmOwnEngine,
}
