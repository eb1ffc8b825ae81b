"""Generate with a port from one prompt: what `porter run` does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porter.gap import UsageError
from porter.runtime.llm import LLM, SamplingParams

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


@dataclass(frozen=True)
class Generation:
    """text: the new tokens as text, where the folder has a tokenizer, else None."""

    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str | None


def generate(
    port: str | Path,
    model_dir: str | Path,
    *,
    prompt: str | None = None,
    prompt_ids: list[int] | None = None,
    max_tokens: int = 16,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    ignore_eos: bool = False,
    dtype: str = "float32",
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Generation:
    """Run a port on one prompt, given as text or as token ids.

    Ends at an end-of-sequence token of the folder's config unless ignore_eos.
    Raises UsageError when not exactly one prompt is given, a text has no tokenizer,
    or an id is outside the vocabulary, and what LLM raises.
    """
    if (prompt is None) == (prompt_ids is None):
        raise UsageError("give one of --prompt and --prompt-ids")
    model_dir = Path(model_dir)
    tokenizer = _tokenizer(model_dir, trust_remote_code)
    if prompt is not None:
        if tokenizer is None:
            raise UsageError(f"{model_dir}: no tokenizer there; pass --prompt-ids")
        prompt_ids = tokenizer(prompt)["input_ids"]
    assert prompt_ids is not None
    with LLM(
        port,
        model_dir,
        dtype=dtype,
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=pipeline_parallel_size,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    ) as llm:
        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            ignore_eos=ignore_eos,
            stop_token_ids=llm.eos_token_ids,
        )
        output = llm.generate([prompt_ids], params)[0]
    text = None
    if tokenizer is not None:
        text = tokenizer.decode(output.token_ids, skip_special_tokens=True)
    return Generation(prompt_ids, output.token_ids, text)


def _tokenizer(model_dir: Path, trust_remote_code: bool) -> Any:
    """The folder's tokenizer, or None when it has none."""
    if not any((model_dir / name).is_file() for name in _TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(model_dir), trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{model_dir}: can't read its tokenizer: {reason}") from error
