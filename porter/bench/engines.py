"""The engines that `porter bench` measures, each behind one call: `generate`."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

from porter.gap import CannotRun


class Engine(Protocol):
    """Greedy generation of exactly `new_tokens` tokens a prompt; none stops it."""

    name: str

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """The new token ids, one list a prompt."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class BundledEngine:
    """The port on the bundled runtime: paged cache, continuous batching."""

    name = "porter"

    def __init__(self, port: Path, model: Path, trust_remote_code: bool) -> None:
        from porter.runtime.llm import LLM

        self.llm = LLM(port, model, trust_remote_code=trust_remote_code)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        from porter.runtime.llm import SamplingParams

        sampling = SamplingParams(max_tokens=new_tokens, ignore_eos=True)
        return [list(out.token_ids) for out in self.llm.generate(prompts, sampling)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.llm.shutdown()


class HuggingFaceEngine:
    """transformers' `generate` on one batch, padded on the left to equal length."""

    name = "hf"

    def __init__(self, port: Path, model: Path, trust_remote_code: bool) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        ).eval()

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        import torch
        from transformers import GenerationConfig

        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        greedy = GenerationConfig(
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        with torch.inference_mode():
            out = self.model.generate(
                ids, attention_mask=mask, generation_config=greedy
            )
        return out[:, longest:].tolist()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del self.model


class VllmEngine:
    """The port on an installed vLLM, in place of its own class of that name."""

    name = "vllm"

    def __init__(self, port: Path, model: Path, trust_remote_code: bool) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise CannotRun("vLLM is not installed in this environment")
        import vllm

        spec = importlib.util.spec_from_file_location(f"porter_bench_{port.stem}", port)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, value in vars(module).items():
            if isinstance(value, type) and hasattr(value, "compute_logits"):
                vllm.ModelRegistry.register_model(name, value)
        self.vllm = vllm
        self.llm = vllm.LLM(
            str(model),
            skip_tokenizer_init=True,
            dtype="float32",
            trust_remote_code=trust_remote_code,
            enable_prefix_caching=False,
        )

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        sampling = self.vllm.SamplingParams(
            temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
        )
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self.llm.generate(asked, sampling, use_tqdm=False)
        return [list(out.outputs[0].token_ids) for out in outputs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del self.llm


ENGINES: dict[str, Callable[[Path, Path, bool], Engine]] = {
    "porter": BundledEngine,
    "hf": HuggingFaceEngine,
    "vllm": VllmEngine,
}
