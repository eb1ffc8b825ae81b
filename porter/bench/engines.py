"""The engines that `porter bench` can ask: the bundled runtime and HuggingFace."""

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

        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        with torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                pad_token_id=0,
            )
        return out[:, longest:].tolist()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del self.model


ENGINES: dict[str, Callable[[Path, Path, bool], Engine]] = {
    "porter": BundledEngine,
    "hf": HuggingFaceEngine,
}


def open_engine(name: str, port: Path, model: Path, trust_remote_code: bool) -> Engine:
    """Load `model` into the engine. Raises CannotRun for one that isn't supported."""
    if name not in ENGINES:
        raise CannotRun(f"engine {name} can't be measured yet: choose porter or hf")
    return ENGINES[name](port, model, trust_remote_code)
